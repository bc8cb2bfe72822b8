"""What parts that look at several steps share: order, ranks and ramps of the real steps."""

from __future__ import annotations

import torch
from torch import Tensor


def real_first(mask: Tensor) -> Tensor:
    """[B, T] int64, an order of the steps: the real ones as they come, then the padded ones."""
    return (~mask).long().argsort(dim=1, stable=True)


def at(x: Tensor, order: Tensor) -> Tensor:
    """The steps of x [B, T, D] in an order [B, T]."""
    return x.take_along_dim(order[..., None], 1)


def rank(mask: Tensor) -> Tensor:
    """[B, T] int64: how many real steps stand before each, so that padding counts for nothing."""
    return mask.long().cumsum(1) - mask.long()


def ramp(mask: Tensor) -> Tensor:
    """[B, T] float32: from 0 at the first real step to 1 at the last in equal parts, else 0.

    A single real step has 1.
    """
    others = (mask.sum(1, keepdim=True) - 1).float()
    rising = torch.where(others > 0, rank(mask) / others.clamp(min=1), 1.0)
    return rising * mask


def over(steps: Tensor) -> Tensor:
    """[B, T] seen as [B, T, 1, 1, 1], to meet maps."""
    return steps[:, :, None, None, None]


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """[B, 1, C, H, W], of the real steps of x [B, T, C, H, W]; 0 where none is real."""
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.masked_fill(~over(mask), 0).sum(1, keepdim=True, dtype=wide)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return (total / over(count)).to(x.dtype)
