"""Maps, and steps, as one vector."""

from __future__ import annotations

from actionkit.contracts import Aggregator, Features, Shape
from actionkit.layers.steps import over


class Flatten(Aggregator):
    """Lays each map into a vector: x [B, T, C, H, W] to [B, T, C H W, 1, 1].

    What is fully connected to it then knows of every place, as in AlexNet and VGG.

    Args:
        inp: maps of a fixed size.
        steps: lays the steps one behind the other too, [B, 1, T C H W, 1, 1], padded ones as 0; the
            clip's step is real if it has a real step. Needs a fixed number of steps.

    Raises:
        ValueError: sizes that vary.
    """

    def __init__(self, inp: Shape, *, steps: bool = False) -> None:
        super().__init__()
        channels = inp.require_channels()
        if inp.height is None or inp.width is None:
            raise ValueError(
                f"needs maps of one size, but gets {inp.height or '?'}x{inp.width or '?'}; "
                "put spatial_pool in its place"
            )
        size = channels * inp.height * inp.width
        self.steps = steps
        self.out = Shape(inp.steps, size, 1, 1)
        if steps:
            if inp.steps is None:
                raise ValueError(
                    "lays the steps one behind the other, but their number varies; sample a fixed "
                    "number, or pool them"
                )
            self.out = Shape(1, inp.steps * size, 1, 1)

    def forward(self, features: Features) -> Features:
        """Lays maps, or whole clips, into vectors."""
        x, mask = features.x, features.mask
        if self.steps:
            x = x.masked_fill(~over(mask), 0).flatten(1)[:, None]
            mask = mask.any(1, keepdim=True)
        return features._replace(x=x.flatten(2)[..., None, None], mask=mask)
