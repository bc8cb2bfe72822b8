"""Changing the frames of one sample alike: shared by the transforms of colour and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actionkit.contracts import Clip, Kind

IMAGES: frozenset[Kind] = frozenset({"rgb", "gray"})
"""The kinds whose numbers are light."""

CHUNK = 4  # frames changed at once on a CPU: as floats they stay in its cache (2.5 times faster)


def change_images(
    clips: dict[str, Clip],
    draws: list[dict[str, Any]],
    change: Callable[[Tensor, dict[str, Any]], Tensor],
) -> dict[str, Clip]:
    """Sends the rgb and gray frames of each sample through `change` with its draw.

    `change` gets some frames [N, C, H, W] uint8 of one sample at a time, a copy, and gives as many,
    uint8 or float in 0 to 255 without fractions. Samples with an empty draw and other kinds stay as
    they are; padded steps become zeros, memory keeps its order.

    Raises ValueError for frames that are not uint8, or not of 1 or 3 channels.
    """
    if not any(draws):
        return clips
    return {
        name: clip._replace(x=_change(name, clip, draws, change)) if clip.kind in IMAGES else clip
        for name, clip in clips.items()
    }


def _change(
    name: str,
    clip: Clip,
    draws: list[dict[str, Any]],
    change: Callable[[Tensor, dict[str, Any]], Tensor],
) -> Tensor:
    if clip.x.dtype != torch.uint8:
        raise ValueError(
            f"takes uint8 frames, but {name!r} is {clip.x.dtype}; put it before what makes them "
            "float (normalize)"
        )
    if clip.x.shape[-3] not in (1, 3):
        raise ValueError(
            f"takes frames of 1 or 3 channels, but {name!r} has {clip.x.shape[-3]}; put it before "
            "what stacks them"
        )
    out = clip.x.clone()
    for sample, mask, draw in zip(out, clip.mask, draws, strict=True):
        if draw:
            for view in sample:
                for frames in view.split(CHUNK if view.device.type == "cpu" else len(view)):
                    frames.copy_(change(frames, draw))
            if not bool(mask.all()):
                sample[~mask] = 0
    return out
