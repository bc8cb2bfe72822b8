"""Videos through torchcodec, where it gives the same frames as PyAV."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actionkit.data.readers.container import Limits, UnreadableError
from actionkit.data.readers.decoding import Source, sound
from actionkit.data.readers.table import Table
from actionkit.data.readers.upright import QUARTERS
from actionkit.data.readers.video import VideoReader

_CURE = "set data.reader: pyav"


class TorchCodec(VideoReader):
    """Reads MP4 and Matroska with torchcodec and the system's FFmpeg, one thread, as `pyav` does.

    torchcodec by itself finds frames by their times, so it is off by one and more in AVI files with
    B-frames, which have none: files without times are refused, and mirrored ones. It also patches
    up damaged data, and gives half-built frames where it seeks to a place from which an encoder
    refreshes the picture bit by bit; it says neither. So what a clip needs is first decoded with
    PyAV, which notices damage, and torchcodec seeks only where PyAV's seeks have led to sound
    frames. It is told the times and keyframes that PyAV has found, instead of looking for them.

    Frames are those of `pyav` bit by bit, except that FFmpeg below 8 spreads the chroma of
    interlaced and of 10-bit video otherwise. Options are those of `pyav`; torchcodec itself cannot
    be interrupted, so `timeout` is looked at between two of its frames.
    """

    name: ClassVar[str] = "torchcodec"

    def __init__(
        self,
        *,
        max_pixels: int = 8192 * 8192,
        max_frames: int | None = 10_000_000,
        max_seconds: float | None = None,
        timeout: float = 30.0,
    ) -> None:
        if importlib.util.find_spec("torchcodec") is None:
            raise ValueError(
                "needs the package torchcodec, which is not installed; "
                f"pip install 'actionkit[torchcodec]', or {_CURE}"
            )
        try:
            import torchcodec.decoders  # noqa: F401  it loads FFmpeg's libraries
        except (ImportError, OSError, RuntimeError) as error:
            raise ValueError(
                "cannot load torchcodec, which needs the shared libraries of FFmpeg and the "
                f"release of torch that it was made for; install both, or {_CURE}"
            ) from error
        super().__init__(Limits(max_pixels, max_frames, max_seconds, timeout))

    def _table(self, path: Path) -> Table:
        table = super()._table(path)
        why = (
            "stores no times, or not one for each frame" if not table.timed
            else "is mirrored" if table.turn not in QUARTERS
            else ""
        )  # fmt: skip
        if why:
            raise UnreadableError(f"it {why}, which torchcodec cannot read; {_CURE}")
        return table

    def _images(self, source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        keys, info = source.table.keys if sound(source, wanted) else (), source.table.info
        try:
            with ExitStack() as stack:
                video = _open(source, frozenset(keys), stack)
                for number in wanted:
                    source.deadline.left()
                    image = video.get_frame_at(number).data.numpy()
                    if image.shape != (info.height, info.width, 3):
                        raise UnreadableError(f"torchcodec gives frames of another size; {_CURE}")
                    yield number, image
        except UnreadableError:
            raise
        except Exception as error:  # RuntimeError, with all that its FFmpeg has to say
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnreadableError(f"torchcodec refuses it ({reason}); {_CURE}") from error


def _open(source: Source, keys: frozenset[int], stack: ExitStack) -> Any:
    """A decoder that seeks to `keys` alone, and to the first frame."""
    from torchcodec.decoders import VideoDecoder  # not installed everywhere

    times = source.table.times
    ends = itertools.chain(itertools.islice(times, 1, None), [times[-1] + 1])
    frames = [
        {"pts": time, "duration": end - time, "key_frame": int(number in keys or not number)}
        for number, (time, end) in enumerate(zip(times, ends, strict=True))
    ]
    try:
        source.path.encode()
        file: Any = source.path
    except UnicodeEncodeError:  # torchcodec takes no other names, but it takes open files
        file = stack.enter_context(io.FileIO(source.path))
    return VideoDecoder(
        file,
        stream_index=source.table.stream,
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        device="cpu",
        custom_frame_mappings=json.dumps({"frames": frames}),
    )
