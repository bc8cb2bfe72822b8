import cv2
import numpy as np
import pytest
import torch
from makers import Listed, bad_files, records
from videos import moving_frames, write_video

from actionkit.contracts import Sampler, Transform, VideoReadError
from actionkit.data.contact_sheet import describe
from actionkit.data.device import on_device
from actionkit.data.look import look
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments, Sliding
from actionkit.data.seeds import mix
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.crops import Crops
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize
from actionkit.data.transforms.stack import FlowStack
from actionkit.errors import RunError


class Short(Sampler):
    """Two views, the second of which has one step."""

    steps, views = 2, 2

    def __call__(self, info, record, rng):
        return np.array([[0, 3], [5, -1]])


class Negative(Transform):
    """Colours of light turned round, at every place."""

    def apply(self, clips, draws):
        return {m: c if c.kind == "flow" else c._replace(x=255 - c.x) for m, c in clips.items()}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("good") / "good.mp4", moving_frames(20, 60, 80))


def stage(sampler=None, *per_batch, size=48, crop=None):
    per_sample = [CropResize(**{"size": size, "scale": (0.4, 0.8), **(crop or {})})]
    return Stage(sampler or Segments(count=4), per_sample, list(per_batch))


def seen(stage, video, train=True, seed=0, views=10):
    return look(stage, Sources(PyAV()), video, train=train, seed=seed, views=views)


def test_a_look_is_what_the_loader_and_the_device_give(tmp_path):
    paths = [
        write_video(tmp_path / f"{i}.mp4", moving_frames(20 + i, 60, 80, seed=i)) for i in range(4)
    ]
    sampler = Segments(count=3, length=4)
    made_of = [DISFlow(length=3, bound=4), FlowStack(length=3)]
    own = stage(sampler, Mirror(), Normalize())
    own.per_sample += made_of
    data = DataModule(
        {"train": Listed(records(paths))}, Sources(PyAV()), own, own, batch=4, workers=0, seed=5
    )
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(2)
    (batch,) = loader
    taken = on_device(batch, own.per_batch, train=True).clips
    for b, index in enumerate(batch.index.tolist()):
        found = seen(own, paths[index], seed=mix(5, 2, index, 0))
        again = Normalize().apply(found.clips, [{}])
        assert set(again) == {"rgb", "flow"}
        for name, shown in again.items():
            torch.testing.assert_close(shown.x, taken[name].x[b], rtol=0, atol=1e-5)
            assert torch.equal(shown.times, taken[name].times[b])
        assert np.array_equal(
            found.indices[:, ::4] / 25, taken["rgb"].times[b].double().round(decimals=6)
        )
        assert set(found.frames) == set(found.indices.flatten().tolist())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(48, 48), (100, 130), (20, 24)])
def test_the_box_cut_out_and_resized_is_the_picture_that_the_network_sees(video, seed, size):
    crop = {"size": size}
    found = seen(stage(Segments(count=2), Mirror(), crop=crop), video, seed=seed)
    (box,) = set(found.boxes[0])
    frame = PyAV().read(video, found.indices[0, :1])[0].permute(1, 2, 0).numpy()
    edges = np.array([box.left, box.right, box.top, box.bottom]) * (80, 80, 60, 60)
    left, right, top, bottom = np.rint(edges).astype(int)
    np.testing.assert_allclose(edges, np.rint(edges), atol=0.3)  # whole pixels are cut out
    part = frame[top:bottom, left:right]
    part = part[:, ::-1] if box.mirrored else part
    small = max(size[0] / part.shape[0], size[1] / part.shape[1]) < 0.5
    method = cv2.INTER_AREA if small else cv2.INTER_LINEAR
    expected = cv2.resize(np.ascontiguousarray(part), size[::-1], interpolation=method)
    shown = (found.clips["rgb"].x[0, 0] * 255).permute(1, 2, 0).numpy()
    assert np.abs(shown - expected).max() <= 1.01


def test_boxes_are_those_drawn_and_evaluation_has_the_centre(video):
    boxes = {seen(stage(), video, seed=seed).boxes[0][0] for seed in range(5)}
    assert len(boxes) == 5
    (box,) = set(seen(stage(), video, train=False).boxes[0])
    assert box[:4] == pytest.approx((0.125, 0, 0.875, 1), abs=1e-4)
    assert not box.mirrored
    one, other = (
        seen(stage(None, Mirror(probability=p)), video, seed=3).boxes[0][0] for p in (0, 1)
    )
    assert (one.mirrored, other.mirrored) == (False, True)
    assert one[:4] == pytest.approx(other[:4], abs=1e-5)


def test_a_box_is_found_whatever_is_done_to_colours(video):
    plain, changed = stage(), stage()
    changed.per_sample.append(Negative())
    one, other = seen(plain, video), seen(changed, video)
    assert one.boxes == other.boxes
    torch.testing.assert_close(one.clips["rgb"].x, 1 - other.clips["rgb"].x)


def test_crops_have_each_their_own_box(video):
    crops = stage(Short(), Crops(size=60, count=3), size=(60, 80))
    found = seen(crops, video, train=False, views=1)
    assert found.views == 6  # of two views
    assert describe(found, 0) == "60x60 at (0, 0) of 80x60"
    assert len(found.boxes) == len(found.clips["rgb"].x) == len(found.places.x) == 1
    found = seen(crops, video, train=False, views=4)
    assert [describe(found, v) for v in range(4)] == [
        f"60x60 at ({x}, 0) of 80x60" for x in (0, 10, 20, 0)
    ]
    assert found.views == 6
    crops.per_batch = [Crops(size=50, count=10, into="steps")]
    found = seen(crops, video, train=False, views=20)
    assert describe(found, 0) == "10 boxes"
    assert [box.mirrored for box in found.boxes[0]] == [False] * 10 + [True] * 10
    assert [box.left * 80 for box in found.boxes[0][::4]] == pytest.approx([0, 0, 15, 30, 30])
    assert [box is None for box in found.boxes[1]] == [False, True] * 10


def test_only_the_views_asked_for_are_read_and_all_indices_are_told(video):
    found = seen(stage(Sliding(length=4, hop=4)), video, train=False, views=2)
    expected = np.arange(20).reshape(5, 4)
    assert np.array_equal(found.indices, expected)
    assert found.clips["rgb"].x.shape == (2, 4, 3, 48, 48)
    assert found.views == 5
    assert set(found.frames) == set(range(8))


def test_padding_has_no_box_and_no_time(video):
    found = seen(stage(Short()), video)
    assert found.indices.tolist() == [[0, 3], [5, -1]]
    assert found.boxes[1][1] is None
    assert found.boxes[1][0] is not None
    assert (found.clips["rgb"].x[1, 1] == 0).all()


def test_a_video_that_cannot_be_read_is_said(tmp_path, video):
    for path in bad_files(tmp_path).values():
        with pytest.raises(VideoReadError, match=path.name):
            seen(stage(), path)
    with pytest.raises(RunError, match=r"good.mp4 \(pyav\)"):  # it opens, but has no such frames
        seen(stage(Beyond()), video, train=False)


class Beyond(Sampler):
    """A frame that no video has."""

    steps, views = 1, 1

    def __call__(self, info, record, rng):
        return np.array([[10_000]])
