"""Which frames of a video make a clip: segments, uniform snippets, dense clips, windows."""

from __future__ import annotations

import math

import numpy as np

from actionkit.contracts import Info, Record, Sampler


class Segments(Sampler):
    """One snippet from each of `count` equal segments, as TSN trains (arXiv 1608.00859).

    A snippet is `length` frames, `stride` apart. Its place in the segment is random in training and
    the centre in evaluation. Returns [1, count * length], snippets in turn. A video too short for
    a snippet loops.
    """

    views = 1

    def __init__(self, *, count: int, length: int = 1, stride: int = 1) -> None:
        _require_positive(count=count, length=length, stride=stride)
        self.count, self.length, self.stride = count, length, stride
        self.steps = count * length

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [1, T]; T = count * length."""
        first, frames = frame_range(info, record)
        places = _places(frames, self.length, self.stride)
        segment = np.arange(self.count)
        if rng is None:
            starts = (2 * segment + 1) * places // (2 * self.count)
        else:
            low = segment * places // self.count
            high = (segment + 1) * places // self.count
            starts = rng.integers(low, np.maximum(high, low + 1))  # fewer places than segments
        return first + _snippets(starts, self.length, self.stride, frames).reshape(1, -1)


class Uniform(Sampler):
    """`count` snippets of `length` frames at one whole step from frame 0 on, as TSN tests.

    Deterministic, in training too. Snippet k starts at floor((F - length) / (count - 1)) * k of F
    frames; where the step is 0, all start at frame 0. Returns [1, count * length], snippets in
    turn. A video shorter than a snippet loops. The rule is that of TSN's own evaluation
    (arXiv 1608.00859), with count 25.
    """

    views = 1

    def __init__(self, *, count: int, length: int = 1) -> None:
        _require_positive(count=count, length=length)
        self.count, self.length = count, length
        self.steps = count * length

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [1, T]; T = count * length."""
        first, frames = frame_range(info, record)
        step = max(0, frames - self.length) // max(1, self.count - 1)
        starts = step * np.arange(self.count)
        return first + _snippets(starts, self.length, 1, frames).reshape(1, -1)


class Dense(Sampler):
    """Clips of `length` frames, `stride` apart, as I3D takes them (arXiv 1705.07750).

    Each clip is a view: `clips` random places in training; in evaluation the centre, or places
    spread evenly from the first to the last where there are several. Returns [clips, length]. A
    video too short for a clip loops.
    """

    def __init__(self, *, length: int, stride: int = 1, clips: int = 1) -> None:
        _require_positive(length=length, stride=stride, clips=clips)
        self.length, self.stride, self.clips = length, stride, clips
        self.steps, self.views = length, clips

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [V, T]; V = clips, T = length."""
        first, frames = frame_range(info, record)
        places = _places(frames, self.length, self.stride)
        if rng is not None:
            starts = rng.integers(places, size=self.clips)
        elif self.clips == 1:
            starts = np.array([(places - 1) // 2])
        else:
            starts = np.arange(self.clips) * (places - 1) // (self.clips - 1)
        return first + _snippets(starts, self.length, self.stride, frames)


class Sliding(Sampler):
    """Windows of `length` frames over the whole video, one every `hop` frames, as LRCN tests.

    Each window is a view, its frames `stride` apart. Deterministic, in training too. What the
    windows leave over at the end is seen by one more, which ends with the last frame. Returns
    [windows, length]. A video too short for a window has one, which loops. LRCN (arXiv:1411.4389)
    takes 16 frames every 8; its script counts the window at the end twice, here it counts once.
    """

    views = None

    def __init__(self, *, length: int, hop: int, stride: int = 1) -> None:
        _require_positive(length=length, hop=hop, stride=stride)
        self.length, self.hop, self.stride = length, hop, stride
        self.steps = length

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [V, T]; V varies with the video, T = length."""
        first, frames = frame_range(info, record)
        places = _places(frames, self.length, self.stride)
        starts = np.union1d(np.arange(0, places, self.hop), places - 1)
        return first + _snippets(starts, self.length, self.stride, frames)


def frame_range(info: Info, record: Record) -> tuple[int, int]:
    """The first frame of a record and how many there are, at least one.

    Frame i is shown at i / fps seconds; those with start <= i / fps < end belong to the record.
    Where no frame lies between, for instance behind the end of the video, it is the nearest one.
    """
    last = info.frames - 1
    first = 0 if record.start is None else _first_frame(record.start, info.fps)
    stop = info.frames if record.end is None else _first_frame(record.end, info.fps)
    first = min(max(first, 0), last)
    return first, max(1, min(stop, info.frames) - first)


def _first_frame(second: float, fps: float) -> int:
    """The first frame not shown before `second`, up to the rounding of times in annotations."""
    return math.ceil(second * fps - 1e-3)


def _places(frames: int, length: int, stride: int) -> int:
    """How many starts a snippet can have without leaving the frames; 1 where it must loop."""
    return max(1, frames - (length - 1) * stride)


def _snippets(starts: np.ndarray, length: int, stride: int, frames: int) -> np.ndarray:
    """Indices int64 [len(starts), length]; beyond the last frame the video starts again."""
    return (starts[:, None] + stride * np.arange(length, dtype=np.int64)) % frames


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"needs {name} of at least 1, but got {number}")
