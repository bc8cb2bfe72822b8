"""Videos through PyAV: frame i is the same picture, whatever else is read and in whatever order."""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from actionkit.contracts import Info, Reader, VideoReadError

# FFmpeg would also play text, images and playlists that fetch other files or addresses. And by
# default PyAV makes up the times that a file lacks (`genpts`), often wrongly.
_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,asf,flv,mpeg,mpegvideo",
    "protocol_whitelist": "file",
    "fflags": "-genpts",
}
# Where these stand together every packet is one picture and gives it its own time. Elsewhere (AVI
# stores no times, MPEG-4 part 2 has empty pictures, VP8 hidden ones) frames can only be counted.
_TIMED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_TIMED_CODECS = ("h264", "hevc", "vp9", "av1")
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE
_SEEK_GAIN = 8  # frames a seek must save, since it costs about as much as decoding these


class PyAV(Reader):
    """Reads local video files with PyAV (FFmpeg), one thread, bit-equal to decoding from the start.

    Index i is the i-th frame in the order of presentation. In MP4 and Matroska it is found by its
    time, by a seek where that saves work, and H.264 pictures that neither are wanted nor serve as a
    reference are not decoded. In other containers, AVI above all, frames are counted from the start
    of the file. Frames are turned upright as the file's rotation says, in quarter turns.

    A frame that FFmpeg reports as damaged raises. Flipped bits that still form valid syntax cannot
    be noticed: video codecs carry no checksum.
    """

    def probe(self, path: Path) -> Info:
        """The packets are listed and the first frame is decoded, once per file and process.

        `frames` is what the header promises, or what the packets hold where it says nothing.
        """
        with _explained(path):
            return _table(path).info

    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Frames `indices` [N] as RGB, uint8 [N, 3, H, W] on memory [N, H, W, 3]."""
        with _explained(path):
            table = _table(path)
            info = table.info
            out = np.empty((len(indices), info.height, info.width, 3), np.uint8)
            wanted = np.unique(indices)
            if wanted.size and not 0 <= wanted[0] <= wanted[-1] < info.frames:
                raise _UnreadableError(
                    f"frames {wanted[0]} to {wanted[-1]} were asked for, "
                    f"but it has frames 0 to {info.frames - 1}"
                )
            for index, image in _images(path, table, wanted.tolist()):
                out[indices == index] = image
            return torch.from_numpy(out).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------ what a file holds


class _Table(NamedTuple):
    """Where the frames of a file are. Frames are known by order of presentation."""

    info: Info
    turns: int  # quarter turns counter-clockwise that put a frame upright
    timed: bool  # frames are found by their time, otherwise by counting
    times: Sequence[int]  # time, or count, of every frame the file really holds
    keys: Sequence[int]  # the keyframes among them, from which decoding can start


def _table(path: Path) -> _Table:
    """The file's table, from the cache while the file is unchanged."""
    if path.is_dir():
        raise _UnreadableError("it is a folder, not a file")
    if not path.exists():
        raise _UnreadableError("there is no such file")
    if not path.is_file():
        raise _UnreadableError("it is not a regular file")
    stat = path.stat()
    if stat.st_size == 0:
        raise _UnreadableError("the file is empty")
    return _scan(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


class _Packet(NamedTuple):
    """What a packet says about its frame."""

    time: int | None  # of presentation, in the stream's unit
    key: bool
    discard: bool  # cut off by the container's edit list; still needed to decode others


@lru_cache(maxsize=4096)
def _scan(path: str, _size: int, _mtime: int) -> _Table:
    """Lists the packets of a file; decodes no more than its first frame."""
    with _open(path) as (container, stream, context):
        listed = sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries)
        packets: list[_Packet] = []
        first: VideoFrame | None = None
        for packet in _packets(container, stream):
            if first is None:
                first = next(iter(_decode(context, packet)), None)
            if packet is not None:
                packets.append(_Packet(packet.pts, packet.is_keyframe, packet.is_discard))
        if first is None:
            raise _UnreadableError("it has no frame that can be decoded")
        timed = container.format.name in _TIMED_FORMATS
        timed = timed and context.codec.canonical_name in _TIMED_CODECS
        times, keys = _timeline(packets) if timed else ((), ())
        found = len(times) or sum(not packet.discard for packet in packets)
        # A file that is cut short promises more than it holds: in its index, or without one (AVI
        # has it at the end) in its header. An index that was read whole knows better than a header.
        frames = listed if listed >= found else max(found, stream.frames)
        rate = stream.average_rate or stream.guessed_rate
        if stream.time_base and len(times) > 1:
            rate = (len(times) - 1) / ((times[-1] - times[0]) * stream.time_base)
        elif container.format.name == "avi" and stream.frames:  # a dropped frame takes time, too
            rate = rate and rate * frames / stream.frames
        if not rate:
            raise _UnreadableError("it does not say its frame rate")
        turns = round(first.rotation / 90) % 4
        size = (first.width, first.height) if turns % 2 else (first.height, first.width)
        info = Info(frames, float(rate), float(frames / rate), *size)
        return _Table(info, turns, bool(times), times or range(found), keys)


def _timeline(packets: list[_Packet]) -> tuple[Sequence[int], Sequence[int]]:
    """The times of all frames in order, and which of them are keyframes; nothing where the times
    do not tell the frames apart.
    """
    times = [packet.time for packet in packets if packet.time is not None]
    start = next((packet.time for packet in packets if packet.key), None)
    if start is None or len(set(times)) < len(packets):
        return (), ()
    # What precedes the first keyframe, in the file or on the screen, cannot be decoded.
    decoded = itertools.dropwhile(lambda packet: not packet.key, packets)
    shown = sorted(p for p in decoded if p.time is not None and p.time >= start and not p.discard)
    times = [packet.time for packet in shown if packet.time is not None]
    keys = tuple(i for i, packet in enumerate(shown) if packet.key)
    step = times[1] - times[0] if len(times) > 1 else 1
    constant = range(times[0], times[0] + step * len(times), step)
    return (constant if times == list(constant) else tuple(times)), keys


# -------------------------------------------------------------------------------------- decoding


def _images(path: Path, table: _Table, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, uint8 [H, W, 3]) of sorted indices, the fast way as long as that works."""
    left = dict.fromkeys(wanted)  # an ordered set
    reformatter = VideoReformatter()  # keeps the conversion it has set up for the first frame
    why = "cut short"
    beyond = [index for index in wanted if index >= len(table.times)]
    if beyond:
        raise _UnreadableError(f"{why}: frame {beyond[0]} of {table.info.frames} cannot be decoded")
    for fast in (True, False) if table.timed else (False,):
        try:
            for index, frame in _frames(path, table, list(left), fast):
                yield index, _upright_rgb(frame, reformatter, table)
                del left[index]
            if not left:
                return
            why = "cut short"
        except (av.FFmpegError, _DamagedError):  # also: a seek that fails
            why = "damaged"
    raise _UnreadableError(f"{why}: frame {min(left)} of {table.info.frames} cannot be decoded")


def _frames(
    path: Path, table: _Table, wanted: list[int], fast: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields (index, frame) of those sorted indices it reaches; the slow way skips nothing."""
    with _open(os.path.abspath(path)) as (container, stream, context):
        order = getattr(context, "field_order", None)  # PyAV below 18 does not tell: no skipping
        skip = fast and context.codec.canonical_name == "h264" and order == _PROGRESSIVE
        for start, run in _runs(table, wanted) if fast else [(0, wanted)]:
            if start:
                container.seek(table.times[start], stream=stream)
            left = {table.times[index]: index for index in run}
            count = itertools.count()
            for packet in _packets(container, stream):
                time = None if packet is None else packet.pts
                # What a keyframe lets pass before it on the screen may need the frames before it.
                if start and time is not None and time < table.times[start]:
                    continue
                if skip:
                    context.skip_frame = "DEFAULT" if time in left else "NONREF"
                for frame in _decode(context, packet):
                    shown = frame.pts if table.timed else next(count)
                    if shown in left:
                        yield left.pop(shown), frame
                if not left:
                    break
            if left:
                return


def _runs(table: _Table, wanted: list[int]) -> list[tuple[int, list[int]]]:
    """Sorted indices in runs (frame to start decoding at, indices), with a seek between two runs
    where it saves more frames than it costs.
    """
    runs: list[tuple[int, list[int]]] = []
    position = 0
    for index in wanted:
        before = bisect_right(table.keys, index)
        key = table.keys[before - 1] if before else 0
        if key - position > _SEEK_GAIN:
            runs.append((key, []))
        elif not runs:
            runs.append((0, []))
        runs[-1][1].append(index)
        position = index
    return runs


def _upright_rgb(frame: VideoFrame, reformatter: VideoReformatter, table: _Table) -> np.ndarray:
    """The frame as a view, uint8 [H, W, 3], turned as the file's rotation says."""
    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    rows = np.asarray(memoryview(rgb.planes[0])).reshape(-1, rgb.planes[0].line_size)
    image = rows[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
    image = np.rot90(image, table.turns)
    if image.shape[:2] != table.info[3:]:
        raise _UnreadableError(
            f"its frames change size, from {table.info.height}x{table.info.width} "
            f"to {image.shape[0]}x{image.shape[1]}"
        )
    return image


# ------------------------------------------------------------------------------------ the library


class _UnreadableError(Exception):
    """Carries the reason of a VideoReadError to where the path is known."""


class _DamagedError(_UnreadableError):
    """Broken data, or missing data that the decoder has filled in."""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong into a VideoReadError."""
    try:
        yield
    except _UnreadableError as error:
        raise VideoReadError(path, "pyav", str(error)) from error.__cause__
    except Exception as error:  # a broken file may raise anything
        raise VideoReadError(path, "pyav", str(error) or type(error).__name__) from error


@contextmanager
def _open(path: str) -> Iterator[tuple[InputContainer, VideoStream, VideoCodecContext]]:
    """Opens the file's first video stream."""
    try:
        container = av.open(f"file:{path}", options=_OPTIONS)  # file: a name may hold a colon
    except av.FFmpegError as error:
        raise _UnreadableError(_why_not_video(path)) from error
    with container:
        pictures = av.stream.Disposition.attached_pic
        videos = [s for s in container.streams.video if not s.disposition & pictures]
        if not videos:
            kind = (
                "audio only"
                if container.streams.audio
                else "no stream at all; was it written to its end?"
            )
            raise _UnreadableError(f"it has no video stream ({kind})")
        context = videos[0].codec_context
        if context is None:
            raise _UnreadableError("this FFmpeg has no decoder for its codec")
        context.thread_count = 1
        context.options = {"err_detect": "explode"}  # damage is an error, not something to patch up
        yield container, videos[0], context


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet | None]:
    """The stream's whole packets in the order of decoding, at last None, which empties the decoder.

    Empty packets (AVI stores them for dropped frames) would end the decoding, a partial packet is
    the last of a file that is cut short.
    """
    for packet in container.demux(stream):
        if packet.is_corrupt:
            break
        if packet.size:
            yield packet
    yield None


def _decode(context: VideoCodecContext, packet: Packet | None) -> list[VideoFrame]:
    """The frames that the packet completes. Raises _DamagedError for what the decoder flags."""
    try:
        frames = context.decode(packet)
    except av.FFmpegError as error:
        raise _DamagedError("damaged: the decoder refuses its data") from error
    if any(frame.is_corrupt for frame in frames):
        raise _DamagedError("damaged: the decoder has filled gaps in its data")
    return frames


def _why_not_video(path: str) -> str:
    """What a file that FFmpeg refuses looks like."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if head[4:8] == b"ftyp":
        return "its index (moov) is missing or damaged; such a file was not written to its end"
    text = head.lstrip().lower()
    if text.startswith((b"#extm3u", b"ffconcat")):
        return "it is a playlist, not a video"
    if text.startswith((b"<!doctype", b"<html")):
        return "it is a web page, not a video; did a download fail?"
    if head.isascii() and b"\0" not in head:
        return "it is text, not a video"
    return "it is not a video of a known format, or its header is damaged"
