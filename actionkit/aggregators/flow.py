"""Optical flow as pictures that a network made for RGB can look at."""

from __future__ import annotations

import torch

from actionkit.contracts import Aggregator, Features, Shape


class FlowMagnitude(Aggregator):
    """Adds the vector's length to flow: x [B, T, 2, H, W] to [B, T, 3, H, W], dx, dy and length.

    LRCN's flow images (arXiv:1411.4389), for a stream's `before`: three channels meet the three of
    a network pretrained on RGB. The length is in the unit of dx and dy; stored flow comes as a
    fraction of its bound, so it then goes up to the root of 2, and is not cut off at the bound as
    in LRCN's 8-bit images. Where nothing moves its gradient is 0.

    Raises:
        ValueError: other than 2 channels.
    """

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        if inp.channels != 2:
            raise ValueError(
                f"takes flow of 2 channels, dx and dy, but gets {inp.channels or 'any number'}; "
                "put it first in `before` of a stream that takes flow, and leave out flow_stack"
            )
        self.out = inp._replace(channels=3)

    def forward(self, features: Features) -> Features:
        """Maps fields of flow to pictures, zeros at padded steps."""
        # padding is put to 0, since a NaN there would become one in the gradient
        x = features.x.masked_fill(~features.mask[:, :, None, None, None], 0)
        length = torch.linalg.vector_norm(x, dim=2, keepdim=True)  # unlike hypot: gradient 0 at 0
        return features._replace(x=torch.cat([x, length], 2))
