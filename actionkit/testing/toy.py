"""Toy data: features with shape and mask, clips, and small videos, all made on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Features, Kind, Shape

CLASSES = ("run", "jump", "throw", "climb", "swim")
SIZES = (  # channels, height, width: what parts are offered, in this order
    (3, 32, 32), (4, 8, 8), (8, 1, 1), (3, 64, 64), (3, 112, 112), (3, 224, 224), (2, 32, 32),
)  # fmt: skip
STEPS = (7, 16, 1)


def shapes() -> Iterator[Shape]:
    """The input shapes a part is offered, until it takes one."""
    for steps in STEPS:
        for size in SIZES:
            yield Shape(steps, *size)


def features(
    shape: Shape, mask: Tensor | None = None, *, batch: int = 3, seed: int = 0
) -> Features:
    """Normal noise of a shape, [B, T, C, H, W]; every step is real unless a mask [B, T] is given.

    Where a size varies (None) it is 7 steps, 8 channels, 8 x 8.
    """
    sizes = [s or free for s, free in zip(shape, (7, 8, 8, 8), strict=True)]
    if mask is None:
        mask = torch.ones(batch, sizes[0], dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(*mask.shape, *sizes[1:], generator=generator), mask.clone())


def masks(steps: int) -> Tensor:
    """[4, T] bool: a full clip, a short one, one with gaps, one of padding only."""
    step = torch.arange(steps)
    rows = [step >= 0, step < (steps + 1) // 2, (step % 3 != 1) & (step < steps - 1), step < 0]
    return torch.stack(rows)


def fill_padding(given: Features, value: float | Tensor) -> Features:
    """The same features with other content at the padded steps."""
    real = given.mask[:, :, None, None, None]
    return given._replace(x=torch.where(real, given.x, torch.as_tensor(value, dtype=given.x.dtype)))


def clip(
    kind: Kind, *, steps: int = 12, channels: int = 3, size: int = 32, batch: int = 2, seed: int = 0
) -> Clip:
    """A batch of clips, x [B, 2, T, C, H, W] uint8; the last sample's last step is padding."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (batch, 2, steps, channels, size, size), np.uint8)
    mask = torch.ones(batch, 2, steps, dtype=torch.bool)
    mask[-1, -1, -1] = False
    times = (torch.arange(steps) / 25).expand(batch, 2, steps).masked_fill(~mask, torch.nan)
    return Clip(torch.from_numpy(x), mask, times, kind)


def video(path: Path, *, codec: str, frames: int = 24, height: int = 48, width: int = 64) -> Path:
    """Writes a video with B-frames of which no two frames are alike; .mp4 or .avi by its suffix."""
    texture = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    still = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    moving = np.stack([np.roll(still, 5 * t, axis=1) for t in range(frames)])
    return write_video(path, moving, codec=codec, options={"g": "12", "bf": "2", "b": "4M"})


def images(folder: Path, frames: np.ndarray) -> Path:
    """Writes frames [T, H, W, 3] uint8 as a folder of images, img_00001.png and so on."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"img_{number:05}.png"), frame[..., ::-1])
    return folder


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    rate: int = 25,
    times: Iterable[int] | None = None,
    rotation: int = 0,
    container_options: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Encodes frames [T, H, W, 3] uint8 into the container that the suffix names.

    `times` are presentation times in milliseconds, for a variable rate; `rotation` is written as
    metadata, in degrees counter-clockwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        unit = Fraction(1, rate) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        for packet in packets(stream, frames, unit, range(len(frames)) if times is None else times):
            container.mux(packet)
    return path


def packets(stream: Any, frames: np.ndarray, unit: Fraction, times: Iterable[int]) -> Iterator[Any]:
    """Frames [T, H, W, 3] uint8, shown at times in `unit`, as packets of a stream being written."""
    for image, time in zip(frames, times, strict=True):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = time, unit
        yield from stream.encode(frame)
    yield from stream.encode()


def decode(path: Path) -> np.ndarray:
    """All frames [T, H, W, 3] uint8 of a video, one after the other: what a reader must give."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
