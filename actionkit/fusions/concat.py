"""Early and mid fusion: streams one behind the other along channels."""

from __future__ import annotations

import torch

from actionkit.contracts import Features, Fusion, Shape
from actionkit.fusions.steps import common_mask, common_steps


class Concat(Fusion):
    """Concatenates along channels: x [B, T, C_i, H, W] of each stream to [B, T, sum of C_i, H, W].

    Takes frames of several modalities, maps or vectors. Streams have equally many steps, or 1,
    which is repeated; a step is real where it is real in all streams.

    Raises:
        ValueError: maps of different sizes, unequal steps, a varying number of channels.
    """

    def __init__(self, inp: dict[str, Shape]) -> None:
        super().__init__()
        sizes = {(shape.height, shape.width) for shape in inp.values()}
        if len(sizes) > 1:
            each = ", ".join(f"'{n}' {s.height or '?'}x{s.width or '?'}" for n, s in inp.items())
            raise ValueError(
                f"needs maps of one size, but {each}; crop the streams alike, or put spatial_pool "
                "into each"
            )
        channels = sum(shape.require_channels() for shape in inp.values())
        self.out = Shape(common_steps(inp), channels, *sizes.pop())

    def forward(self, inputs: dict[str, Features]) -> Features:
        """Concatenates the streams in the order of the recipe."""
        mask = common_mask(inputs)
        steps = mask.shape[1]
        x = torch.cat([f.x.expand(-1, steps, -1, -1, -1) for f in inputs.values()], 2)
        return Features.merge(inputs)._replace(x=x, mask=mask)
