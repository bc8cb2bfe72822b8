"""What a file holds: how many frames, when each is shown, where decoding can start."""

from __future__ import annotations

import itertools
import operator
import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from actionkit.contracts import Info
from actionkit.data.readers.container import (
    Deadline,
    Limits,
    UnreadableError,
    Video,
    opened,
    require_size,
)
from actionkit.data.readers.upright import Turn, turn

# Where these stand together every packet is one picture and gives it its own time. Elsewhere (AVI
# stores no times, MPEG-4 part 2 has empty pictures, VP8 hidden ones) frames can only be counted.
_TIMED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_TIMED_CODECS = ("h264", "hevc", "vp9", "av1")


class _Timeline(NamedTuple):
    """The frames in the order of presentation. Without times, they can only be counted."""

    times: Sequence[int] = ()  # in the stream's unit
    keys: Sequence[int] = ()  # the keyframes among them, from which decoding can start
    closed: bool = False  # no frame needs one from before the keyframe it follows in the file
    variable: bool = False  # some frame is shown half a frame off from an even spacing, or more


class Mark(NamedTuple):
    """A keyframe that was counted when frames were decoded from the start, or from such a one."""

    time: int  # of its packet, which a seek takes
    place: int  # of its packet in the file, by which it is known again


class Table(NamedTuple):
    """Where the frames of a file are, in the order of presentation."""

    info: Info
    turn: Turn
    timed: bool  # frames are found by their time, otherwise by counting
    times: Sequence[int]  # time, or count, of every frame the file really holds
    keys: Sequence[int]
    closed: bool
    variable: bool
    streams: int  # of video; the first of them is read
    stream: int  # its index among all streams
    marks: dict[int, Mark] | None  # by number; reading adds to them. None: seeking is not sound

    def shown(self, indices: np.ndarray) -> np.ndarray:
        """The frame that each index [N] means, [N] int64: where the rate varies, the one on the
        screen at index / fps seconds; what the file does not hold stays as it is.
        """
        if not self.variable:
            return indices
        start, span, last = self.times[0], self.times[-1] - self.times[0], len(self.times) - 1
        frames = [
            bisect_right(self.times, start + index * span // last) - 1 if index <= last else index
            for index in indices.tolist()
        ]
        return np.array(frames, np.int64)


def table(path: Path, limits: Limits) -> Table:
    """The file's table, from the cache while the file is unchanged. Decodes its first frame."""
    if path.is_dir():
        raise UnreadableError("it is a folder, not a file")
    if not path.exists():
        raise UnreadableError("there is no such file")
    if not path.is_file():
        raise UnreadableError("it is not a regular file")
    stat = path.stat()
    if stat.st_size == 0:
        raise UnreadableError("the file is empty")
    return _scan(os.path.abspath(path), stat.st_size, stat.st_mtime_ns, limits)


class _Packet(NamedTuple):
    """What a packet says about its frame."""

    time: int | None  # of presentation, in the stream's unit
    key: bool
    discard: bool  # cut off by the container's edit list; still needed to decode others


@lru_cache(maxsize=16384)  # of a data set as large as UCF101, every file is looked at once
def _scan(path: str, _size: int, _mtime: int, limits: Limits) -> Table:
    with opened(path, limits, Deadline(limits.timeout)) as video:
        # Before the packets are read: where a file has no index, FFmpeg makes one of them.
        entries = video.stream.index_entries
        listed = sum(entry.size > 0 and not entry.is_discard for entry in entries)
        packets, first = _list(video, limits)
        timed = video.container.format.name in _TIMED_FORMATS and video.codec in _TIMED_CODECS
        line = _timeline(packets) if timed else _Timeline()
        found = len(line.times) or sum(not packet.discard for packet in packets)
        # A file that is cut short promises more than it holds: in its index, or without one (AVI
        # has it at the end) in its header. An index that was read whole knows better than a header.
        frames = listed if listed >= found else max(found, video.stream.frames)
        rate = _rate(video, line.times, frames)
        # Here a keyframe is a picture on its own, and what is shown later needs none before it.
        markable = (video.container.format.name, video.codec) == ("avi", "mpeg4")
        streams, stream = video.streams, video.stream.index
    upright = turn(first)
    size = (first.width, first.height) if upright.transpose else (first.height, first.width)
    require_size(*size, limits)
    info = Info(frames, float(rate), float(frames / rate), *size)
    _require_length(info, limits)
    times = line.times or range(found)
    marks: dict[int, Mark] | None = {} if markable else None
    return Table(info, upright, bool(line.times), times, *line[1:], streams, stream, marks)


def _list(video: Video, limits: Limits) -> tuple[list[_Packet], VideoFrame]:
    """All packets, and the first frame that can be decoded; no other is."""
    packets: list[_Packet] = []
    first: VideoFrame | None = None
    for packet in video.packets():
        if first is None:
            first = next(iter(video.decode(packet)), None)
        if packet is not None:
            packets.append(_Packet(packet.pts, packet.is_keyframe, packet.is_discard))
            _require_frames(len(packets), limits)
    if first is None:
        raise UnreadableError("it has no frame that can be decoded")
    return packets, first


def _rate(video: Video, times: Sequence[int], frames: int) -> Fraction:
    """Frames per second, on average."""
    stream = video.stream
    rate = stream.average_rate or stream.guessed_rate
    if stream.time_base and len(times) > 1:
        rate = (len(times) - 1) / ((times[-1] - times[0]) * stream.time_base)
    elif video.container.format.name == "avi" and stream.frames:  # a dropped frame takes time, too
        rate = rate and rate * frames / stream.frames
    if not rate:
        raise UnreadableError("it does not say its frame rate")
    return rate


def _timeline(packets: list[_Packet]) -> _Timeline:
    """The frames' own times; nothing where these do not tell the frames apart."""
    told = {packet.time for packet in packets if packet.time is not None}
    start = next((packet.time for packet in packets if packet.key), None)
    if start is None or len(told) < len(packets):
        return _Timeline()
    # What precedes the first keyframe, in the file or on the screen, cannot be decoded.
    decoded = list(itertools.dropwhile(lambda packet: not packet.key, packets))
    shown = [(p.time, p.key) for p in decoded if p.time is not None and not p.discard]
    shown = sorted((time, key) for time, key in shown if time >= start)
    times = array("q", (time for time, _ in shown))
    keys = tuple(i for i, (_, key) in enumerate(shown) if key)
    return _Timeline(_compact(times), keys, _is_closed(decoded), _is_variable(times))


def _compact(times: Sequence[int]) -> Sequence[int]:
    step = times[1] - times[0] if len(times) > 1 else 1
    constant = range(times[0], times[0] + step * len(times), step)
    return constant if all(map(operator.eq, times, constant)) else times


def _is_closed(decoded: list[_Packet]) -> bool:
    """Whether nothing that follows a keyframe in the file precedes it on the screen."""
    start = 0
    for packet in decoded:
        if packet.key:
            start = packet.time or 0
        elif (packet.time or 0) < start:
            return False
    return True


def _is_variable(times: Sequence[int]) -> bool:
    """Whether a frame is shown more than half a frame off from an even spacing.

    Less is the rounding of times to the container's unit, or jitter of the camera's clock.
    """
    span, last = times[-1] - times[0], len(times) - 1
    return any(2 * abs((t - times[0]) * last - i * span) > span for i, t in enumerate(times))


def _require_frames(count: int, limits: Limits) -> None:
    if limits.max_frames is not None and count > limits.max_frames:
        raise UnreadableError(
            f"it has, or claims to have, more than {limits.max_frames} frames; "
            "raise data.reader.max_frames if it should be read"
        )


def _require_length(info: Info, limits: Limits) -> None:
    _require_frames(info.frames, limits)
    if limits.max_seconds is not None and info.seconds > limits.max_seconds:
        raise UnreadableError(
            f"it lasts {info.seconds:g} s, longer than {limits.max_seconds:g} s; "
            "raise data.reader.max_seconds if it should be read"
        )
