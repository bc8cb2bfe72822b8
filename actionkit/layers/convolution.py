"""Convolutions that keep the size of maps."""

from __future__ import annotations

from torch import nn


def same(channels: int, out: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size of maps. Raises ValueError for a kernel that cannot."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(
            f"takes odd kernels, which keep the size of maps, but got {kernel}; "
            f"set it to {max(kernel, 0) + 1}"
        )
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=bias)
