"""Decodes the wanted frames of a file with PyAV: the fast way as long as that works."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
from av.video.frame import VideoFrame

from actionkit.data.readers.container import (
    DamagedError,
    Deadline,
    Limits,
    UnreadableError,
    Video,
    opened,
)
from actionkit.data.readers.table import Table

SEEK_GAIN = 8  # frames a seek must save, since it costs about as much as decoding these
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE


class Source(NamedTuple):
    """A file whose table is known, and the time there is to decode a clip of it."""

    path: str
    table: Table
    limits: Limits
    deadline: Deadline


def decode(
    source: Source, wanted: list[int], ways: Sequence[bool] = (True, False), gain: int = SEEK_GAIN
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields (number, frame) of sorted frame numbers; tries one way after the other.

    The fast way (True) is for timed files: it seeks where that saves more than `gain` frames, and
    skips what no wanted frame needs. The slow one decodes everything from the start. Raises
    UnreadableError if a frame is not reached.
    """
    table = source.table
    promised = f"of {table.info.frames} cannot be decoded"
    beyond = [number for number in wanted if number >= len(table.times)]
    if beyond:
        raise UnreadableError(f"cut short: frame {beyond[0]} {promised}")
    left, why = dict.fromkeys(wanted), "cut short"  # an ordered set
    for fast in ways if table.timed else (False,):
        try:
            for number, frame in _frames(source, list(left), fast, gain):
                _require_same_size(frame, table)
                yield number, frame
                del left[number]
            if not left:
                return
            why = "cut short"
        except (av.FFmpegError, DamagedError):  # also: a seek that fails
            why = "damaged"
    raise UnreadableError(f"{why}: frame {min(left)} {promised}")


def _require_same_size(frame: VideoFrame, table: Table) -> None:
    size, first = (frame.height, frame.width), (table.info.height, table.info.width)
    if size != (first[::-1] if table.turn.transpose else first):
        raise UnreadableError(
            f"its frames change size, from {first[0]}x{first[1]} to {size[0]}x{size[1]}"
        )


def _frames(
    source: Source, wanted: list[int], fast: bool, gain: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields (number, frame) of those sorted numbers it reaches, one way."""
    table = source.table
    with opened(source.path, source.limits, source.deadline) as video:
        order = getattr(video.context, "field_order", None)  # PyAV below 18 does not tell
        skip = fast and video.codec == "h264" and order == _PROGRESSIVE
        for start, run in runs(table, wanted, gain) if fast else [(0, wanted)]:
            if start:
                video.container.seek(table.times[start], stream=video.stream)
            left = {table.times[number]: number for number in run}
            yield from _run(video, table, start, left, skip)
            if left:
                return


def _run(
    video: Video, table: Table, start: int, left: dict[int, int], skip: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields (number, frame) from frame `start` on, and takes them out of `left`, time: number."""
    count = itertools.count()
    for packet in video.packets():
        time = None if packet is None else packet.pts
        # What a keyframe lets pass before it on the screen may need the frames before it.
        if start and time is not None and time < table.times[start]:
            continue
        if skip:
            video.context.skip_frame = "DEFAULT" if time in left else "NONREF"
        for frame in video.decode(packet):
            shown = frame.pts if table.timed else next(count)
            if shown in left:
                yield left.pop(shown), frame
        if not left:
            return


def runs(table: Table, wanted: list[int], gain: int = SEEK_GAIN) -> list[tuple[int, list[int]]]:
    """Sorted frame numbers in runs (frame to start decoding at, numbers), with a seek between two
    runs where it saves more than `gain` frames.
    """
    found: list[tuple[int, list[int]]] = []
    position = 0
    for number in wanted:
        before = bisect_right(table.keys, number)
        key = table.keys[before - 1] if before else 0
        if key - position > gain:
            found.append((key, []))
        elif not found:
            found.append((0, []))
        found[-1][1].append(number)
        position = number
    return found
