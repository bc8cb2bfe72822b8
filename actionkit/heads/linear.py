"""A linear classifier for every step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from actionkit.contracts import Features, Head, Shape


class Linear(Head):
    """Dropout and a linear layer: x [B, T, C, 1, 1] to logits [B, T, K, 1, 1].

    Args:
        inp: one vector per step.
        classes: names of the K classes.
        dropout: rate on the vectors.
        init_std: standard deviation of normal weights at start, with biases 0; None = torch's own
            start.

    Raises:
        ValueError: maps instead of vectors, or an init_std below 0.
    """

    def __init__(
        self,
        inp: Shape,
        classes: Sequence[str],
        *,
        dropout: float = 0.0,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(inp.require_vectors(), len(classes))
        if init_std is not None:
            if init_std < 0:
                raise ValueError(f"takes an init_std of 0 or more, but got {init_std}")
            nn.init.normal_(self.linear.weight, std=init_std)
            nn.init.zeros_(self.linear.bias)
        self.out = inp._replace(channels=len(classes))

    def forward(self, features: Features) -> Features:
        """Maps vectors to logits, neither softmax nor loss inside."""
        # padding is put to 0, since 0 * NaN would reach the weights' gradient
        x = features.x.flatten(2).masked_fill(~features.mask[..., None], 0)  # [B, T, C]
        return features._replace(x=self.linear(self.dropout(x))[..., None, None])
