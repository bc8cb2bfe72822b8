"""Clips as small videos that a browser plays."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import flow_to_image

from actionkit.contracts import Clip
from actionkit.data.transforms.kinds import dequantize_flow

KINDS = ("rgb", "gray", "flow")  # what can be shown, the best first
SIDE = 224  # pixels of the longer side, at most
RATES = (2, 8)  # frames a second, at least and at most
SECONDS = 10  # at most
WARMTH = 0.5  # share of an attention map where it lies on a frame


class Film(NamedTuple):
    """Frames [T, H, W, 3] uint8, and how many are shown in a second."""

    frames: np.ndarray
    rate: int


def film(clips: Mapping[str, Clip], attention: Tensor | None = None) -> Film | None:
    """The first view of a sample as it is seen; None where it has nothing to see.

    Of several modalities the one nearest to what a camera saw is taken; flow becomes colours.
    attention [T', H', W'] float is laid over the whole frames, red where it is high.
    """
    shown = [clip for kind in KINDS for clip in clips.values() if clip.kind == kind]
    if not shown:
        return None
    clip = shown[0]
    real = clip.mask[0]
    x, times = clip.x[0][real].cpu(), clip.times[0][real].cpu()
    if not len(x):
        return None
    frames = np.stack([_small(frame) for frame in _colours(x, clip.kind).numpy()])
    if attention is not None:
        frames = _heated(frames, attention)
    rate = _rate(times)
    return Film(frames[: SECONDS * rate], rate)


def write_film(path: Path, shown: Film) -> Path:
    """Encodes a film as H.264 in an .mp4 file, which all browsers play."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=shown.rate)
        stream.height, stream.width = shown.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, shown.rate)
        for number, image in enumerate(shown.frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, shown.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _colours(x: Tensor, kind: str) -> Tensor:
    """Frames [T, C, H, W] of a kind as [T, H, W, 3] uint8."""
    if kind == "flow":  # of a stack the first field; colours tell directions, bright is fast
        flow = dequantize_flow(x[:, :2]) if x.dtype == torch.uint8 else x[:, :2].float()
        x = flow_to_image(flow)
    elif x.dtype != torch.uint8:
        x = x.float().mul(255).round().clamp(0, 255).to(torch.uint8)
    x = x[:, :1].expand(-1, 3, -1, -1) if x.shape[1] < 3 else x[:, :3]
    return x.permute(0, 2, 3, 1).contiguous()


def _small(frame: np.ndarray) -> np.ndarray:
    """A frame [H, W, 3] with even sides of at most SIDE pixels, as H.264 wants them."""
    sides = frame.shape[:2]
    scale = min(1.0, SIDE / max(sides))
    height, width = (max(2, int(side * scale) // 2 * 2) for side in sides)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _rate(times: Tensor) -> int:
    """Frames a second: the true speed where it is a few, else the nearest."""
    gap = float(times.diff().median()) if len(times) > 1 else 0.0
    return int(np.clip(round(1 / gap), *RATES)) if gap > 0 else RATES[0]


def _heated(frames: np.ndarray, attention: Tensor) -> np.ndarray:
    """Frames [T, H, W, 3] with attention [T', H', W'] over them; step t' covers its share of T."""
    maps = attention.float().cpu().numpy()
    low, high = float(maps.min()), float(maps.max())
    maps = (maps - low) / (high - low) if high > low else np.zeros_like(maps)
    heated = []
    for number, frame in enumerate(frames):
        one = maps[number * len(maps) // len(frames)]
        heat = cv2.resize(one, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
        heated.append(frame * (1 - WARMTH * heat) + np.array([255, 0, 0]) * WARMTH * heat)
    return np.stack(heated).round().astype(np.uint8)
