"""Which frames of a video make a clip: segments, snippets, dense clips, windows, whole videos.

What a video that is too short does is said by `short`: it starts again (loop), stays at its last
frame (clamp), or ends in padding, which the mask tells (pad).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from actionkit.contracts import Info, Record, Sampler

BEHIND: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {  # `short` -> what is shown there
    "loop": lambda places, frames: places % frames,
    "clamp": lambda places, frames: np.minimum(places, frames - 1),
    "pad": lambda places, frames: np.where(places < frames, places, -1),
}


class Segments(Sampler):
    """One snippet from each of `count` equal segments, as TSN trains (arXiv 1608.00859).

    A snippet is `length` frames, `stride` apart. Its place in the segment is random in training and
    the centre in evaluation. Returns [1, count * length], snippets in turn. A video too short for
    a snippet loops, or does what `short` says.
    """

    views = 1

    def __init__(
        self,
        *,
        count: int,
        length: int = 1,
        stride: int = 1,
        short: Literal["loop", "clamp", "pad"] = "loop",
    ) -> None:
        _require_positive(count=count, length=length, stride=stride)
        self.count, self.length, self.stride, self.short = count, length, stride, short
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
        snippets = _snippets(starts, self.length, self.stride).reshape(1, -1)
        return _indices(snippets, first, frames, self.short)


class Uniform(Sampler):
    """`count` snippets of `length` frames at one whole step from frame 0 on, as TSN tests.

    Deterministic, in training too. Snippet k starts at floor((F - length) / (count - 1)) * k of F
    frames; where the step is 0, all start at frame 0. Returns [1, count * length], snippets in
    turn. A video shorter than a snippet loops, or does what `short` says. The rule is that of
    TSN's own evaluation (arXiv 1608.00859), with count 25.
    """

    views = 1

    def __init__(
        self,
        *,
        count: int,
        length: int = 1,
        short: Literal["loop", "clamp", "pad"] = "loop",
    ) -> None:
        _require_positive(count=count, length=length)
        self.count, self.length, self.short = count, length, short
        self.steps = count * length

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [1, T]; T = count * length."""
        first, frames = frame_range(info, record)
        step = max(0, frames - self.length) // max(1, self.count - 1)
        starts = step * np.arange(self.count)
        snippets = _snippets(starts, self.length, 1).reshape(1, -1)
        return _indices(snippets, first, frames, self.short)


class Dense(Sampler):
    """Clips of `length` frames, `stride` apart, as I3D takes them (arXiv 1705.07750).

    Each clip is a view: `clips` random places in training; in evaluation the centre, or places
    spread evenly from the first to the last where there are several. Returns [clips, length]. A
    video too short for a clip loops, or does what `short` says.
    """

    def __init__(
        self,
        *,
        length: int,
        stride: int = 1,
        clips: int = 1,
        short: Literal["loop", "clamp", "pad"] = "loop",
    ) -> None:
        _require_positive(length=length, stride=stride, clips=clips)
        self.length, self.stride, self.clips, self.short = length, stride, clips, short
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
        return _indices(_snippets(starts, self.length, self.stride), first, frames, self.short)


class Sliding(Sampler):
    """Windows of `length` frames over the whole video, one every `hop` frames, as LRCN tests.

    Each window is a view, its frames `stride` apart. Deterministic, in training too. What the
    windows leave over at the end is seen by one more, which ends with the last frame. Returns
    [windows, length]. A video too short for a window has one, which loops, or does what `short`
    says. LRCN (arXiv:1411.4389) takes 16 frames every 8; its script counts the window at the end
    twice, here it counts once.
    """

    views = None

    def __init__(
        self,
        *,
        length: int,
        hop: int,
        stride: int = 1,
        short: Literal["loop", "clamp", "pad"] = "loop",
    ) -> None:
        _require_positive(length=length, hop=hop, stride=stride)
        self.length, self.hop, self.stride, self.short = length, hop, stride, short
        self.steps = length

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [V, T]; V varies with the video, T = length."""
        first, frames = frame_range(info, record)
        places = _places(frames, self.length, self.stride)
        starts = np.union1d(np.arange(0, places, self.hop), places - 1)
        return _indices(_snippets(starts, self.length, self.stride), first, frames, self.short)


class Strided(Sampler):
    """`count` time points at one stride, drawn for each clip from a range, as two-stream fusion.

    At each time point stands a snippet of `length` successive frames. Two-stream fusion
    (arXiv:1604.06573) trains on 5 points 5 to 15 frames apart, ST-ResNet (arXiv:1611.02155) on
    points 1 to 15 frames apart; with length 11, `dis_flow` of length 10 that keeps the middle gives
    each point its frame and the ten fields around it.

    `stride` is (least, most), both among those drawn; then the start is drawn from all places. In
    evaluation it is the middle stride, centred. A stride for which the video is too short is never
    taken, rather the largest that it has room for. Has it none for the least one, it takes that
    and loops, or does what `short` says. Returns [1, count * length], snippets in turn.
    """

    views = 1

    def __init__(
        self,
        *,
        count: int,
        length: int = 1,
        stride: tuple[int, int] = (5, 15),
        short: Literal["loop", "clamp", "pad"] = "loop",
    ) -> None:
        _require_positive(count=count, length=length, stride=min(stride))
        if stride[0] > stride[1]:
            raise ValueError(f"takes a stride (least, most), but gets {stride}; swap the two")
        self.count, self.length, self.stride, self.short = count, length, stride, short
        self.steps = count * length

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [1, T]; T = count * length."""
        first, frames = frame_range(info, record)
        least, most = self.stride
        room = (frames - self.length) // max(1, self.count - 1)  # the largest stride that fits
        if rng is None:
            stride = max(least, min((least + most) // 2, room))
        else:
            stride = int(rng.integers(least, max(least, min(most, room)), endpoint=True))
        places = max(1, frames - (self.count - 1) * stride - self.length + 1)
        start = (places - 1) // 2 if rng is None else rng.integers(places)
        snippets = _snippets(start + stride * np.arange(self.count), self.length, 1).reshape(1, -1)
        return _indices(snippets, first, frames, self.short)


class Full(Sampler):
    """The whole video: every frame, or every `stride`-th, for recurrent networks and encodings.

    Deterministic, in training too. Returns [1, T], where T varies with the video; batches are
    padded to their longest, which the mask tells. A video of more than `most` frames, strided, is
    thinned to the centres of `most` equal segments of them and so still seen from end to end:
    memory is bounded, and its time goes faster.
    """

    views, steps = 1, None

    def __init__(self, *, stride: int = 1, most: int | None = None) -> None:
        _require_positive(stride=stride, most=1 if most is None else most)
        self.stride, self.most = stride, most

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [1, T]."""
        first, frames = frame_range(info, record)
        there = -(-frames // self.stride)
        taken = min(there, self.most or there)
        centres = (2 * np.arange(taken, dtype=np.int64) + 1) * there // (2 * taken)
        return first + self.stride * centres[None]


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


def _snippets(starts: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Places int64 [len(starts), length], which may lie behind the last frame."""
    return starts[:, None] + stride * np.arange(length, dtype=np.int64)


def _indices(places: np.ndarray, first: int, frames: int, short: str) -> np.ndarray:
    """Frame indices of places, both int64 and of one shape, among `frames` frames from `first`."""
    shown = BEHIND[short](places, frames)
    return np.where(shown < 0, -1, first + shown)


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"needs {name} of at least 1, but got {number}")
