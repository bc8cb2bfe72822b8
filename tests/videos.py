"""Makers of test videos."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames [T, H, W, 3] uint8, every one different: noise that drifts to the right."""
    texture = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    image = np.kron(texture, np.ones((5, 5, 1), np.uint8))[:height, :width]
    frames = np.stack([np.roll(image, 3 * t, axis=1) for t in range(count)])
    frames[:, :8, :8] = (np.arange(count, dtype=np.int64) * 37 % 256)[:, None, None, None]
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: int = 25,
    times: Iterable[int] | None = None,
    rotation: int = 0,
    container_options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    max_b_frames: int | None = None,
) -> Path:
    """Encodes frames [T, H, W, 3] uint8 into the container that the suffix names.

    `times` are presentation times in milliseconds, for a variable rate; `rotation` is written as
    metadata, in degrees counter-clockwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.thread_count = 1
        if max_b_frames is not None:
            stream.max_b_frames = max_b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        unit = Fraction(1, 1000) if times is not None else Fraction(1, rate)
        stream.codec_context.time_base = unit
        times = range(len(frames)) if times is None else times
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
