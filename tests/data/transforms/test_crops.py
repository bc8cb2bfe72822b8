import numpy as np
import pytest
import torch
from makers import Listed, clip, good_files, loader, records, sample, system, trainer
from torch.utils.data import default_collate

from actionkit.contracts import Clip, Sample, Shape
from actionkit.data.collate import collate
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.crops import Crops
from actionkit.data.transforms.normalize import Normalize
from actionkit.tasks.recognition import Recognition


def clips(views=2, steps=3, height=9, width=12, dtype=torch.uint8):
    """A batch of two samples, x [2, V, T, C, H, W]; the last one's last step is padding."""
    made = {}
    for seed, (kind, channels) in enumerate((("rgb", 3), ("flow", 4), ("gray", 1))):
        size = (channels, height, width)
        pair = [
            clip(views, steps, size, seed=10 * seed + b, kind=kind, real=steps - b) for b in (0, 1)
        ]
        made[kind] = Clip(*(default_collate([getattr(c, f) for c in pair]) for f in FIELDS), kind)
        made[kind] = made[kind]._replace(x=made[kind].x.to(dtype))
    return made


FIELDS = ("x", "mask", "times")


def mirrored(x, kind):
    """The mirror image, channel by channel; x [..., C, h, w]."""
    x = x.flip(-1)
    if kind == "flow":
        dx = [255 - x[..., c, :, :] if x.dtype == torch.uint8 else -x[..., c, :, :] for c in (0, 2)]
        x = torch.stack([dx[0], x[..., 1, :, :], dx[1], x[..., 3, :, :]], -3)
    return x


def naive(x, kind, count, h, w):
    """Crops of one clip [T, C, H, W] in turn."""
    bottom, right = x.shape[-2] - h, x.shape[-1] - w
    centre = (bottom // 2, right // 2)
    places = {
        1: [centre],
        3: [(centre[0], 0), centre, (centre[0], right)],
        10: [(0, 0), (0, right), (bottom, 0), (bottom, right), centre],
    }[count]
    crops = [x[..., top : top + h, left : left + w] for top, left in places]
    return crops + ([mirrored(crop, kind) for crop in crops] if count == 10 else [])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_views_are_the_crops_of_each_view(count, dtype):
    given = clips(dtype=dtype)
    before = {name: c.x.clone() for name, c in given.items()}
    out = Crops(size=(5, 7), count=count).apply(given, [{}, {}])
    for name, c in out.items():
        assert c.x.shape == (2, 2 * count, 3, given[name].x.shape[3], 5, 7)
        assert c.x.dtype == dtype
        assert c.kind == given[name].kind
        for b in range(2):
            for v in range(2):
                for k, expected in enumerate(naive(given[name].x[b, v], c.kind, count, 5, 7)):
                    row = v * count + k
                    assert torch.equal(c.x[b, row], expected)
                    assert torch.equal(c.mask[b, row], given[name].mask[b, v])
                    times = given[name].times[b, v]
                    torch.testing.assert_close(c.times[b, row], times, equal_nan=True)
        assert torch.equal(given[name].x, before[name])


@pytest.mark.parametrize("count", [1, 3, 10])
def test_steps_of_one_crop_stay_together(count):
    given = clips()
    views = Crops(size=(5, 7), count=count).apply(given, [{}, {}])
    steps = Crops(size=(5, 7), count=count, into="steps").apply(given, [{}, {}])
    for name, c in steps.items():
        assert c.x.shape == (2, 2, count * 3, given[name].x.shape[3], 5, 7)
        for field in FIELDS:
            ours, theirs = getattr(c, field), getattr(views[name], field)
            theirs = theirs.unflatten(1, (2, count)).flatten(2, 3)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_three_crops_of_portrait_frames_go_from_top_to_bottom():
    given = {"rgb": clips(height=12, width=9)["rgb"]}
    out = Crops(size=9, count=3).apply(given, [{}, {}])["rgb"].x
    for k, top in enumerate((0, 1, 3)):
        assert torch.equal(out[:, k::3], given["rgb"].x[..., top : top + 9, :])


def test_three_crops_of_the_short_side_see_every_pixel():
    x = torch.arange(6 * 16, dtype=torch.float32).view(1, 1, 1, 1, 6, 16)
    one = Clip(x, torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1), "gray")
    out = Crops(size=6, count=3).apply({"gray": one}, [{}])["gray"].x
    assert set(out.flatten().tolist()) == set(x.flatten().tolist())


def test_what_has_no_picture_is_repeated():
    given = clips()
    score = given["gray"]._replace(x=torch.rand(2, 2, 3, 4, 1, 1), kind="score")
    pose = given["gray"]._replace(x=torch.rand(2, 2, 3, 4, 17, 1), kind="pose")
    vector = given["gray"]._replace(x=torch.rand(2, 2, 3, 4, 1, 1), kind="rgb")
    others = {"score": score, "pose": pose, "vector": vector}
    out = Crops(size=5).apply({**given, **others}, [{}, {}])
    for name, other in others.items():
        assert torch.equal(out[name].x, other.x.repeat_interleave(10, 1))
        assert out[name].mask.shape == out["rgb"].mask.shape


def test_memory_stays_channels_last():
    x = Crops(size=5).apply(clips(), [{}, {}])["rgb"].x
    assert x.movedim(-3, -1).is_contiguous()


def test_training_gives_all_crops_too():
    transform, given = Crops(size=5), clips()
    drawn = [transform.draw(np.random.default_rng(b)) for b in range(2)]
    ours, theirs = transform.apply(given, drawn), transform.apply(given, [transform.draw(None)] * 2)
    assert torch.equal(ours["rgb"].x, theirs["rgb"].x)


# ------------------------------------------------------------------------ through the task


def evaluated(task, samples, folder, batch=2):
    parts = [collate(samples[i : i + batch]) for i in range(0, len(samples), batch)]
    trainer(folder).validate(task, loader(parts), verbose=False)
    return task.results


def crop_of(one, k):
    """Sample `one` cut to its k-th crop beforehand."""
    rgb = one.clips["rgb"]
    x = torch.stack([naive(v, "rgb", 10, 6, 8)[k] for v in rgb.x])
    return one._replace(clips={"rgb": rgb._replace(x=x)})


def test_ten_crops_score_as_the_mean_of_ten_single_passes(tmp_path):
    samples = [sample(i, rgb=clip(2, 3, (3, 10, 13), seed=i, real=3 - i % 2)) for i in range(4)]
    made = system(eval_transforms=[Crops(size=(6, 8)), Normalize()])
    whole = evaluated(Recognition(made), samples, tmp_path)
    made.eval_transforms = [Normalize()]
    singles = [
        evaluated(Recognition(made), [crop_of(one, k) for one in samples], tmp_path).scores
        for k in range(10)
    ]
    assert whole.ids == [one.id for one in samples]
    mean = torch.stack([single["scores"].double() for single in singles]).mean(0)
    torch.testing.assert_close(whole.scores["scores"].double(), mean, rtol=0, atol=1e-6)
    assert (singles[0]["scores"] - mean).abs().max() > 1e-4  # crops do differ


def test_crops_of_a_video_in_several_items_are_averaged_together(tmp_path):
    """Views of one video, two an item, with a last item of one view beside padding."""
    one = sample(0, rgb=clip(3, 2, (3, 10, 13), seed=5))
    parts: list[Sample] = []
    for views in (slice(0, 2), slice(2, 3)):
        x, mask, times, kind = one.clips["rgb"]
        parts.append(one._replace(clips={"rgb": Clip(x[views], mask[views], times[views], kind)}))
    made = system(eval_transforms=[Crops(size=(6, 8)), Normalize()])
    together = evaluated(Recognition(made), [one], tmp_path).scores["scores"]
    apart = evaluated(Recognition(made), parts, tmp_path, batch=2).scores["scores"]
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-6)


def test_from_files_to_scores_frames_are_read_once_for_all_crops(tmp_path):
    listed = Listed(records(good_files(tmp_path, 2)))
    size = CropResize(size=(32, 40))
    crops = Stage(Dense(length=4, clips=3), [size], [Crops(size=24), Normalize()])
    data = DataModule(
        {"val": listed}, Sources(PyAV()), crops, crops, batch=4, workers=0, views_per_item=2
    )
    task = Recognition(system(eval_transforms=crops.per_batch))
    batches = list(data.eval_dataloader("val"))
    assert {b.clips["rgb"].x.shape[1:] for b in batches} <= {(2, 4, 3, 32, 40), (1, 4, 3, 32, 40)}
    trainer(tmp_path).validate(task, loader(batches), verbose=False)
    ten = task.results.scores["scores"]
    views = {r.id: [] for r in listed.records}
    for b in batches:
        for row, name in enumerate(b.id):
            for v in range(b.clips["rgb"].x.shape[1]):
                if b.clips["rgb"].mask[row, v].any():
                    views[name].append(b.clips["rgb"].x[row, v])
    for i, name in enumerate(task.results.ids):
        assert len(views[name]) == 3
        assert ten[i].sum() == pytest.approx(1, abs=1e-5)
        cut = [crop for view in views[name] for crop in naive(view, "rgb", 10, 24, 24)]
        one = Clip(
            torch.stack(cut)[None], torch.ones(1, 30, 4).bool(), torch.zeros(1, 30, 4), "rgb"
        )
        output = task.network(Normalize().apply({"rgb": one}, [{}]))["scores"]
        expected = output.x.flatten(3).softmax(-1).mean((1, 2))[0]
        torch.testing.assert_close(ten[i], expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------- shapes


def test_out_says_what_apply_leaves():
    for into in ("views", "steps"):
        given, transform = clips(), Crops(size=(5, 7), count=3, into=into)
        promised = transform.out({n: Shape(*c.x.shape[2:]) for n, c in given.items()})
        left = transform.apply(given, [{}, {}])
        assert promised == {n: Shape(*c.x.shape[2:]) for n, c in left.items()}


def test_out_of_vectors_and_of_what_varies():
    shapes = {"rgb": Shape(None, 3, 9, 12), "score": Shape(4, 7, 1, 1)}
    assert Crops(size=5, into="steps").out(shapes) == {
        "rgb": Shape(None, 3, 5, 5),
        "score": Shape(40, 7, 1, 1),
    }


def test_refuses_frames_smaller_than_its_crops():
    sentence = r"^cuts crops of 10x10 pixels, but gets frames of 9x12; give crop_resize a larger"
    with pytest.raises(ValueError, match=sentence):
        Crops(size=10).out({"rgb": Shape(4, 3, 9, 12)})
    with pytest.raises(ValueError, match=sentence):
        Crops(size=10).apply(clips(), [{}, {}])


def test_refuses_pictures_of_two_sizes():
    sentence = (
        r"^cuts all pictures alike, but they are of 9x12 \(rgb\) and 8x12 \(flow\) pixels; let "
        r"crop_resize bring 'flow' to the size of the others$"
    )
    with pytest.raises(ValueError, match=sentence):
        Crops(size=5).out({"rgb": Shape(4, 3, 9, 12), "flow": Shape(4, 2, 8, 12)})


def test_refuses_a_size_of_nothing():
    with pytest.raises(ValueError, match=r"^takes a size of at least 1 pixel, but gets \(0, 5\)$"):
        Crops(size=(0, 5))
