"""A fully connected layer at every step."""

from __future__ import annotations

from typing import Literal

from torch import nn

from actionkit.contracts import Aggregator, Features, Shape

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


class FC(Aggregator):
    """Linear layer, activation and dropout at every step: x [B, T, C, 1, 1] to [B, T, width, 1, 1].

    The fc6 between a CNN and what models time, as in LRCN (arXiv:1411.4389).

    Args:
        inp: one vector per step.
        width: channels that leave.
        activation: what follows the linear layer.
        dropout: rate on what leaves.
        init_std: standard deviation of normal weights at start; None = torch's own start.
        init_bias: the biases at start; None = torch's own start.

    Raises:
        ValueError: maps instead of vectors, a width below 1, or an init_std below 0.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        width: int,
        activation: Literal["relu", "tanh", "none"] = "relu",
        dropout: float = 0.0,
        init_std: float | None = None,
        init_bias: float | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"takes a width of 1 or more, but got {width}")
        if init_std is not None and init_std < 0:
            raise ValueError(f"takes an init_std of 0 or more, but got {init_std}")
        self.linear = nn.Linear(inp.require_vectors(), width)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        if init_std is not None:
            nn.init.normal_(self.linear.weight, std=init_std)
        if init_bias is not None:
            nn.init.constant_(self.linear.bias, init_bias)
        self.out = inp._replace(channels=width)

    def forward(self, features: Features) -> Features:
        """Maps the vector of every step."""
        # padding is put to 0, since 0 * NaN would reach the weights' gradient
        x = features.x.flatten(2).masked_fill(~features.mask[..., None], 0)  # [B, T, C]
        x = self.dropout(self.activation(self.linear(x)))
        return features._replace(x=x[..., None, None])
