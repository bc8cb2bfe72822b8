"""An LSTM whose products are convolutions, so that its state is a map."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from actionkit.aggregators.pooling import Last
from actionkit.aggregators.stateful import Stateful
from actionkit.contracts import Features, Shape
from actionkit.layers.convlstm import ConvLSTMLayer
from actionkit.layers.recurrence import State, require_layers, zeros
from actionkit.layers.steps import over


class ConvLSTM(Stateful):
    """Convolutional LSTM: maps x [B, T, C, H, W] to [B, T, hidden, H, W], or to the last of them.

    Shi et al. 2015 (arXiv:1506.04214): the products of an LSTM are convolutions, with zeros around
    the maps. 4 k^2 (C + h) h + 4 h parameters a layer for C channels in, h hidden and a kernel of
    k x k. Peepholes weigh the old cell state in gates i and f and the new one in o, each place by
    itself, by 3 h H W weights; texts without, as VideoLSTM, leave them out. Padded steps, wherever
    they stand, leave the state as it is and give 0; every clip starts from state 0, unless
    `extra["start"]` says that it goes on. At start recurrent weights are orthogonal gate by gate,
    biases 0 but the forget gates' 1, peepholes 0.

    Args:
        inp: a map per step.
        hidden: channels of the state, in each layer.
        kernel: rows and columns of the convolutions of input and state, odd.
        peepholes: whether gates see the cell state; then maps have one size.
        layers: layers on top of each other.
        dropout: rate between layers; the recurrence and the last layer have none.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: an even kernel, channels that vary, maps that vary in size for peepholes, or
            dropout without a second layer; when run, a state of another number of rows.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        kernel: int = 3,
        peepholes: bool = False,
        layers: int = 1,
        dropout: float = 0.0,
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__()
        require_layers(layers, dropout)
        self.hidden, size = hidden, _size(inp) if peepholes else None
        inputs = [inp.require_channels(), *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList(ConvLSTMLayer(n, hidden, kernel, size) for n in inputs)
        self.dropout = nn.Dropout(dropout)
        whole = inp._replace(channels=hidden)
        self.last = Last(whole) if to == "one" else None
        self.out = self.last.out if self.last else whole

    def forward(self, features: Features) -> Features:
        """Maps to the states after each real step, or to the last one."""
        result = super().forward(features)
        return result if self.last is None else self.last(result)

    def fresh(self, features: Features) -> State:
        """Zeros, h and c of each layer in turn, [B, hidden, H, W]."""
        return zeros(features.x, self.hidden, features.x.shape[-2:]) * len(self.layers)

    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """The last layer's h after each real step [B, T, hidden, H, W], 0 at padded ones."""
        x, end = features.x, []
        for number, layer in enumerate(self.layers):
            x = self.dropout(x) if number else x
            before = None if state is None else state[2 * number : 2 * number + 2]
            x, own = layer(features._replace(x=x), before)
            end.extend(own)
        return x.masked_fill(~over(features.mask), 0), tuple(end)


def _size(inp: Shape) -> tuple[int, int]:
    if inp.height is None or inp.width is None:
        raise ValueError(
            "has a weight for every place of a map in its peepholes, but gets maps of "
            f"{inp.height or '?'}x{inp.width or '?'}; set peepholes to false, or let "
            "the transforms make frames of one size"
        )
    return inp.height, inp.width
