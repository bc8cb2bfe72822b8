"""Pooling without parameters: over space, and over the real steps of time."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from actionkit.contracts import Aggregator, Features, Shape
from actionkit.layers.steps import mean, over


class SpatialPool(Aggregator):
    """Mean or maximum of each map: x [B, T, C, H, W] to [B, T, C, 1, 1]."""

    def __init__(self, inp: Shape, *, kind: Literal["mean", "max"] = "mean") -> None:
        super().__init__()
        self.kind = kind
        self.out = inp._replace(height=1, width=1)

    def forward(self, features: Features) -> Features:
        """Pools the maps of every step."""
        pool = F.adaptive_max_pool2d if self.kind == "max" else F.adaptive_avg_pool2d
        pooled = pool(features.x.flatten(0, 1), 1)  # [B*T, C, 1, 1]
        return features._replace(x=pooled.unflatten(0, features.mask.shape))


class _TimePool(Aggregator):
    """Real steps to one: x [B, T, C, H, W] to [B, 1, C', H, W], 0 where a clip has no real step."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.out = inp._replace(steps=1)

    def forward(self, features: Features) -> Features:
        """Pools vectors or maps over time; the new step is real if the clip has a real step."""
        some = features.mask.any(1, keepdim=True)  # [B, 1]
        pooled = self.pool(features.x, features.mask)
        return features._replace(x=pooled.masked_fill(~over(some), 0), mask=some)

    @abstractmethod
    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, 1, C', H, W] of x [B, T, C, H, W] and mask [B, T]; anything where none is real."""


class Mean(_TimePool):
    """Mean of the real steps."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """The sum in at least float32, divided by the number of real steps."""
        return mean(x, mask)


class Max(_TimePool):
    """Maximum of the real steps, channel by channel; equal steps share its gradient."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """The maximum, with padding at minus infinity."""
        return x.masked_fill(~over(mask), -torch.inf).amax(1, keepdim=True)


class Min(_TimePool):
    """Minimum of the real steps, channel by channel; equal steps share its gradient.

    After a ReLU it is close to zero everywhere.
    """

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """The minimum, with padding at infinity."""
        return x.masked_fill(~over(mask), torch.inf).amin(1, keepdim=True)


class MaxMin(_TimePool):
    """Maximum and minimum of the real steps, one behind the other along channels: C to 2C."""

    def __init__(self, inp: Shape) -> None:
        super().__init__(inp)
        self.out = self.out._replace(channels=2 * inp.require_channels())

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """[max; min], with padding at minus infinity and infinity."""
        padding = ~over(mask)
        largest = x.masked_fill(padding, -torch.inf).amax(1, keepdim=True)
        smallest = x.masked_fill(padding, torch.inf).amin(1, keepdim=True)
        return torch.cat([largest, smallest], 2)


class Last(_TimePool):
    """The last real step: what a recurrent part knows at the end."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """The step of the highest real position."""
        position = torch.arange(mask.shape[1], device=mask.device)
        last = (position * mask).argmax(1)  # [B]
        return x[torch.arange(len(x), device=x.device), last].unsqueeze(1)
