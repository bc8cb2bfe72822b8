"""Mirroring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Transform
from actionkit.data.transforms.kinds import PIXELS


class Mirror(Transform):
    """Flips a sample left to right with a probability, all its pixel modalities together.

    Takes [B, V, T, C, H, W], uint8 or float, on any device. In flow (channels dx, dy in turn) what
    moved to the right then moves to the left: dx changes its sign, which in uint8 is 255 - dx.
    Kinds without a picture (score, pose, audio) are left as they are. Evaluation never mirrors.
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"takes a probability from 0 to 1, but gets {probability}")
        self.probability = probability

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """Whether this sample is mirrored."""
        return {"mirror": rng is not None and bool(rng.random() < self.probability)}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Mirrors the samples whose draw says so."""
        chosen = [draw["mirror"] for draw in draws]
        if not any(chosen):
            return clips
        return {
            name: clip._replace(x=_mirror(clip, chosen)) if clip.kind in PIXELS else clip
            for name, clip in clips.items()
        }


def _mirror(clip: Clip, chosen: list[bool]) -> Tensor:
    mirrored = clip.x.flip(-1)  # a copy, so what follows may work in place
    if clip.kind == "flow":
        dx = mirrored[..., 0::2, :, :]
        if dx.dtype == torch.uint8:
            dx.bitwise_not_()  # 255 - dx
        else:
            dx.neg_()
    if all(chosen):
        return mirrored
    rows = torch.tensor(chosen, device=clip.x.device).view(-1, 1, 1, 1, 1, 1)
    return torch.where(rows, mirrored, clip.x)
