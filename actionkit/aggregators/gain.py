"""A mean that trusts later steps more."""

from __future__ import annotations

from torch import Tensor

from actionkit.contracts import Aggregator, Features, Shape
from actionkit.layers.steps import over, ramp


class Gain(Aggregator):
    """Mean of the real steps, weighted from 0 at the first to 1 at the last in equal parts.

    x [B, T, C, H, W] to [B, 1, C, H, W]. For `evaluation.steps` behind a recurrent part that scores
    every step (arXiv:1503.08909); the loss of this name trains so. A single real step counts in
    full; a clip without gives 0.
    """

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.out = inp._replace(steps=1)

    def forward(self, features: Features) -> Features:
        """Weighs and sums the steps, in at least float32."""
        weights = ramp(features.mask)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)  # 0 where none is real
        some = features.mask.any(1, keepdim=True)
        return features._replace(x=weighted_sum(features, weights[..., None]), mask=some)


def weighted_sum(features: Features, weights: Tensor) -> Tensor:
    """[B, 1, C, H, W]: the steps times weights [B, T, C or 1], summed; padding counts as 0."""
    x = features.x.masked_fill(~over(features.mask), 0)
    return (x * weights[..., None, None]).sum(1, keepdim=True).to(features.x.dtype)
