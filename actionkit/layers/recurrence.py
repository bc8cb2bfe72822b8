"""What recurrences share: a state, which a padded step leaves as it is."""

from __future__ import annotations

import torch
from torch import Tensor

State = tuple[Tensor, ...]  # each [B, ...]


def choose(rows: Tensor, state: State, other: State) -> State:
    """`state` in the rows [B] that are True, `other` elsewhere."""
    pairs = zip(state, other, strict=True)
    return tuple(torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs)


def zeros(x: Tensor, hidden: int, size: torch.Size) -> State:
    """A state h and c [B, hidden, H, W] for x [B, ...]; c, a sum, has float32 at least."""
    h = x.new_zeros(len(x), hidden, *size)
    return h, h.to(at_least_float32(x))


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype of x, or float32 where that is narrower."""
    return torch.promote_types(x.dtype, torch.float32)
