"""Temporal convolutions that see far: each layer's steps are further apart."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from actionkit.contracts import Aggregator, Features, Shape
from actionkit.layers.steps import at, real_first


class TCN(Aggregator):
    """Dilated residual convolutions over steps: x [B, T, C, 1, 1] to [B, T, width, 1, 1].

    Temporal convolutional network of Bai et al. (arXiv:1803.01271), with layer normalisation in the
    place of weight normalisation: block i adds to its input two convolutions of `kernel` steps, 2^i
    apart, each with normalisation, ReLU and dropout; where widths differ the input goes through a
    linear layer. So a step sees 1 + 2 (kernel - 1) (2^layers - 1) steps. Padded steps are 0 before
    every convolution, as what is beyond the ends, and those in a gap are left out.

    Args:
        inp: one vector per step.
        width: channels of every layer.
        layers: blocks.
        kernel: steps of a convolution, an odd number unless causal.
        causal: a step sees itself and those before it, else as many behind it.
        dropout: rate within the blocks.

    Raises:
        ValueError: maps instead of vectors, a width, kernel or number of layers below 1, or an even
            kernel that is not causal.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        width: int,
        layers: int = 3,
        kernel: int = 3,
        causal: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels = inp.require_vectors()
        if min(width, layers, kernel) < 1:
            raise ValueError(
                f"takes a width, layers and a kernel of 1 or more, but got {width}, {layers} and "
                f"{kernel}"
            )
        if kernel % 2 == 0 and not causal:
            raise ValueError(
                f"takes an odd kernel, but got {kernel}; set it to {kernel + 1}, or causal to true"
            )
        self.blocks = nn.ModuleList(
            Block(channels if i == 0 else width, width, kernel, 2**i, causal, dropout)
            for i in range(layers)
        )
        self.out = inp._replace(channels=width)

    def forward(self, features: Features) -> Features:
        """Maps the vectors of the real steps."""
        order = real_first(features.mask)
        mask = features.mask.gather(1, order)[..., None]  # [B, T, 1]
        x = at(features.x.flatten(2).masked_fill(~features.mask[..., None], 0), order)
        for block in self.blocks:
            x = block(x, mask)
        return features._replace(x=at(x, order.argsort(1))[..., None, None])


class Block(nn.Module):
    """Two convolutions beside a short cut: [B, T, C] to [B, T, width]."""

    def __init__(
        self, channels: int, width: int, kernel: int, dilation: int, causal: bool, dropout: float
    ) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        self.beyond = (reach, 0) if causal else (reach // 2, reach // 2)
        self.convs = nn.ModuleList(
            nn.Conv1d(c, width, kernel, dilation=dilation) for c in (channels, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.short_cut = nn.Identity() if channels == width else nn.Linear(channels, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Takes and gives 0 where mask [B, T, 1] is False."""
        y = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = conv(F.pad(y.transpose(1, 2), self.beyond)).transpose(1, 2)
            y = self.dropout(norm(y).relu()).masked_fill(~mask, 0)
        return (y + self.short_cut(x)).relu().masked_fill(~mask, 0)
