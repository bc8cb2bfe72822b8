"""Videos through decord, where it gives the same frames as PyAV, and never where it would not."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actionkit.data.readers.container import Limits, UnreadableError
from actionkit.data.readers.decoding import Source, sound
from actionkit.data.readers.table import Table
from actionkit.data.readers.video import VideoReader

_CURE = "set data.reader: pyav"


class Decord(VideoReader):
    """Reads local video files with decord, one thread, the same frames as `pyav`, but slower.

    decord by itself patches up damaged data, and finds wrong frames by seeking in AVI files and
    where frames refer to those before a keyframe; it says neither. So what a clip needs is first
    decoded with PyAV, which notices damage. Then decord may seek only where PyAV's seeks, to every
    keyframe that decord will choose, have led to sound frames; all other files it decodes from the
    start. Files that are turned, mirrored, of a variable rate or with several video streams are
    refused. Options are those of `pyav`; decord itself cannot be interrupted, so `timeout` is
    looked at between two of its frames.

    decord 0.6 brings an FFmpeg of 2018 that receives no corrections: read files you trust.
    """

    name: ClassVar[str] = "decord"

    def __init__(
        self,
        *,
        max_pixels: int = 8192 * 8192,
        max_frames: int | None = 10_000_000,
        max_seconds: float | None = None,
        timeout: float = 30.0,
    ) -> None:
        if importlib.util.find_spec("decord") is None:
            raise ValueError(
                "needs the package decord, which is not installed (it is made for x86-64 only); "
                f"{_CURE}"
            )
        super().__init__(Limits(max_pixels, max_frames, max_seconds, timeout))

    def _table(self, path: Path) -> Table:
        table = super()._table(path)
        why = (
            str(table.turn) if any(table.turn)
            else "has a variable rate" if table.variable
            else "has several video streams" if table.streams > 1
            else ""
        )  # fmt: skip
        if why:
            raise UnreadableError(f"it {why}, which decord cannot read; {_CURE}")
        return table

    def _images(self, source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        seek, info = sound(source, wanted), source.table.info
        try:
            for number, image in (_by_seeking if seek else _from_the_start)(source, wanted):
                if image.shape != (info.height, info.width, 3):
                    raise UnreadableError(f"decord gives frames of another size; {_CURE}")
                yield number, image
        except UnreadableError:
            raise
        except Exception as error:  # its exceptions have no base class of their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UnreadableError(f"decord refuses it ({reason}); {_CURE}") from error


def _by_seeking(source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    video = _open(source)
    if video.get_key_indices() != list(source.table.keys):
        raise UnreadableError(f"decord finds other keyframes than PyAV; {_CURE}")
    for number in wanted:
        source.deadline.left()
        yield number, video[number].asnumpy()


def _from_the_start(source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Takes one frame after the other: anything else would make decord seek."""
    video, left = _open(source), set(wanted)
    for number in range(wanted[-1] + 1 if wanted else 0):
        source.deadline.left()
        frame = video.next()
        if number in left:
            yield number, frame.asnumpy()


def _open(source: Source) -> Any:
    import decord  # not earlier: its libraries are then the whole process's, beside those of PyAV

    decord.logging.set_level(decord.logging.QUIET)  # what its FFmpeg prints, PyAV has looked into
    try:
        source.path.encode()
        video = decord.VideoReader(source.path, num_threads=1)
    except UnicodeEncodeError:  # decord takes no other names, but it takes contents
        with open(source.path, "rb") as file:
            video = decord.VideoReader(file, num_threads=1)
    if len(video) != len(source.table.times):
        raise UnreadableError(
            f"decord counts {len(video)} frames where there are {len(source.table.times)}; {_CURE}"
        )
    return video
