"""Opens a video file: what is read of it, how much, for how long, and why some cannot be opened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# FFmpeg would also play text, images and playlists that fetch other files or addresses. And by
# default PyAV makes up the times that a file lacks (`genpts`), often wrongly.
_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,asf,flv,mpeg,mpegvideo",
    "protocol_whitelist": "file",
    "fflags": "-genpts",
}
_DECODER = {"err_detect": "explode"}  # damage is an error, not something to patch up


class UnreadableError(Exception):
    """Carries the reason of a VideoReadError to where the path is known."""


class DamagedError(UnreadableError):
    """Broken data, or missing data that the decoder has filled in."""


class Limits(NamedTuple):
    """How much a reader takes from a file, which may claim anything; None = no limit."""

    max_pixels: int  # of a frame
    max_frames: int | None
    max_seconds: float | None
    timeout: float  # seconds for listing the frames of a file, and for decoding a clip


class Deadline:
    """A moment in the future."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def renew(self) -> None:
        """Puts it off: as long from now as it was at first."""
        self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """The seconds until then, more than 0. Raises UnreadableError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise UnreadableError(
                f"took longer than {self._seconds:g} s; if neither the disk nor the video is to "
                "blame, raise data.reader.timeout"
            )
        return left


class Video:
    """The first video stream of an open file, and how many there are, cover pictures aside."""

    def __init__(self, container: InputContainer, deadline: Deadline) -> None:
        self.container, self._deadline = container, deadline
        self.stream, *others = _videos(container)
        self.streams = 1 + len(others)
        if self.stream.codec_context is None:
            raise UnreadableError("this FFmpeg has no decoder for its codec")
        self.context: VideoCodecContext = self.stream.codec_context

    @property
    def codec(self) -> str:
        """What FFmpeg calls its codec, as h264."""
        return self.context.codec.canonical_name

    def packets(self) -> Iterator[Packet | None]:
        """The whole packets in the order of decoding, at last None, which empties the decoder.

        Empty packets (AVI stores them for dropped frames) would end the decoding, a partial packet
        is the last of a file that is cut short.
        """
        try:
            for packet in self.container.demux(self.stream):
                self._deadline.left()
                if packet.is_corrupt:
                    break
                if packet.size:
                    yield packet
        except av.FFmpegError as error:
            self._deadline.left()  # FFmpeg was interrupted, or
            raise DamagedError("damaged: it cannot be read to its end") from error
        yield None

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """The frames that the packet completes. Raises DamagedError for what the decoder flags."""
        try:
            frames = self.context.decode(packet)
        except av.FFmpegError as error:
            raise DamagedError("damaged: the decoder refuses its data") from error
        if any(frame.is_corrupt for frame in frames):
            raise DamagedError("damaged: the decoder has filled gaps in its data")
        return frames


@contextmanager
def opened(path: str, limits: Limits, deadline: Deadline) -> Iterator[Video]:
    """Opens a file, with one thread for its decoder.

    FFmpeg itself gives up waiting for the disk at the deadline, and allocates no frame of more than
    about `max_pixels`.
    """
    # Twice as many, since it counts what codecs add to fill whole blocks.
    limit = {"max_pixels": str(2 * limits.max_pixels)}
    try:
        container = av.open(
            f"file:{path}",  # file: a name may hold a colon
            options=_OPTIONS | limit,
            timeout=deadline.left(),
        )
    except av.FFmpegError as error:
        deadline.left()
        raise UnreadableError(_why_not_video(path)) from error
    with container:
        video = Video(container, deadline)
        require_size(video.context.height, video.context.width, limits)
        video.context.thread_count = 1
        video.context.options = limit | _DECODER
        yield video


def require_size(height: int, width: int, limits: Limits) -> None:
    """Raises UnreadableError for frames of more than `max_pixels`."""
    if height * width > limits.max_pixels:
        raise UnreadableError(
            f"its frames of {height}x{width} have more than {limits.max_pixels} pixels; "
            "raise data.reader.max_pixels if they should be read"
        )


def _videos(container: InputContainer) -> list[VideoStream]:
    """The streams of moving pictures, at least one."""
    cover = av.stream.Disposition.attached_pic
    videos = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not videos:
        sound = container.streams.audio
        kind = "audio only" if sound else "no stream at all; was it written to its end?"
        raise UnreadableError(f"it has no video stream ({kind})")
    return videos


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
