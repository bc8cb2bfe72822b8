"""One convolution over time and space."""

from __future__ import annotations

from typing import Literal

from torch import nn

from actionkit.aggregators.windows import count, cut, fill, fresh, require_window
from actionkit.contracts import Aggregator, Features, Shape
from actionkit.layers.steps import over


class TemporalConv(Aggregator):
    """A convolution over windows of steps: x [B, T, C, H, W] to [B, N, width, H, W].

    Each of the N windows of `length` steps, one every `stride`, becomes one step. Padded steps
    count as 0; a window is real if it has a real step that no window before it has. With length 10,
    stride 5, size 3 and width 256 it is the time-domain convolution of arXiv:1503.08909.

    Args:
        inp: vectors or maps.
        width: channels that leave.
        length: steps of a window.
        stride: from the start of a window to that of the next.
        size: rows and columns of the kernel, an odd number; the map keeps its size.
        activation: what follows.

    Raises:
        ValueError: a width, length or stride below 1, or an even size.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        width: int,
        length: int = 3,
        stride: int = 1,
        size: int = 1,
        activation: Literal["relu", "none"] = "relu",
    ) -> None:
        super().__init__()
        require_window(length, stride)
        if width < 1 or size < 1 or size % 2 == 0:
            raise ValueError(
                f"takes a width of 1 or more and an odd size, but got {width} and {size}"
            )
        self.length, self.stride = length, stride
        self.conv = nn.Conv3d(
            inp.require_channels(),
            width,
            (length, size, size),
            (stride, 1, 1),
            (0, size // 2, size // 2),
        )
        self.activation = nn.ReLU() if activation == "relu" else nn.Identity()
        steps = None if inp.steps is None else count(inp.steps, length, stride)
        self.out = inp._replace(steps=steps, channels=width)

    def forward(self, features: Features) -> Features:
        """Maps windows to steps."""
        x = features.x.masked_fill(~over(features.mask), 0)
        x = fill(x, self.length, self.stride).transpose(1, 2)  # [B, C, T, H, W]
        y = self.activation(self.conv(x)).transpose(1, 2)
        mask = fresh(cut(features.mask, self.length, self.stride), self.stride)
        return features._replace(x=y, mask=mask)
