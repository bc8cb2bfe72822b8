"""From uint8 to the floats a network sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actionkit.contracts import Clip, Transform
from actionkit.data.transforms.kinds import dequantize_flow


class Normalize(Transform):
    """Makes clips float32 of about zero mean and unit deviation, on the device they lie on.

    rgb [B, V, T, 3, H, W] becomes (x / 255 - mean) / std, gray [B, V, T, 1, H, W] the same with the
    means of the three; float clips are taken as 0 to 1. The defaults are ImageNet's. Stored flow
    becomes a fraction of its bound, -1 to 1, and flow that is float already keeps its values, as
    does every other kind.
    """

    runs_on = "batch"

    def __init__(
        self,
        *,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        if min(std) <= 0:
            raise ValueError(f"takes a std above 0, but gets {std}")
        self.mean, self.std = mean, std

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Normalises every clip; nothing is random. Raises ValueError for rgb not of 3 channels."""
        return {name: self._normalize(name, clip) for name, clip in clips.items()}

    def _normalize(self, name: str, clip: Clip) -> Clip:
        if clip.kind == "rgb" and clip.x.shape[-3] != 3:
            raise ValueError(f"takes rgb of 3 channels, but {name!r} has {clip.x.shape[-3]}")
        if clip.kind == "rgb":
            return clip._replace(x=_normalize(clip.x, list(self.mean), list(self.std)))
        if clip.kind == "gray":
            return clip._replace(x=_normalize(clip.x, [sum(self.mean) / 3], [sum(self.std) / 3]))
        return as_float(clip)


def _normalize(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """(x / most - mean) / std as one multiplication and addition; x [..., C, H, W]."""
    most = 255 if x.dtype == torch.uint8 else 1
    scale = [1 / (most * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    factors = torch.tensor([scale, bias], device=x.device)[..., None, None]  # [2, C, 1, 1]
    return torch.addcmul(factors[1], x, factors[0])  # promotes x on the way: one pass over it


def as_float(clip: Clip) -> Clip:
    """A clip as float32: of uint8, rgb and gray are 0 to 1 and flow is -1 to 1; others keep values.

    What the network gets where no transform made a clip float.
    """
    if clip.x.dtype != torch.uint8:
        return clip._replace(x=clip.x.float())
    if clip.kind == "flow":
        return clip._replace(x=dequantize_flow(clip.x))
    x = clip.x.float()
    return clip._replace(x=x.div_(255) if clip.kind in ("rgb", "gray") else x)
