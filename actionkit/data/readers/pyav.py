"""Videos through PyAV: frame i is the same picture, whatever else is read and in whatever order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from actionkit.data.readers.container import Limits
from actionkit.data.readers.decoding import Source, decode
from actionkit.data.readers.video import VideoReader


class PyAV(VideoReader):
    """Reads local video files with PyAV (FFmpeg), one thread, bit-equal to decoding from the start.

    Index i is the i-th frame in the order of presentation; where a file's times are not evenly
    spaced, half a frame or more off, it is the frame on the screen at i / fps seconds, fps being
    the mean rate. In MP4 and Matroska frames are found by their times, by a seek where that saves
    work, and H.264 pictures that neither are wanted nor serve as a reference are not decoded. In
    other containers, AVI above all, frames are counted from the start of the file and taken as
    evenly spaced; in an MPEG-4 AVI, what this process has counted once is found by a seek, too.
    Frames are turned and mirrored as the file says, in quarter turns.

    A file's first video stream counts, cover pictures aside. One whose frames have more than
    `max_pixels`, or which claims more than `max_frames` or `max_seconds`, is refused, and so is one
    that takes more than `timeout` seconds to be listed, or to give a clip.

    A frame that FFmpeg reports as damaged raises. Flipped bits that still form valid syntax cannot
    be noticed: video codecs carry no checksum.
    """

    name: ClassVar[str] = "pyav"

    def __init__(
        self,
        *,
        max_pixels: int = 8192 * 8192,
        max_frames: int | None = 10_000_000,
        max_seconds: float | None = None,
        timeout: float = 30.0,
    ) -> None:
        super().__init__(Limits(max_pixels, max_frames, max_seconds, timeout))

    def _images(self, source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        reformatter = VideoReformatter()  # keeps the conversion it has set up for the first frame
        for number, frame in decode(source, wanted):
            yield number, source.table.turn.apply(_rgb(frame, reformatter))


def _rgb(frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """The frame as it is stored, a view, uint8 [H, W, 3]."""
    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    rows = np.asarray(memoryview(rgb.planes[0])).reshape(-1, rgb.planes[0].line_size)
    return rows[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
