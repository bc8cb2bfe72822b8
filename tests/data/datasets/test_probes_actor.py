"""Only colour where motion is tells the class: proved on what is decoded, with PyAV itself."""

import itertools
import pickle

import av
import cv2
import numpy as np
import pytest

from actionkit.data.datasets.probes import Probes, actor
from actionkit.data.datasets.probes.actor import CELLS, CLASSES, FPS, FRAMES, HUES

SCENES = {"train": 36, "val": 16}
SIZE = 64
CHANCE, MARGIN = 1 / 4, 0.1


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """split -> decoded frames [scene, class, FRAMES, H, W, 3] uint8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("probes")))
        return {split: decode_all(split) for split in SCENES}


@pytest.fixture(scope="module")
def flow(clips):
    """Of every fourth frame: [scene, class, FRAMES / 4, H, W, 2] float32 pixels to the next one."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    found = {}
    for split, x in clips.items():
        gray = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in x.reshape(-1, *x.shape[-3:])]
        pairs = list(itertools.pairwise(gray))[::4]  # never the last frame of a clip
        fields = [dis.calc(a, b, None) for a, b in pairs]
        found[split] = np.reshape(fields, (*x.shape[:2], FRAMES // 4, SIZE, SIZE, 2))
    return found


@pytest.fixture(scope="module")
def places():
    """split -> masks of the actor's box [scene, FRAMES, H, W] bool, at pixels' centres."""
    return {
        s: np.stack([masks(dataset(s)[4 * scene]) for scene in range(SCENES[s])]) for s in SCENES
    }


# ------------------------------------------------------------------- a frame does not tell who acts


def test_every_frame_shows_all_colours_alike(clips):
    """Each colour covers as much of the frame, in all classes."""
    for split in SCENES:
        areas = by_hue(clips[split]).sum((-2, -1))  # [scene, class, FRAMES, hue]
        assert (areas.min(-1) > 0.5 * areas.max(-1)).all()  # a pixel of chroma is four of these
        assert areas.mean((0, 1, 2)) / areas.mean() == pytest.approx(1, rel=0.02)


def test_classifier_of_frames_does_not_know_the_actor(clips):
    small = {s: x.reshape(*x.shape[:3], 8, 8, 8, 8, 3).mean((4, 6)) for s, x in clips.items()}
    frames = {s: x.reshape(*x.shape[:3], -1) for s, x in small.items()}
    assert accuracy(frames) < CHANCE + MARGIN


def test_places_of_a_frame_do_not_tell_who_is_off_the_middle_of_a_circle(clips):
    """Offsets of each colour from the middle of its cell, and their squares."""
    found = {}
    for split, x in clips.items():
        centres = centroids(by_hue(x))  # [scene, class, FRAMES, hue, x y]
        offset = CELLS * centres % 1 - 0.5
        squares = (offset**2).sum(-1, keepdims=True)
        found[split] = np.concatenate([offset, squares], -1).reshape(*x.shape[:3], -1)
    assert accuracy(found) < CHANCE + MARGIN


# -------------------------------------------------------------------- nor does flow tell its colour


def test_luma_of_all_classes_is_equal_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    found = prepared("val", val_scenes=2)
    for scene in range(2):
        paths = [found[4 * scene + k].sources["rgb"] for k in range(4)]
        first, *others = (decode(path, "yuv420p")[:, :SIZE] for path in paths)
        assert all((other == first).all() for other in others)


def test_gray_frames_of_all_classes_are_equal_but_for_rounding(clips):
    for x in clips.values():
        assert x.min() > 0  # no channel of RGB clips
        assert x.max() < 255
    gray = clips["val"] @ np.array([0.299, 0.587, 0.114])
    assert np.ptp(gray, axis=1).max() < 1.5


def test_classifier_of_flow_does_not_know_the_colour(flow):
    coarse = {s: x.reshape(*x.shape[:3], 8, 8, 8, 8, 2).mean((4, 6)) for s, x in flow.items()}
    fields = {s: x.reshape(*x.shape[:3], -1) for s, x in coarse.items()}
    assert accuracy(fields) < CHANCE + MARGIN


# ------------------------------------------------------------------- but colour where flow is tells


def test_classifier_of_colours_where_flow_is_knows_the_class(clips, flow):
    found = {}
    for split, x in clips.items():
        weight = (flow[split] ** 2).sum(-1)[..., None]
        colours = (weight * x[:, :, ::4]).sum((3, 4)) / weight.sum((3, 4))
        found[split] = colours - colours.mean(-1, keepdims=True)
    assert accuracy(found) > 0.9


def test_flow_is_in_the_box(flow, places):
    for split, fields in flow.items():
        size = np.linalg.norm(fields, axis=-1).mean(1)
        inside = places[split][:, ::4]
        assert size[inside].mean() > 10 * size[~inside].mean()


# ---------------------------------------------------------------------------------------- the boxes


def test_nothing_moves_out_of_the_box():
    for scene in range(8):
        record = dataset("val")[4 * scene]
        moves = masks(record, spare=2).any(0)  # chroma has half the resolution
        for _, pictures in actor.render(rng_of("val", scene), SIZE):
            for plane in zip(*pictures, strict=True):
                still = ~moves if plane[0].shape[0] == SIZE else ~moves[::2, ::2]
                assert np.ptp(np.stack(plane), axis=0)[still].max() == 0
        assert moves.mean() < 0.2


def test_the_box_holds_the_colour_of_the_class_and_is_tight(clips, places):
    for split, x in clips.items():
        wide = [
            masks(record, spare=2) for record in list(dataset(split))[::4]
        ]  # as chroma is coarse
        for scene, inside, around in zip(x, places[split], wide, strict=True):
            seen = by_hue(scene)  # [class, FRAMES, hue, H, W]
            own = np.stack([seen[k, :, k] for k in range(len(CLASSES))])
            assert not (own & ~around).any()
            assert not ((seen.any(2) & ~own) & inside).any()
            for axis in (-1, -2):
                spare = inside.any(axis).sum(-1) - own.any(axis).sum(-1)  # rows, columns
                assert spare.max() <= 6
                assert spare.mean() < 4


def test_the_actor_goes_round_and_stays_in_its_cell():
    for record in dataset("train"):
        boxes = np.array(record.boxes)
        assert boxes[:, 0] == pytest.approx(np.arange(FRAMES) / FPS)
        assert boxes[:, 1:].min() >= 0
        assert boxes[:, 1:].max() <= 1
        centres = (boxes[:, 1:3] + boxes[:, 3:]) / 2
        assert np.ptp(boxes[:, 3:] - boxes[:, 1:3], axis=0).max() < 1e-9
        assert centres[:12] == pytest.approx(centres[12:])  # two turns
        ways = np.linalg.norm(np.diff(centres, axis=0), axis=1) * SIZE
        assert np.ptp(ways) < 1e-6
        assert 1.2 < ways[0] < 2.0
        assert (np.floor(CELLS * centres) == np.floor(CELLS * centres[0])).all()


@pytest.mark.parametrize("size", [32, 96])
def test_boxes_are_where_they_are_at_every_size(size):
    pairs = zip(
        dataset("val")[0].boxes, Probes("val", kind="actor", size=size)[0].boxes, strict=True
    )
    for box, other in pairs:
        assert box == pytest.approx(other, abs=1 / 32)  # faded edges are pixels at any size


# ------------------------------------------------------------------------------------- the data set


def test_classes_and_records(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    found = Probes("val", kind="actor", val_scenes=2)
    assert found.classes == list(HUES) == ["red", "lime", "cyan", "violet"]
    assert [record.target for record in found] == [*range(4), *range(4)]
    assert found[5].id == "val/0001/lime"
    assert found[4].boxes == found[7].boxes != found[0].boxes
    assert len(found[0].boxes) == FRAMES
    assert pickle.loads(pickle.dumps(found))[3] == found[3]
    assert list(tmp_path.iterdir()) == []  # nothing so far has touched the disk


@pytest.mark.parametrize("kind", ["appearance_motion", "order"])
def test_other_kinds_have_no_boxes(kind):
    assert Probes("val", kind=kind)[0].boxes == ()


def test_video_is_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    for record in prepared("val", val_scenes=1, size=48):
        with av.open(str(record.sources["rgb"])) as container:
            assert container.streams.video[0].average_rate == FPS
        assert decode(record.sources["rgb"]).shape == (FRAMES, 48, 48, 3)


def test_scenes_differ_within_and_between_splits(clips):
    first = [scene[0, 0].tobytes() for x in clips.values() for scene in x]
    assert len(set(first)) == sum(SCENES.values())


# ------------------------------------------------------------------------------------------ helpers


def dataset(split, **options):
    scenes = {f"{name}_scenes": count for name, count in SCENES.items()}
    return Probes(split, kind="actor", **{**scenes, **options})


def prepared(split, **options):
    found = dataset(split, **options)
    found.prepare()
    return found


def rng_of(split, scene):
    return np.random.default_rng((0, int(split == "val"), scene))


def decode(path, layout="rgb24"):
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # a third of the time
        return np.stack([f.to_ndarray(format=layout) for f in container.decode(video=0)])


def decode_all(split):
    frames = np.stack([decode(record.sources["rgb"]) for record in prepared(split)])
    return frames.reshape(SCENES[split], len(CLASSES), *frames.shape[1:])


def masks(record, spare=0):
    """The pixels of the box in each frame, and `spare` more on each side: [FRAMES, H, W] bool."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    _, x1, y1, x2, y2 = SIZE * np.array(record.boxes).T[:, :, None, None]
    wide = (x1 - spare <= x) & (x <= x2 + spare)
    return wide & (y1 - spare <= y) & (y <= y2 + spare)


def by_hue(frames):
    """Where each hue is seen, [..., hue, H, W] bool of frames [..., H, W, 3] uint8."""
    r, g, b = np.moveaxis(frames.astype(np.float32), -1, 0)
    cb, cr = -0.1687 * r - 0.3313 * g + 0.5 * b, 0.5 * r - 0.4187 * g - 0.0813 * b
    hue, strong = np.rad2deg(np.arctan2(cr, cb)), np.hypot(cb, cr) > 20
    off = [np.abs((hue - own + 180) % 360 - 180) for own in HUES.values()]
    return np.stack([strong & (o < 45) for o in off], -3)


def centroids(seen):
    """Centres [..., x y] in fractions of masks [..., H, W]."""
    at = (np.arange(SIZE) + 0.5) / SIZE
    area = seen.sum((-2, -1))
    return np.stack([(seen.sum(-2) * at).sum(-1) / area, (seen.sum(-1) * at).sum(-1) / area], -1)


def accuracy(features):
    """Of ridge regression of the class, trained on train, on val.

    Features are [scene, class, frame, N]; every frame is a row.
    """
    x = {s: f.reshape(-1, f.shape[-1]).astype(np.float64) for s, f in features.items()}
    y = {s: np.indices(f.shape[:3])[1].ravel() for s, f in features.items()}
    centre, scale = x["train"].mean(0), x["train"].std(0) + 1e-6
    train, val = ((x[s] - centre) / scale for s in ("train", "val"))
    gram = train.T @ train + 0.1 * len(train) * np.eye(train.shape[1])
    weights = np.linalg.solve(gram, train.T @ (np.eye(len(CLASSES))[y["train"]] - CHANCE))
    return ((val @ weights).argmax(1) == y["val"]).mean()
