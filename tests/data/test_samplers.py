import numpy as np
import pytest

from actionkit.contracts import Info, Record
from actionkit.data.samplers import (
    Dense,
    Full,
    Segments,
    Sliding,
    Strided,
    Uniform,
    frame_range,
)

FRAMES = range(1, 101)
WHOLE = Record("clip", {})


def info(frames, fps=25.0):
    return Info(frames, fps, frames / fps, 48, 64)


def snippet(start, length, stride, frames):
    return [(start + k * stride) % frames for k in range(length)]


SAMPLERS = [
    Segments(count=3),
    Segments(count=8, length=5, stride=2),
    Uniform(count=25),
    Uniform(count=4, length=10),
    Dense(length=16, stride=2),
    Dense(length=8, stride=3, clips=10),
    Sliding(length=16, hop=8),
    Sliding(length=5, hop=7, stride=3),
    Segments(count=3, length=9, short="clamp"),
    Dense(length=16, stride=2, short="clamp"),
    Strided(count=5),
    Strided(count=4, length=11, stride=(1, 15), short="clamp"),
    Strided(count=1, length=3),
    Full(),
    Full(stride=3, most=7),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}{vars(s)}")
@pytest.mark.parametrize("training", [False, True])
def test_shape_and_range_for_every_frame_count(sampler, training):
    for frames in FRAMES:
        rng = np.random.default_rng(frames) if training else None
        indices = sampler(info(frames), WHOLE, rng)
        steps = sampler.steps or indices.shape[1]
        assert indices.shape == (sampler.views or len(indices), steps)
        assert indices.dtype == np.int64
        assert 0 <= indices.min() <= indices.max() < frames
        again = np.random.default_rng(frames) if training else None
        assert np.array_equal(indices, sampler(info(frames), WHOLE, again))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}{vars(s)}")
@pytest.mark.parametrize("training", [False, True])
def test_start_and_end_shift_the_same_draw(sampler, training):
    def rng():
        return np.random.default_rng(7) if training else None

    part = Record("clip", {}, start=1.0, end=2.6)  # frames 25 to 64
    expected = 25 + sampler(info(40), WHOLE, rng())
    assert np.array_equal(sampler(info(100), part, rng()), expected)


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (5, 1), (3, 4)])
def test_segments_in_evaluation_are_centres(length, stride):
    sampler = Segments(count=3, length=length, stride=stride)
    for frames in FRAMES:
        places = max(1, frames - (length - 1) * stride)
        tick = places / 3
        expected = [
            i
            for k in range(3)
            for i in snippet(int(tick / 2 + tick * k + 1e-9), length, stride, frames)
        ]
        assert sampler(info(frames), WHOLE, None).tolist() == [expected]


@pytest.mark.parametrize("frames", [3, 10, 14, 31])
def test_segments_cover_every_place_of_their_segment(frames):
    sampler, rng = Segments(count=3, length=2), np.random.default_rng(0)
    draws = np.stack([sampler(info(frames), WHOLE, rng)[0] for _ in range(600)])
    places = frames - 1
    borders = [k * places // 3 for k in range(4)]
    for k in range(3):
        start = draws[:, 2 * k]
        allowed = range(borders[k], max(borders[k + 1], borders[k] + 1))
        assert set(start) == set(allowed)
        assert np.array_equal(draws[:, 2 * k + 1], (start + 1) % frames)
    if places >= 3:
        assert set(draws[:, ::2].ravel()) == set(range(places))


@pytest.mark.parametrize(("count", "length"), [(25, 1), (4, 10), (1, 3)])
def test_uniform_is_the_tsn_rule(count, length):
    sampler = Uniform(count=count, length=length)
    for frames in FRAMES:
        step = (frames - length) // (count - 1) if count > 1 and frames > length else 0
        expected = [i for k in range(count) for i in snippet(step * k, length, 1, frames)]
        assert sampler(info(frames), WHOLE, None).tolist() == [expected]
        assert sampler(info(frames), WHOLE, np.random.default_rng(0)).tolist() == [expected]


@pytest.mark.parametrize("frames", [5, 9, 12, 40])
def test_dense_covers_every_place(frames):
    sampler, rng = Dense(length=4, stride=3, clips=2), np.random.default_rng(0)
    draws = np.concatenate([sampler(info(frames), WHOLE, rng) for _ in range(600)])
    assert set(draws[:, 0]) == set(range(max(1, frames - 9)))
    for row in draws:
        assert row.tolist() == snippet(row[0], 4, 3, frames)


def test_dense_in_evaluation():
    assert Dense(length=4)(info(10), WHOLE, None).tolist() == [[3, 4, 5, 6]]
    views = Dense(length=4, clips=3)(info(10), WHOLE, None)
    assert views.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert Dense(length=5)(info(2), WHOLE, None).tolist() == [[0, 1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("length", "hop", "stride"), [(16, 8, 1), (16, 16, 1), (4, 3, 2), (1, 1, 1), (3, 10, 1)]
)
def test_sliding_windows_end_with_the_last_frame(length, hop, stride):
    sampler, span = Sliding(length=length, hop=hop, stride=stride), (length - 1) * stride + 1
    for frames in FRAMES:
        starts, start = [], 0
        while start + span < frames:
            starts.append(start)
            start += hop
        starts.append(max(0, frames - span))
        expected = [snippet(start, length, stride, frames) for start in starts]
        assert sampler(info(frames), WHOLE, None).tolist() == expected
        assert sampler(info(frames), WHOLE, np.random.default_rng(0)).tolist() == expected


def test_sliding_windows_of_lrcn():
    """The windows of its script, of which the one at the end counts once, and not twice."""
    sampler = Sliding(length=16, hop=8)
    assert (sampler.views, sampler.steps) == (None, 16)
    for frames in range(17, 300):
        script = [
            i if i + 16 < frames else frames - 16  # the last 16
            for i in range(0, frames, 8)
        ]
        assert script[-2] == script[-1]
        windows = sampler(info(frames), WHOLE, None)
        assert windows[:, 0].tolist() == script[:-1]
        assert set(windows.ravel()) == set(range(frames))


# --------------------------------------------------------------------------------- strided


@pytest.mark.parametrize("length", [1, 11])
def test_strided_points_are_one_drawn_stride_apart_and_cover_all(length):
    sampler, rng = Strided(count=5, length=length, stride=(5, 15)), np.random.default_rng(0)
    strides, starts = set(), set()
    for _ in range(3000):
        snippets = sampler(info(90), WHOLE, rng)[0].reshape(5, length)
        assert (np.diff(snippets, axis=1) == 1).all()
        (stride,) = set(np.diff(snippets[:, 0]).tolist())
        strides.add(stride)
        starts.add((stride, int(snippets[0, 0])))
        assert snippets.max() < 90
    assert strides == set(range(5, 16))
    assert {start for stride, start in starts if stride == 15} == set(range(90 - 60 - length + 1))


def test_strided_in_evaluation_is_the_middle_stride_centred():
    sampler = Strided(count=5, stride=(5, 15))
    assert sampler(info(61), WHOLE, None).tolist() == [[10, 20, 30, 40, 50]]
    snippets = Strided(count=3, length=3, stride=(2, 4))(info(13), WHOLE, None)
    assert snippets.tolist() == [[2, 3, 4, 5, 6, 7, 8, 9, 10]]


@pytest.mark.parametrize("frames", range(1, 80))
def test_strided_takes_no_stride_that_the_video_is_too_short_for(frames):
    sampler = Strided(count=5, length=2, stride=(3, 12))
    room = (frames - 2) // 4
    if room >= 3:
        rng = np.random.default_rng(frames)
        drawn = [sampler(info(frames), WHOLE, rng)[0] for _ in range(200)]
        assert {int(d[2] - d[0]) for d in drawn} == set(range(3, min(12, room) + 1))
        assert all(d[-1] == d[0] + 4 * (d[2] - d[0]) + 1 for d in drawn)  # none loops
        fixed = sampler(info(frames), WHOLE, None)[0]
        assert fixed[2] - fixed[0] == min(7, room)
        assert abs(fixed[0] - (frames - 1 - fixed[-1])) <= 1
    else:  # the least stride, looping
        expected = [(3 * k + i) % frames for k in range(5) for i in range(2)]
        assert sampler(info(frames), WHOLE, None).tolist() == [expected]
        assert sampler(info(frames), WHOLE, np.random.default_rng(0)).tolist() == [expected]


# ------------------------------------------------------------------------------------ full


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_full_is_every_frame_or_every_so_manieth(stride):
    for frames in FRAMES:
        for sampler in (Full(stride=stride), Full(stride=stride, most=100)):
            for rng in (None, np.random.default_rng(0)):
                expected = [list(range(0, frames, stride))]
                assert sampler(info(frames), WHOLE, rng).tolist() == expected


@pytest.mark.parametrize(("stride", "most"), [(1, 1), (1, 10), (3, 7)])
def test_full_thins_a_long_video_evenly_from_end_to_end(stride, most):
    sampler = Full(stride=stride, most=most)
    for frames in FRAMES:
        there = list(range(0, frames, stride))
        (indices,) = sampler(info(frames), WHOLE, None).tolist()
        assert len(indices) == min(most, len(there))
        assert set(indices) <= set(there)
        gaps = {int(g) for g in np.diff(indices)}
        assert not gaps or max(gaps) - min(gaps) in (0, stride)
        before, behind = indices[0], there[-1] - indices[-1]
        assert abs(before - behind) <= stride
        assert max(before, behind) <= stride * len(there) / len(indices)


# ----------------------------------------------------------------------------------- short

TOO_SHORT = [
    (Segments, {"count": 2, "length": 5, "stride": 2}, [0, 2, 4, 6, 8] * 2),
    (Uniform, {"count": 3, "length": 6}, [0, 1, 2, 3, 4, 5] * 3),
    (Dense, {"length": 5, "stride": 2}, [0, 2, 4, 6, 8]),
    (Sliding, {"length": 6, "hop": 2}, [0, 1, 2, 3, 4, 5]),
    (Strided, {"count": 3, "length": 2, "stride": (2, 4)}, [0, 1, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("sampler", "options", "places"), TOO_SHORT)
@pytest.mark.parametrize("training", [False, True])
def test_a_video_too_short_does_what_short_says(sampler, options, places, training):
    part = Record("clip", {}, start=1.0, end=1.16)  # frames 25 to 28
    expected = {
        "loop": [25 + p % 4 for p in places],
        "clamp": [25 + min(p, 3) for p in places],
        "pad": [25 + p if p < 4 else -1 for p in places],
    }
    for short, indices in expected.items():
        rng = np.random.default_rng(0) if training else None
        found = sampler(**options, short=short)(info(100), part, rng)
        assert found.dtype == np.int64
        assert found.tolist() == [indices]
    rng = np.random.default_rng(0) if training else None
    assert sampler(**options)(info(100), part, rng).tolist() == [expected["loop"]]


@pytest.mark.parametrize(("sampler", "options", "_"), TOO_SHORT)
@pytest.mark.parametrize("training", [False, True])
def test_short_changes_nothing_of_a_video_that_is_long_enough(sampler, options, _, training):
    found = []
    for short in ("loop", "clamp", "pad"):
        rng = np.random.default_rng(1) if training else None
        found.append(sampler(**options, short=short)(info(40), WHOLE, rng))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, (0, 100)),
        (1.0, None, (25, 75)),
        (None, 2.0, (0, 50)),
        (1.01, 2.01, (26, 25)),
        (0.04, 0.08, (1, 1)),
        (2.0, 2.0, (50, 1)),
        (9.0, 12.0, (99, 1)),
        (-1.0, 99.0, (0, 100)),
    ],
)
def test_frame_range(start, end, expected):
    assert frame_range(info(100), Record("clip", {}, start=start, end=end)) == expected


@pytest.mark.parametrize(
    ("sampler", "options", "sentence"),
    [
        (Segments, {"count": 0}, "needs count of at least 1, but got 0"),
        (Segments, {"count": 3, "stride": -2}, "needs stride of at least 1, but got -2"),
        (Uniform, {"count": 3, "length": 0}, "needs length of at least 1, but got 0"),
        (Dense, {"length": 8, "clips": 0}, "needs clips of at least 1, but got 0"),
        (Sliding, {"length": 8, "hop": 0}, "needs hop of at least 1, but got 0"),
        (Strided, {"count": 5, "stride": (0, 4)}, "needs stride of at least 1, but got 0"),
        (Full, {"stride": 0}, "needs stride of at least 1, but got 0"),
        (Full, {"most": 0}, "needs most of at least 1, but got 0"),
    ],
)
def test_refuses_what_is_not_positive(sampler, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        sampler(**options)


def test_strided_refuses_a_range_that_goes_down():
    with pytest.raises(ValueError, match=r"^takes a stride .least, most., but gets .15, 5.; "):
        Strided(count=5, stride=(15, 5))
