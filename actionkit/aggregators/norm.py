"""Normalisation of what a step holds."""

from __future__ import annotations

from torch import nn

from actionkit.contracts import Aggregator, Features, Shape


class LayerNorm(Aggregator):
    """Layer normalisation of the channels at every step and place: x [B, T, C, H, W] as it was.

    Each vector over C gets mean 0 and variance 1, then a learned scale and shift per channel, 1 and
    0 at start (arXiv:1607.06450). No step knows of another, nor a place of a map of its neighbours.
    """

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inp.require_channels())
        self.out = inp

    def forward(self, features: Features) -> Features:
        """Normalises vectors or maps."""
        # padding is put to 0, since 0 * NaN would reach the gradients of scale and shift
        x = features.x.masked_fill(~features.mask[:, :, None, None, None], 0)
        return features._replace(x=self.norm(x.movedim(2, -1)).movedim(-1, 2))
