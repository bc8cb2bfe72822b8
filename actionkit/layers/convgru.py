"""One layer of a convolutional GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actionkit.contracts import Features
from actionkit.layers.convolution import same
from actionkit.layers.recurrence import State, at_least_float32, choose, input_shares, steps_of


class ConvGRULayer(nn.Module):
    """A GRU whose products are convolutions: h' = (1 - z) h + z tanh(W * x + U * (r h)).

    Ballas et al. 2016 (arXiv:1511.06432); z and r are sigmoids of such sums too. So the reset gate
    stands inside the product and z takes the new state, both other than in torch's GRU. Gates stand
    as z, r, new; there is no bias, as in the paper. At start the weights of the state are
    orthogonal gate by gate.
    """

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"takes 1 or more hidden channels, but got {hidden}")
        self.hidden = hidden
        self.input = same(channels, 3 * hidden, kernel, bias=False)
        self.gates = same(hidden, 2 * hidden, kernel, bias=False)
        self.new = same(hidden, hidden, kernel, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights of the state; the input's weights are torch's."""
        for gate in (*self.gates.weight.chunk(2), self.new.weight):
            nn.init.orthogonal_(gate)

    def fresh(self, x: Tensor) -> State:
        """Zeros [B, hidden, H, W] for x [B, T, C, H, W]; h, a sum, has float32 at least."""
        return (x.new_zeros(len(x), self.hidden, *x.shape[3:], dtype=at_least_float32(x)),)

    def forward(self, features: Features, state: State) -> tuple[Tensor, State]:
        """The state h after each step [B, T, hidden, H, W], in the dtype of x, and h at the end."""
        states = []
        shares = input_shares(self.input, features)
        for share, real in zip(shares, steps_of(features.mask), strict=True):
            state = choose(real, (self.step(share, *state),), state)
            states.append(state[0].to(features.x.dtype))
        return torch.stack(states, 1), state

    def step(self, share: Tensor, h: Tensor) -> Tensor:
        """The next h [B, hidden, H, W], of the input's share [B, 3 hidden, H, W]."""
        known, seen = h.to(share.dtype), share.split([2 * self.hidden, self.hidden], 1)
        z, r = (seen[0] + self.gates(known)).sigmoid().chunk(2, 1)
        new = (seen[1] + self.new(r * known)).tanh()
        return h + z * (new - h)


def backwards(features: Features) -> Features:
    """The steps from the last to the first.

    Padding then stands in front, where it leaves a state as it is: so each clip is read from its
    own last real step to its first.
    """
    return features._replace(x=features.x.flip(1), mask=features.mask.flip(1))
