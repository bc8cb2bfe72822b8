"""Pooling that learns which steps to look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actionkit.aggregators.gain import weighted_sum
from actionkit.contracts import Aggregator, Features, Shape


class AttentionPool(Aggregator):
    """Mean of the real steps, weighted by a softmax of learned queries: to [B, 1, C, 1, 1].

    The channels are cut into `heads` parts. In each, step t weighs exp(q x_t / sqrt(c)) for its own
    query q of c channels. Queries are 0 at start, so that it begins as `mean`. `attention`
    [B, T, 1, 1, 1] is the weight of each step, the mean over heads; its sum over steps is 1.

    Args:
        inp: one vector per step.
        heads: parts of the channels, each with weights of its own.

    Raises:
        ValueError: maps instead of vectors, or channels that heads do not divide.
    """

    def __init__(self, inp: Shape, *, heads: int = 1) -> None:
        super().__init__()
        channels = inp.require_vectors()
        require_heads(channels, heads)
        self.query = nn.Parameter(torch.zeros(heads, channels // heads))
        self.out = inp._replace(steps=1)

    def forward(self, features: Features) -> Features:
        """Pools vectors; the new step is real if the clip has a real step."""
        weights = self._weights(features)  # [B, T, heads]
        each = weights.repeat_interleave(self.query.shape[1], 2)  # [B, T, C]
        x = weighted_sum(features, each)
        return features._replace(
            x=x,
            mask=features.mask.any(1, keepdim=True),
            attention=weights.mean(2)[:, :, None, None, None],
        )

    def _weights(self, features: Features) -> Tensor:
        """[B, T, heads], sum 1 over the real steps; 0 where there is none."""
        padding = ~features.mask[..., None]
        x = features.x.flatten(2).masked_fill(padding, 0).unflatten(2, self.query.shape)
        scores = (x * self.query).sum(3) / self.query.shape[1] ** 0.5
        lowest = torch.finfo(scores.dtype).min  # infinity would give NaN where none is real
        return scores.masked_fill(padding, lowest).softmax(1).masked_fill(padding, 0)


def require_heads(channels: int, heads: int) -> None:
    """Raises ValueError for channels that heads do not divide."""
    if heads < 1 or channels % heads:
        raise ValueError(
            f"cuts its channels into {heads} heads, but {channels} cannot be divided by that"
        )
