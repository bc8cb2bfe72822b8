"""How far every channel moves over a clip: a package of one temporal aggregator."""

import torch

from actionkit.contracts import Aggregator, Features, Shape


class RangePool(Aggregator):
    """Maximum minus minimum of the real steps: x [B, T, C, H, W] to [B, 1, C, H, W]."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.out = inp._replace(steps=1)

    def forward(self, features: Features) -> Features:
        """The range of every channel; 0 for a clip without real steps."""
        padding, some = ~features.mask[..., None, None, None], features.mask.any(1, keepdim=True)
        high = features.x.masked_fill(padding, -torch.inf).amax(1, keepdim=True)
        low = features.x.masked_fill(padding, torch.inf).amin(1, keepdim=True)
        empty = ~some[..., None, None, None]
        return features._replace(x=(high - low).masked_fill(empty, 0), mask=some)
