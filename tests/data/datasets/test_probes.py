"""The bounds are proved on what is decoded, with PyAV itself rather than our reader."""

import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from actionkit.data.datasets.probes import Probes
from actionkit.data.datasets.probes.appearance_motion import FRAMES, shuffled
from actionkit.data.datasets.probes.video import Picture, write

COLOURS, MOTIONS = ("red", "green", "blue"), ("rise", "fall", "shuffle")
SCENES = {"train": 15, "val": 8}
CHANCE, MARGIN = 1 / 3, 0.12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """split -> decoded frames [scene, colour, motion, FRAMES, H, W, 3] uint8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("probes")))
        return {split: _decode_all(split) for split in SCENES}


@pytest.fixture(scope="module")
def gray(clips):
    """As our flow sees them: [scene, colour, motion, FRAMES, H, W] uint8."""
    return {
        split: np.stack(
            [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in x.reshape(-1, *x.shape[-3:])]
        ).reshape(x.shape[:-1])
        for split, x in clips.items()
    }


@pytest.fixture(scope="module")
def flow(gray):
    """[scene, colour, motion, FRAMES - 1, H, W, 2] float32 pixels."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    return {
        split: np.stack(
            [
                [dis.calc(a, b, None) for a, b in itertools.pairwise(clip)]
                for clip in x.reshape(-1, *x.shape[-3:])
            ]
        ).reshape(*x.shape[:3], FRAMES - 1, *x.shape[-2:], 2)
        for split, x in gray.items()
    }


# ---------------------------------------------------------------- motion is not in a set of frames


def test_frames_of_all_motions_are_the_same_set_bit_by_bit(clips):
    for scene in clips["val"]:
        for colour in scene:
            rise, *others = ([frame.tobytes() for frame in clip] for clip in colour)
            assert len(set(rise)) == FRAMES  # so that the matching is one to one
            assert others[0] == rise[::-1]
            assert sorted(others[1]) == sorted(rise)
            assert others[1] not in (rise, rise[::-1])


@pytest.mark.parametrize("segments", [3, 6, 12])
def test_segments_of_all_motions_hold_the_same_sets(clips, segments):
    for colour in clips["val"].reshape(-1, *clips["val"].shape[2:]):
        sets = [
            {frozenset(f.tobytes() for f in part) for part in np.split(clip, segments)}
            for clip in colour
        ]
        assert sets[0] == sets[1] == sets[2]


def test_shuffling_goes_back_and_forth():
    rng = np.random.default_rng(0)
    orders = np.stack([shuffled(rng) for _ in range(50)])
    assert (np.sort(orders) == np.arange(FRAMES)).all()
    steps = np.sign(np.diff(orders.reshape(50, 6, 4)))
    assert (steps[..., :-1] == -steps[..., 1:]).all()  # within each four
    assert (steps.sum((1, 2)) == 0).all()  # as often up as down
    assert len(np.unique(orders, axis=0)) > 40


def test_classifier_of_frame_sets_knows_the_colour_but_not_the_motion(clips):
    rng = np.random.default_rng(0)
    features = {split: _set_features(x, rng) for split, x in clips.items()}
    assert _accuracy(features, "colour") > 0.95
    assert _accuracy(features, "motion") < CHANCE + MARGIN


# ---------------------------------------------------------------- colour is not in gray nor in flow


def test_gray_frames_of_all_colours_are_equal_but_for_rounding(clips, gray):
    difference = np.ptp(gray["val"].astype(int), axis=1)
    assert difference.max() <= 1
    assert difference.mean() < 0.1
    between_frames = np.abs(np.diff(gray["val"].astype(int), axis=3))
    assert between_frames.max() > 30  # the scale against which 1 is nothing
    assert clips["val"].min() > 0  # the reason: no channel of RGB clips
    assert clips["val"].max() < 255


def test_luma_of_all_colours_is_equal_bit_by_bit():
    dataset = _prepared("val", val_scenes=2)
    for scene in range(2):
        for motion in MOTIONS:
            lumas = [_luma(dataset, scene, f"{colour}_{motion}") for colour in COLOURS]
            np.testing.assert_array_equal(lumas[0], lumas[1])
            np.testing.assert_array_equal(lumas[0], lumas[2])


def test_classifier_of_flow_knows_the_motion_but_not_the_colour(flow):
    features = {split: _flow_features(x) for split, x in flow.items()}
    assert _accuracy(features, "motion") > 0.95
    assert _accuracy(features, "colour") < CHANCE + MARGIN


def test_classifier_of_gray_frames_does_not_know_the_colour(clips, gray):
    assert _accuracy({s: _histograms(x[..., None]) for s, x in gray.items()}, "colour") < (
        CHANCE + MARGIN
    )
    assert _accuracy({s: _histograms(x) for s, x in clips.items()}, "colour") > 0.95


def test_rise_goes_up_and_fall_goes_down(flow):
    down = flow["val"][..., 1]  # y of a picture grows downwards
    down = down * (np.abs(down) > 0.5)
    assert (down[:, :, 0].mean((2, 3, 4)) < -0.02).all()
    assert (down[:, :, 1].mean((2, 3, 4)) > 0.02).all()


# ------------------------------------------------------------------------------------ the data set


def test_classes_and_records(cache):
    dataset = Probes("val", val_scenes=2)
    assert dataset.classes == [f"{c}_{m}" for c in COLOURS for m in MOTIONS]
    assert len(dataset) == 18
    targets = [dataset[i].target for i in range(18)]
    assert targets == [*range(9), *range(9)]
    last = dataset[-1]
    assert last.id == "val/0001/blue_shuffle"
    assert last.group == "val/0001"
    assert last.sources["rgb"].parts[-3:] == ("val", "0001", "blue_shuffle.mp4")
    with pytest.raises(IndexError):
        dataset[18]
    assert pickle.loads(pickle.dumps(dataset))[3] == dataset[3]
    assert list(cache.iterdir()) == []  # nothing so far has touched the disk


def test_splits_have_scenes_of_their_own_and_test_is_val(clips):
    train, val = Probes("train"), Probes("val")
    assert (len(train), len(val)) == (324, 108)
    assert not {r.sources["rgb"] for r in train} & {r.sources["rgb"] for r in val}
    assert list(Probes("test")) == list(val)
    frames = {s: {f.tobytes() for f in x.reshape(-1, *x.shape[-3:])} for s, x in clips.items()}
    assert not frames["train"] & frames["val"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "dev"}, "has the splits train, val, test, but not 'dev'"),
        ({"kind": "colour"}, "has the kinds appearance_motion, order, actor, but not 'colour'"),
        ({"train_scenes": 0}, "needs at least 1 scene per split, but gets train_scenes 0"),
        ({"size": 63}, "needs an even size of at least 32 pixels, but gets 63"),
        ({"size": 16}, "needs an even size of at least 32 pixels, but gets 16"),
        ({"seed": -1}, "needs a seed of at least 0, but gets -1"),
    ],
)
def test_refusals(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Probes(**{"split": "train", **options})


def test_video_is_what_it_says():
    record = _prepared("val", val_scenes=1, size=48)[0]
    with av.open(str(record.sources["rgb"])) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 12)
    assert len(frames) == FRAMES
    assert {(f.width, f.height, f.format.name) for f in frames} == {(48, 48, "yuvj420p")}
    assert [f.time for f in frames] == pytest.approx([k / 12 for k in range(FRAMES)])


# -------------------------------------------------------------------------------------- the cache


def test_bytes_are_decided_by_the_parameters(monkeypatch, tmp_path):
    first = _bytes(_prepared("val", val_scenes=2))
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "elsewhere"))
    second = _bytes(_prepared("val", val_scenes=2))
    assert first == second
    assert len(set(first)) == len(first)


def test_another_parameter_renders_elsewhere():
    one, other = _prepared("val", val_scenes=1), _prepared("val", val_scenes=1, seed=1)
    assert not {r.sources["rgb"] for r in one} & {r.sources["rgb"] for r in other}
    assert not set(_bytes(one)) & set(_bytes(other))
    small = Probes("val", val_scenes=1, size=32)
    assert small[0].sources["rgb"] not in {one[0].sources["rgb"], other[0].sources["rgb"]}


def test_preparing_again_renders_only_what_is_missing(capsys):
    dataset = _prepared("val", val_scenes=2)
    before, content = _stamps(dataset), _bytes(dataset)
    dataset[7].sources["rgb"].unlink()
    capsys.readouterr()
    dataset.prepare()
    after = _stamps(dataset)
    assert "rendering" in capsys.readouterr().err
    assert _bytes(dataset) == content
    assert [i for i in range(18) if after[i] != before[i]] == [7]
    dataset.prepare()
    assert _stamps(dataset) == after
    assert capsys.readouterr().err == ""


def test_more_scenes_keep_those_that_are_there():
    before = _stamps(_prepared("val", val_scenes=1))
    assert _stamps(_prepared("val", val_scenes=2))[:9] == before


def test_killed_rendering_leaves_whole_files_and_is_completed(cache):
    deadly = (
        "import os; from actionkit.data.datasets.probes import video\n"
        "replace, left = os.replace, list(range(12))\n"
        "video.os.replace = lambda *n: replace(*n) if left and [left.pop()] else os._exit(9)"
    )
    assert _start(scenes=3, before=deadly).wait(60) == 9
    assert len(list(cache.rglob("*.part"))) == 1  # it died at its thirteenth file
    dataset = Probes("val", val_scenes=3)
    assert [record.sources["rgb"].exists() for record in dataset] == [True] * 12 + [False] * 15
    stamps = _stamps(dataset)
    dataset.prepare()
    assert _stamps(dataset)[:12] == stamps
    assert {len(_decode(record.sources["rgb"])) for record in dataset} == {FRAMES}


def test_failed_writing_leaves_nothing(tmp_path):
    plane = np.zeros((32, 32), np.uint8)
    wrong = Picture(plane, plane[:16, :16], plane[:16, :8])
    good = Picture(plane, plane[:16, :16], plane[:16, :16])
    with pytest.raises(ValueError, match="Unexpected numpy array shape"):
        write(tmp_path / "x" / "clip.mp4", [good, wrong], fps=12)
    assert list((tmp_path / "x").iterdir()) == []


def test_two_processes_at_once_both_end_with_all_files(monkeypatch, tmp_path):
    processes = [_start(scenes=8) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    dataset = Probes("val", val_scenes=8)
    together = _bytes(dataset)
    assert list(tmp_path.rglob("*.part")) == []
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "alone"))
    assert together == _bytes(_prepared("val", val_scenes=8))


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"ACTIONKIT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/probes"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/actionkit/probes"),
        ({"HOME": "/c"}, "/c/.cache/actionkit/probes"),
    ],
)
def test_place_of_the_cache(monkeypatch, variables, folder):
    for name in ("ACTIONKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Path(folder) in Probes("train")[0].sources["rgb"].parents


# ----------------------------------------------------------------------------------------- helpers


def _prepared(split, **options):
    dataset = Probes(split, **options)
    dataset.prepare()
    return dataset


def _start(scenes, before=""):
    code = (
        f"{before}\nfrom actionkit.data.datasets.probes import Probes\n"
        f"Probes('val', val_scenes={scenes}).prepare()"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def _bytes(dataset):
    return [record.sources["rgb"].read_bytes() for record in dataset]


def _stamps(dataset):
    """Times of change of the files that are there."""
    paths = [record.sources["rgb"] for record in dataset]
    return [path.stat().st_mtime_ns for path in paths if path.exists()]


def _decode(path, layout="rgb24"):
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # a third of the time
        return np.stack([f.to_ndarray(format=layout) for f in container.decode(video=0)])


def _decode_all(split):
    dataset = _prepared(split, train_scenes=SCENES["train"], val_scenes=SCENES["val"])
    frames = np.stack([_decode(record.sources["rgb"]) for record in dataset])
    return frames.reshape(SCENES[split], len(COLOURS), len(MOTIONS), *frames.shape[1:])


def _luma(dataset, scene, name):
    path = dataset[scene * 9 + dataset.classes.index(name)].sources["rgb"]
    return _decode(path, "yuv420p")[:, :64]


def _set_features(clips, rng):
    """Order-free numbers of a random frame from each of 6 segments: colours, heights, spread."""
    offsets = rng.integers(4, size=(*clips.shape[:3], 6)) + 4 * np.arange(6)
    frames = np.take_along_axis(clips, offsets[..., None, None, None], 3).astype(np.float32)
    mean, spread = frames.mean(3), frames.std(3)
    return np.concatenate(
        [
            x.reshape(*x.shape[:3], -1)
            for x in (mean.mean((3, 4)), spread.mean((3, 4)), mean.mean(4), spread.mean(4))
        ],
        -1,
    )


def _flow_features(flow):
    """Histogram of each component of the flow, and how it changes from one field to the next."""
    bins = np.concatenate([[-99], np.linspace(-5, 5, 21), [99]])
    change = np.abs(np.diff(flow, axis=3)).mean((3, 4, 5))
    counts = [_count(flow[..., axis], bins) for axis in range(2)]
    return np.concatenate([*counts, change], -1)


def _histograms(frames):
    """One bin per level and channel."""
    bins = np.arange(257)
    return np.concatenate([_count(frames[..., c], bins) for c in range(frames.shape[-1])], -1)


def _count(values, bins):
    flat = values.reshape(*values.shape[:3], -1)
    return np.log1p(np.apply_along_axis(lambda row: np.histogram(row, bins)[0], -1, flat))


def _accuracy(features, factor):
    """Of ridge regression on standardised features, trained on train, on the scenes of val."""
    x, y = zip(*(_table(features[split], factor) for split in ("train", "val")), strict=True)
    centre, scale = x[0].mean(0), x[0].std(0) + 1e-6
    train, val = ((part - centre) / scale for part in x)
    gram = train @ train.T + 0.1 * train.shape[1] * np.eye(len(train))
    weights = train.T @ np.linalg.solve(gram, np.eye(3)[y[0]] - CHANCE)
    return ((val @ weights).argmax(1) == y[1]).mean()


def _table(features, factor):
    labels = np.indices(features.shape[:3])[1 if factor == "colour" else 2]
    return features.reshape(-1, features.shape[-1]).astype(np.float64), labels.ravel()
