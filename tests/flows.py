"""Clips that move in a known way, and stored flow."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Kind


def moving(steps: int, dx: int, dy: int, seed: int = 0) -> Tensor:
    """Frames [steps, 3, 96, 96] uint8 of a texture that moves by dx, dy pixels a step."""
    noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    whole = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    frames = [whole[32 - t * dy : 128 - t * dy, 32 - t * dx : 128 - t * dx] for t in range(steps)]
    return torch.from_numpy(np.stack(frames)).movedim(-1, -3)


def clip(x: Tensor, kind: Kind = "rgb") -> Clip:
    """A clip [1, 1, T, ...] of x [T, C, H, W], a step a second."""
    steps = x.shape[0]
    times = torch.arange(steps, dtype=torch.float32).view(1, 1, -1)
    return Clip(x[None, None], torch.ones(1, 1, steps, dtype=torch.bool), times, kind)
