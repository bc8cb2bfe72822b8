"""Only the order of events tells the class: proved on what is decoded, with PyAV itself."""

import itertools

import av
import cv2
import numpy as np
import pytest

from actionkit.contracts import Info, Record
from actionkit.data.datasets.probes import Probes
from actionkit.data.datasets.probes.order import EVENT, EVENTS, FRAMES
from actionkit.data.samplers import Segments

ORDERS = list(itertools.permutations(EVENTS))
SCENES = {"train": 16, "val": 6}
CHANCE, MARGIN = 1 / 6, 0.1


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """split -> decoded frames [scene, order, FRAMES, H, W, 3] uint8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("probes")))
        return {split: decode_all(split) for split in SCENES}


@pytest.fixture(scope="module")
def flow(clips):
    """[scene, order, FRAMES - 1, H, W, 2] float32 pixels."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    found = {}
    for split, x in clips.items():
        gray = [[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in c] for s in x for c in s]
        fields = [[dis.calc(a, b, None) for a, b in itertools.pairwise(clip)] for clip in gray]
        found[split] = np.reshape(fields, (*x.shape[:2], FRAMES - 1, *x.shape[3:5], 2))
    return found


# ------------------------------------------------------------------- order is in no set of anything


def test_frames_of_all_orders_are_the_same_set_bit_by_bit(clips):
    for scene in clips["val"]:
        first, *others = (sorted(frame.tobytes() for frame in clip) for clip in scene)
        assert all(other == first for other in others)
        assert len(set(first)) == 10  # the rest, and three heights of each event


def test_flow_of_all_orders_is_the_same_set_bit_by_bit(flow):
    for scene in flow["val"]:
        first, *others = (sorted(field.tobytes() for field in clip) for clip in scene)
        assert all(other == first for other in others)
        assert len({clip.tobytes() for clip in scene}) == len(ORDERS)  # but not the same sequence


def test_events_stand_in_the_order_of_the_name(clips):
    eights = clips["val"].reshape(-1, len(ORDERS), len(EVENTS), EVENT, *clips["val"].shape[3:])
    for scene in eights:
        events = dict(zip(ORDERS[0], scene[0], strict=True))
        assert len({event.tobytes() for event in events.values()}) == len(EVENTS)
        for order, parts in zip(ORDERS, scene, strict=True):
            np.testing.assert_array_equal(parts, [events[name] for name in order])


def test_a_clip_backwards_is_the_clip_of_the_reversed_order(clips):
    for scene in clips["val"]:
        for order, clip in zip(ORDERS, scene, strict=True):
            np.testing.assert_array_equal(clip[::-1], scene[ORDERS.index(order[::-1])])


@pytest.mark.parametrize("segments", [3, 6, 12])
def test_segments_show_every_event_in_the_same_phases_wherever_it_stands(clips, segments):
    place, rng = sampler(segments), np.random.default_rng(0)
    centres = clips["val"][:, :, place(None)]
    for scene in centres:
        assert len({b"".join(sorted(f.tobytes() for f in clip)) for clip in scene}) == 1
    drawn = np.stack([place(rng) for _ in range(200)])  # independent, so their ranges say all
    phases = np.stack([drawn.min(0), drawn.max(0)]).reshape(2, len(EVENTS), -1)
    phases -= EVENT * np.arange(len(EVENTS))[:, None]
    assert (phases == phases[:, :1]).all()
    assert (phases[1, 0] - phases[0, 0] == FRAMES // segments - 1).all()


def test_classifier_of_sampled_frames_needs_their_order(clips):
    place, rng = sampler(12), np.random.default_rng(0)
    sampled = {s: draw(x, [place(rng) for _ in range(len(x) * 6)]) for s, x in clips.items()}
    assert accuracy({s: of_frames(x) for s, x in sampled.items()}) < CHANCE + MARGIN
    assert accuracy({s: by_thirds(of_frames, x) for s, x in sampled.items()}) > 0.75


def test_classifier_of_flow_needs_its_order(flow):
    assert accuracy({s: of_flow(x) for s, x in flow.items()}) < CHANCE + MARGIN
    inside = [k for k in range(FRAMES - 1) if (k + 1) % EVENT]  # not between two events
    assert accuracy({s: by_thirds(of_flow, x[:, :, inside]) for s, x in flow.items()}) > 0.9


# ------------------------------------------------------------------------------------- the pictures


def test_events_do_what_they_are_called(clips):
    """The arrow is the only colourful thing, so its moments are those of the colour."""
    for scene in clips["val"]:
        weight = np.ptp(scene[0].astype(float), axis=-1)  # of grow_move_rotate
        weight *= weight > 20
        y, x = np.mgrid[:64, :64]
        mass = weight.sum((1, 2))
        cx, cy = (weight * x).sum((1, 2)) / mass, (weight * y).sum((1, 2)) / mass
        dx, dy = x - cx[:, None, None], y - cy[:, None, None]
        wide, high = (weight * dx**2).sum((1, 2)) / mass, (weight * dy**2).sum((1, 2)) / mass
        grown, moved, rotated = (slice(8 * k + 3, 8 * k + 5) for k in range(3))
        rest = [0, 7, 8, 15, 16, 23]
        assert mass[grown].min() > 3 * mass[rest].max()
        assert (mass[rotated] / mass[0]).max() < 1.3
        assert (cx[moved] - cx[0]).min() > 0.3 * 64
        assert np.abs(cx[rotated] - cx[0]).max() < 0.05 * 64
        upright = (high > wide).nonzero()[0]
        assert {*range(18, 22)} <= {*upright} <= {*range(17, 23)}
        for moment in (mass, cx, cy, wide, high):
            assert np.ptp(moment[rest]) == 0


def test_the_arrow_stays_inside_and_no_channel_clips(clips):
    for x in clips.values():
        assert x.min() > 0
        assert x.max() < 255
        colour = np.ptp(x.astype(int), axis=-1) > 25
        edge = np.ones((64, 64), bool)
        edge[1:-1, 1:-1] = False
        assert not colour[..., edge].any()


def test_video_is_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    dataset = Probes("val", kind="order", val_scenes=1, size=48)
    assert dataset.classes == ["_".join(order) for order in ORDERS]
    assert dataset.classes[0] == "grow_move_rotate"
    dataset.prepare()
    assert [record.target for record in dataset] == list(range(6))
    assert dataset[5].id == "val/0000/rotate_move_grow"
    for record in dataset:
        with av.open(str(record.sources["rgb"])) as container:
            assert container.streams.video[0].average_rate == 12
            shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
        assert shapes == [(48, 48, 3)] * FRAMES


def test_scenes_differ_within_and_between_splits(clips):
    rests = [scene[0, 0].tobytes() for x in clips.values() for scene in x]
    assert len(set(rests)) == sum(SCENES.values())


# ----------------------------------------------------------------------------------------- helpers


def decode_all(split):
    dataset = Probes(split, kind="order", train_scenes=SCENES["train"], val_scenes=SCENES["val"])
    dataset.prepare()
    frames = np.stack([decode(record.sources["rgb"]) for record in dataset])
    return frames.reshape(SCENES[split], len(ORDERS), *frames.shape[1:])


def decode(path):
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # a third of the time
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def sampler(segments):
    """rng -> the frames [segments] that our sampler takes of a clip."""
    info, record = Info(FRAMES, 12.0, FRAMES / 12, 64, 64), Record("x", {})
    return lambda rng: Segments(count=segments)(info, record, rng)[0]


def draw(clips, places):
    """The frames at places, one row a clip, [scene, order, T, H, W, 3]."""
    places = np.reshape(places, (*clips.shape[:2], -1))
    return np.take_along_axis(clips, places[..., None, None, None], 2)


def of_frames(frames):
    """Order-free numbers of frames: how their colours and profiles are spread."""
    frames = frames.astype(np.float32)
    mean, spread = frames.mean(2), frames.std(2)  # [scene, order, H, W, 3]
    return flat(mean.mean((2, 3)), spread.mean((2, 3)), spread.mean(2), spread.mean(3))


def of_flow(fields):
    """Order-free numbers of flow: a histogram of each component, all over the clip."""
    bins = np.concatenate([[-99], np.linspace(-8, 8, 17), [99]])
    rows = fields.reshape(*fields.shape[:2], -1, 2)
    counts = [np.apply_along_axis(count, 2, rows[..., axis], bins) for axis in range(2)]
    return flat(*np.log1p(counts))


def count(values, bins):
    return np.histogram(values, bins)[0]


def by_thirds(features, x):
    """The same numbers of each third of the clip, one behind the other."""
    return np.concatenate([features(third) for third in np.split(x, 3, axis=2)], -1)


def flat(*arrays):
    return np.concatenate([a.reshape(*a.shape[:2], -1) for a in arrays], -1)


def accuracy(features):
    """Of ridge regression on standardised features, trained on train, on the scenes of val."""
    x = {s: f.reshape(-1, f.shape[-1]).astype(np.float64) for s, f in features.items()}
    centre, scale = x["train"].mean(0), x["train"].std(0) + 1e-6
    train, val = ((x[s] - centre) / scale for s in ("train", "val"))
    gram = train @ train.T + 0.1 * train.shape[1] * np.eye(len(train))
    weights = train.T @ np.linalg.solve(gram, np.tile(np.eye(6), (SCENES["train"], 1)) - CHANCE)
    return ((val @ weights).argmax(1) == np.tile(np.arange(6), SCENES["val"])).mean()
