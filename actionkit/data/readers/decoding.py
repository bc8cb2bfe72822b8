"""Decodes the wanted frames of a file with PyAV: the fast way as long as that works."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import deque
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
from actionkit.data.readers.table import Mark, Table

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

    The fast way (True) seeks where that saves more than `gain` frames: in timed files, where it
    also skips what no wanted frame needs, and to keyframes that were counted before. The slow one
    decodes everything from the start. Raises UnreadableError if a frame is not reached.
    """
    table = source.table
    promised = f"of {table.info.frames} cannot be decoded"
    beyond = [number for number in wanted if number >= len(table.times)]
    if beyond:
        raise UnreadableError(f"cut short: frame {beyond[0]} {promised}")
    left, why = dict.fromkeys(wanted), "cut short"  # an ordered set
    for fast in ways if table.timed or table.marks else (False,):
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
        marks = {} if table.marks is None else table.marks
        if not fast:
            marks.clear()  # should they be wrong, this sets them right
        keys = table.keys if table.timed else sorted(marks)
        for start, run in runs(keys, wanted, gain) if fast else [(0, wanted)]:
            if start:
                time = table.times[start] if table.timed else marks[start].time
                video.container.seek(time, stream=video.stream)
            left = {table.times[number]: number for number in run}
            if table.timed:
                yield from _run(video, table, start, left, skip)
            else:
                yield from _count(video, table, start, left)
            if left:
                return


def _run(
    video: Video, table: Table, start: int, left: dict[int, int], skip: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields (number, frame) from frame `start` on, and takes them out of `left`, time: number."""
    for packet in video.packets():
        time = None if packet is None else packet.pts
        # What a keyframe lets pass before it on the screen may need the frames before it.
        if start and time is not None and time < table.times[start]:
            continue
        if skip:
            video.context.skip_frame = "DEFAULT" if time in left else "NONREF"
        for frame in video.decode(packet):
            if frame.pts in left:
                yield left.pop(frame.pts), frame
        if not left:
            return


def _count(
    video: Video, table: Table, start: int, left: dict[int, int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields (number, frame) by counting from frame `start` on, and takes them out of `left`.

    In the place of the time that a packet lacks, FFmpeg hands its place in the file on to its
    frame. So the frame that a seek is for is known again, wherever the seek has led.
    """
    marks, times = table.marks, dict[int | None, int | None]()
    first = marks[start].place if marks and start else None
    numbers = itertools.count(start)
    for packet in video.packets():
        if packet is not None and marks is not None:
            packet.pts = packet.pos
            if packet.is_keyframe:
                times[packet.pos] = packet.dts
        for frame in video.decode(packet):
            if first is not None and frame.pts != first:
                continue  # shown before the keyframe, and may lack what it needs
            first, number = None, next(numbers)
            if start and frame.interlaced_frame:  # FFmpeg scales motion by its first B-frame's time
                raise DamagedError("interlaced: its frames depend on where decoding starts")
            if marks is not None and frame.key_frame and not frame.interlaced_frame:
                _mark(marks, number, times.get(frame.pts), frame.pts)
            if number in left:
                yield left.pop(number), frame
        if not left:
            return


def _mark(marks: dict[int, Mark], number: int, time: int | None, place: int | None) -> None:
    """Keeps a keyframe's number. Raises DamagedError if it was counted otherwise before."""
    if time is None or place is None:  # its container does not call it one, so no seek leads there
        return
    if marks.setdefault(number, Mark(time, place)).place != place:
        raise DamagedError("damaged: counted from a keyframe, its frames have other numbers")


def sound(source: Source, wanted: list[int]) -> bool:
    """Whether frames are sound behind seeks to every keyframe; otherwise they are sound when
    decoded from the start. Raises UnreadableError where they are not.
    """
    table = source.table
    if table.closed:
        keys = {key for key, _ in runs(table.keys, wanted, gain=0)}  # must themselves be sound
        try:
            deque(decode(source, sorted(keys.union(wanted)), ways=(True,), gain=0), maxlen=0)
            return True
        except UnreadableError:
            pass  # the slow way works, or knows why not
    deque(decode(source, wanted, ways=(False,)), maxlen=0)
    return False


def runs(
    keys: Sequence[int], wanted: list[int], gain: int = SEEK_GAIN
) -> list[tuple[int, list[int]]]:
    """Sorted frame numbers in runs (frame to start decoding at, numbers), with a seek between two
    runs where it saves more than `gain` frames.
    """
    found: list[tuple[int, list[int]]] = []
    position = 0
    for number in wanted:
        before = bisect_right(keys, number)
        key = keys[before - 1] if before else 0
        if key - position > gain:
            found.append((key, []))
        elif not found:
            found.append((0, []))
        found[-1][1].append(number)
        position = number
    return found
