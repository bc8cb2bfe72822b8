"""A GRU whose products are convolutions, so that its state is a map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from actionkit.aggregators.pooling import Last
from actionkit.aggregators.stateful import Stateful
from actionkit.contracts import Features, Shape
from actionkit.layers.convgru import ConvGRULayer, backwards
from actionkit.layers.recurrence import State, require_layers
from actionkit.layers.steps import over


class ConvGRU(Stateful):
    """Convolutional GRU: maps x [B, T, C, H, W] to [B, T, hidden or 2 hidden, H, W].

    Ballas et al. 2016 (arXiv:1511.06432): the products of a GRU are convolutions, with zeros around
    the maps; h' = (1 - z) h + z n with n = tanh(W * x + U * (r h)), as Cho et al. 2014
    (arXiv:1406.1078) have it and other than `gru`. 3 k^2 (C + h) h parameters a layer and direction
    for C channels in, h hidden and a kernel of k x k; no biases. Padded steps, wherever they stand,
    leave the state as it is and give 0; every clip starts from state 0, unless `extra["start"]`
    says that it goes on. At start recurrent weights are orthogonal gate by gate.

    Args:
        inp: a map per step.
        hidden: channels of the state, in each layer and direction.
        kernel: rows and columns of the convolutions of input and state, odd.
        layers: layers on top of each other.
        bidirectional: each layer reads both ways, and hands on both states, forward first.
        dropout: rate between layers; the recurrence and the last layer have none.
        to: `many` = a state for every step; `one` = the state at the end of each direction.

    Raises:
        ValueError: an even kernel, channels that vary, or dropout without a second layer; when run,
            a state to go on from where it reads both ways, or of another number of rows.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        kernel: int = 3,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__()
        require_layers(layers, dropout)
        width = 2 * hidden if bidirectional else hidden
        inputs = [inp.require_channels(), *[width] * (layers - 1)]
        self.layers = nn.ModuleList(ConvGRULayer(n, hidden, kernel) for n in inputs)
        both = inputs if bidirectional else []
        self.back = nn.ModuleList(ConvGRULayer(n, hidden, kernel) for n in both)
        self.dropout = nn.Dropout(dropout)
        whole = inp._replace(channels=width)
        self.last = Last(whole) if to == "one" else None
        self.out = self.last.out if self.last else whole

    def forward(self, features: Features) -> Features:
        """Maps to the states after each real step, or to the last one."""
        result = super().forward(features)
        return result if self.last is None else self._end(result, self.last)

    def fresh(self, features: Features) -> State:
        """Zeros, h of each layer in turn, [B, hidden, H, W]."""
        return tuple(h for layer in self.layers for h in layer.fresh(features.x))  # type: ignore[operator]

    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """The last layer's h after each real step [B, T, D, H, W], 0 at padded ones."""
        if state is not None and self.back:
            raise ValueError(
                "reads from both ends, so it cannot go on from one window to the next; "
                "set bidirectional to false, or leave extra['start'] out"
            )
        state = self.fresh(features) if state is None else state
        x, end = features.x, []
        for number, layer in enumerate(self.layers):
            here = features._replace(x=self.dropout(x) if number else x)
            x, own = layer(here, state[number : number + 1])
            if self.back:
                x = torch.cat([x, self._read_back(number, here)], 2)
            end.extend(own)
        return x.masked_fill(~over(features.mask), 0), tuple(end)

    def _read_back(self, number: int, features: Features) -> Tensor:
        """The states of a layer that starts at the last real step, in the order of the steps."""
        layer = self.back[number]
        return layer(backwards(features), layer.fresh(features.x))[0].flip(1)  # type: ignore[operator]

    def _end(self, features: Features, last: Last) -> Features:
        """What each direction knows at its end, which is the first real step for the one back."""
        if not self.back:
            return last(features)
        ahead, back = (features._replace(x=x) for x in features.x.chunk(2, 2))
        end = last(ahead)
        return end._replace(x=torch.cat([end.x, last(backwards(back)).x], 2))
