"""What the numbers of a clip mean, by its kind: shared by the transforms that depend on it."""

from __future__ import annotations

import torch
from torch import Tensor

from actionkit.contracts import Kind

PIXELS: frozenset[Kind] = frozenset({"rgb", "gray", "flow"})
"""The kinds whose H and W are the picture's, so that they are cropped and mirrored together."""


def quantize_flow(flow: Tensor, bound: float) -> Tensor:
    """Flow in pixels, any shape, as uint8: round(255 (clip(flow, +-bound) + bound) / (2 bound)).

    The form in which TSN (arXiv:1608.00859) and its successors store flow. Within the bound a value
    changes by at most bound / 255 pixels; no motion is 127.5 and stored as 128.
    """
    return flow.float().mul(127.5 / bound).add_(127.5).clamp_(0, 255).round_().to(torch.uint8)


def dequantize_flow(stored: Tensor, bound: float = 1.0) -> Tensor:
    """Stored uint8 flow as float32 in [-bound, bound]; without a bound as a fraction of it."""
    return stored.float().sub_(127.5).mul_(bound / 127.5)
