"""Writes yuv420p pictures as H.264 in which equal pictures stay equal."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

# Every frame is a key frame at one fixed quantiser, so that its coding depends on nothing but
# itself, and `veryfast` chooses block modes by luma alone, so that no colour moves the luma.
CODEC = {"preset": "veryfast", "g": "1", "qp": "18", "aq-mode": "0"}


class Picture(NamedTuple):
    """One frame in BT.601: luma 0 to 255, chroma around 128.

    Full range, so that every level of luma is one of gray. In limited range every seventh level of
    gray stays empty but for what rounding puts there, which differs by hue: from histograms of gray
    frames a linear classifier then told three hues apart at .56, with chance at .33.
    """

    y: np.ndarray  # [H, W] uint8
    cb: np.ndarray  # [H / 2, W / 2] uint8
    cr: np.ndarray  # [H / 2, W / 2] uint8


def write(path: Path, pictures: Sequence[Picture], fps: int) -> None:
    """Writes an mp4 which appears under its name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.part")
    try:
        _encode(partial, pictures, fps)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, pictures: Sequence[Picture], fps: int) -> None:
    height, width = pictures[0].y.shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=CODEC)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # the bytes must not depend on the number of cores
        context.colorspace, context.color_range = Colorspace.SMPTE170M, ColorRange.JPEG
        context.color_primaries, context.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
        for picture in pictures:
            planes = np.concatenate([plane.ravel() for plane in picture])
            frame = av.VideoFrame.from_ndarray(planes.reshape(-1, width), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
