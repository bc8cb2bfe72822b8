"""An LSTM whose products are convolutions, so that its state is a map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from actionkit.aggregators.pooling import Last
from actionkit.aggregators.stateful import State, Stateful, choose
from actionkit.aggregators.steps import over
from actionkit.contracts import Features, Shape, pack, unpack


class Recurrence(nn.Module):
    """One layer; its gates stand as i, f, g, o, as in torch's LSTM.

    At start the weights of the state are orthogonal gate by gate, biases 0 but the forget gates' 1,
    and peepholes, for maps of a size [H, W], 0.
    """

    def __init__(
        self, channels: int, hidden: int, kernel: int, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"takes 1 or more hidden channels, but got {hidden}")
        self.input = same(channels, 4 * hidden, kernel)
        self.state = same(hidden, 4 * hidden, kernel, bias=False)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, *size)) if size else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights of the state, and sets biases; the input's weights are torch's."""
        for gate in self.state.weight.chunk(4):
            nn.init.orthogonal_(gate)
        bias = torch.zeros(4, self.state.in_channels)
        bias[1] = 1.0
        self.input.bias = nn.Parameter(bias.flatten())

    def forward(self, features: Features, state: State) -> tuple[Tensor, State]:
        """The state h after each step [B, T, hidden, H, W], and h and c at the end."""
        # no state is in the input's share, so that one convolution serves all real steps
        shares = unpack(self.input(pack(features)), features).x
        states = []
        # the gradient of unbind is one stack, that of each index a tensor of all steps
        for share, real in zip(shares.unbind(1), features.mask.unbind(1), strict=True):
            state = choose(real, self.step(share, state), state)
            states.append(state[0])
        return torch.stack(states, 1), state

    def step(self, share: Tensor, state: State) -> State:
        """The next h and c [B, hidden, H, W], of the input's share [B, 4 hidden, H, W]."""
        h, c = state
        i, f, g, o = (share + self.state(h)).chunk(4, 1)
        to_i, to_f, to_o = (None,) * 3 if self.peepholes is None else self.peepholes.unbind()
        c = _seen(f, to_f, c).sigmoid() * c + _seen(i, to_i, c).sigmoid() * g.tanh()
        return (_seen(o, to_o, c).sigmoid() * c.tanh()).to(h.dtype), c


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
        if layers < 1:
            raise ValueError(f"takes 1 or more layers, but got {layers}")
        if dropout and layers == 1:
            raise ValueError(
                f"has dropout {dropout} between its layers, but only one layer; "
                "set layers to 2 or more, or leave dropout out"
            )
        self.hidden, size = hidden, _size(inp) if peepholes else None
        inputs = [inp.require_channels(), *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList(Recurrence(n, hidden, kernel, size) for n in inputs)
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
        state = self.fresh(features) if state is None else state
        x, end = features.x, list[Tensor]()
        for number, layer in enumerate(self.layers):
            x = self.dropout(x) if number else x
            x, own = layer(features._replace(x=x), state[2 * number : 2 * number + 2])
            end.extend(own)
        return x.masked_fill(~over(features.mask), 0), tuple(end)


def _seen(gate: Tensor, peephole: Tensor | None, c: Tensor) -> Tensor:
    return gate if peephole is None else gate + peephole * c


def _size(inp: Shape) -> tuple[int, int]:
    if inp.height is None or inp.width is None:
        raise ValueError(
            "has a weight for every place of a map in its peepholes, but gets maps of "
            f"{inp.height or '?'}x{inp.width or '?'}; set peepholes to false, or let "
            "the transforms make frames of one size"
        )
    return inp.height, inp.width


def same(channels: int, out: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size of maps. Raises ValueError for a kernel that cannot."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(
            f"takes odd kernels, which keep the size of maps, but got {kernel}; "
            f"set it to {max(kernel, 0) + 1}"
        )
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=bias)


def zeros(x: Tensor, hidden: int, size: torch.Size) -> State:
    """A state h and c [B, hidden, H, W] for x [B, ...]; c, a sum, has float32 at least."""
    h = x.new_zeros(len(x), hidden, *size)
    return h, h.to(at_least_float32(x))


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype of x, or float32 where that is narrower."""
    return torch.promote_types(x.dtype, torch.float32)
