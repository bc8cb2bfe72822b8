"""Recurrence over the real steps of a clip: plain, LSTM, GRU."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from actionkit.aggregators.stateful import Stateful
from actionkit.contracts import Features, Shape
from actionkit.layers.recurrence import State, choose, require_layers
from actionkit.layers.steps import at, real_first


class _Recurrent(Stateful):
    """Layers of torch's, so that cuDNN runs them, over the real steps."""

    kind: ClassVar[type[nn.RNN | nn.GRU | nn.LSTM]]
    gates: ClassVar[int]  # blocks of a weight matrix
    states: ClassVar[int] = 1

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__()
        if hidden < 1 or layers < 1:
            raise ValueError(
                f"takes 1 or more hidden units and layers, but got {hidden} and {layers}"
            )
        require_layers(layers, dropout)
        self.rnn = self.kind(
            inp.require_vectors(),
            hidden,
            layers,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )
        self.to_one = to == "one"
        ways = 2 if bidirectional else 1
        self.out = inp._replace(channels=ways * hidden, steps=1 if self.to_one else inp.steps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws recurrent weights, orthogonal gate by gate, and sets the biases to 0."""
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(self.gates):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                parameter.zero_()

    def forward(self, features: Features) -> Features:
        """Maps vectors [B, T, C, 1, 1] to the states after each real step, or to the last one."""
        result = super().forward(features)
        return self._end(result) if self.to_one else result

    def fresh(self, features: Features) -> State:
        """Zeros [B, layers and directions, hidden]."""
        places = self.rnn.num_layers * (2 if self.rnn.bidirectional else 1)
        zeros = features.x.new_zeros(len(features.x), places, self.rnn.hidden_size)
        return (zeros,) * self.states

    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """The states after each real step [B, T, D, 1, 1], 0 at padded ones, and the last."""
        if state is not None and self.rnn.bidirectional:
            raise ValueError(
                "reads from both ends, so it cannot go on from one window to the next; "
                "set bidirectional to false, or leave extra['start'] out"
            )
        x, mask = features.x.flatten(2), features.mask  # [B, T, C], [B, T]
        order = real_first(mask)
        x = at(x.masked_fill(~mask[..., None], 0), order)
        # read forward, steps behind the last real one reach none before it
        if (state is not None or self.rnn.bidirectional) and not _full(mask):
            y, end = self._packed(x, mask.sum(1), state)
        else:
            y, end = self.rnn(x, self._as_torch(state))
        y = at(y, order.argsort(1)).masked_fill(~mask[..., None], 0)
        return y[..., None, None], self._as_rows(end)

    def _packed(self, x: Tensor, lengths: Tensor, state: State | None) -> tuple[Tensor, object]:
        """Sequences that end early, so that reading back starts at their ends.

        A clip without real steps is run as one step of zeros, which `read` masks.
        """
        packed = pack_padded_sequence(
            x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, end = self.rnn(packed, self._as_torch(state))
        if state is not None:
            end = self._as_torch(choose(lengths > 0, self._as_rows(end), state))
        return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0], end

    def _end(self, features: Features) -> Features:
        """What each direction knows at its end: forward at the last real step, back at the first.

        At padded steps there are zeros, so a clip without real steps gives 0.
        """
        x, mask = features.x, features.mask
        place = torch.arange(mask.shape[1], device=x.device)
        row = torch.arange(len(x), device=x.device)
        ends = [x[row, (place * mask).argmax(1)]]
        if self.rnn.bidirectional:
            first, hidden = mask.long().argmax(1), self.rnn.hidden_size
            ends = [ends[0][:, :hidden], x[row, first][:, hidden:]]
        some = mask.any(1, keepdim=True)
        return features._replace(x=torch.cat(ends, 1)[:, None], mask=some)

    def _as_torch(self, state: State | None) -> object:
        """As torch's layers take it, [layers, B, hidden]; only an LSTM takes a tuple."""
        if state is None:
            return None
        own = tuple(s.transpose(0, 1).contiguous() for s in state)
        return own if self.states > 1 else own[0]

    def _as_rows(self, end: object) -> State:
        own = end if isinstance(end, tuple) else (end,)
        return tuple(s.transpose(0, 1) for s in own)


class RNN(_Recurrent):
    """Stacked plain recurrence: x [B, T, C, 1, 1] to [B, T, hidden or 2 hidden, 1, 1].

    h = tanh(W x + U h + b) (Elman 1990); h (d + h) + 2 h parameters per layer and direction for d
    inputs and h hidden units. Else as `lstm`.

    Args:
        inp: one vector per step.
        hidden: units of each layer and direction.
        layers: layers on top of each other.
        bidirectional: each layer reads both ways, and hands on both states, forward first.
        dropout: rate between layers; the recurrence and the last layer have none.
        to: `many` = a state for every step; `one` = the state at the end of each direction.

    Raises:
        ValueError: maps instead of vectors, or dropout without a second layer; when run, a state
            to go on from where it reads both ways, or of another number of rows.
    """

    kind, gates = nn.RNN, 1


class GRU(_Recurrent):
    """Stacked GRU: x [B, T, C, 1, 1] to [B, T, hidden or 2 hidden, 1, 1].

    Cho et al. 2014 (arXiv:1406.1078) in the form of cuDNN: h' = (1 - z) n + z h with
    n = tanh(W x + b + r (U h + b')), where the reset gate stands behind the product and z keeps the
    old state; 3 h (d + h) + 6 h parameters per layer and direction for d inputs and h hidden units.
    Else as `lstm`.

    Args:
        inp: one vector per step.
        hidden: units of each layer and direction.
        layers: layers on top of each other.
        bidirectional: each layer reads both ways, and hands on both states, forward first.
        dropout: rate between layers; the recurrence and the last layer have none.
        to: `many` = a state for every step; `one` = the state at the end of each direction.

    Raises:
        ValueError: maps instead of vectors, or dropout without a second layer; when run, a state
            to go on from where it reads both ways, or of another number of rows.
    """

    kind, gates = nn.GRU, 3


class LSTM(_Recurrent):
    """Stacked LSTM: x [B, T, C, 1, 1] to [B, T, hidden or 2 hidden, 1, 1].

    Padded steps, wherever they stand, leave the state as it is and give 0; every clip starts from
    state 0, unless `extra["start"]` says that it goes on. Hochreiter and Schmidhuber 1997, with
    forget gates (Gers 2000), no peepholes. The layers are torch's, so cuDNN runs them; they keep
    two biases, of which only the sum acts: 4 h (d + h) + 8 h parameters per layer and direction for
    d inputs and h hidden units (texts with one bias count 4 h). At start recurrent weights are
    orthogonal gate by gate (arXiv:1312.6120), biases 0 but the forget gates' 1 (Jozefowicz 2015).

    Args:
        inp: one vector per step.
        hidden: units of each layer and direction.
        layers: layers on top of each other.
        bidirectional: each layer reads both ways, and hands on both states, forward first.
        dropout: rate between layers; the recurrence and the last layer have none.
        to: `many` = a state for every step; `one` = the state at the end of each direction.

    Raises:
        ValueError: maps instead of vectors, or dropout without a second layer; when run, a state
            to go on from where it reads both ways, or of another number of rows.
    """

    kind, gates, states = nn.LSTM, 4, 2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in all, but forget gates start with bias 1; torch's gates stand as i, f, g, o."""
        super().reset_parameters()
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias_ih"):
                parameter.chunk(4)[1].fill_(1.0)


def _full(mask: Tensor) -> bool:
    """Whether every step is real. An exported network asserts it, since it cannot choose."""
    if torch.compiler.is_exporting():
        torch._assert_async(mask.all(), "an exported part that reads both ways takes no padding")
        return True
    return bool(mask.all())
