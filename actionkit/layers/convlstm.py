"""One layer of a convolutional LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actionkit.contracts import Features
from actionkit.layers.convolution import same
from actionkit.layers.recurrence import State, choose, input_shares, steps_of, zeros


class ConvLSTMLayer(nn.Module):
    """An LSTM whose products are convolutions; its gates stand as i, f, g, o, as in torch's LSTM.

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

    def forward(self, features: Features, state: State | None = None) -> tuple[Tensor, State]:
        """The state h after each step [B, T, hidden, H, W], and h and c at the end; None = from 0.

        From 0 the first of several steps has no product with the state.
        """
        x = features.x
        fresh = state is None and x.shape[1] > 1  # of one step: DDP waits for all gradients
        state = state or zeros(x, self.state.in_channels, x.shape[-2:])
        states = []
        shares = input_shares(self.input, features)
        for share, real in zip(shares, steps_of(features.mask), strict=True):
            after = self.cell(share, state) if fresh else self.step(share, state)
            fresh, state = False, choose(real, after, state)
            states.append(state[0])
        return torch.stack(states, 1), state

    def step(self, share: Tensor, state: State) -> State:
        """The next h and c [B, hidden, H, W], of the input's share [B, 4 hidden, H, W]."""
        return self.cell(share + self.state(state[0]), state)

    def cell(self, sums: Tensor, state: State) -> State:
        """The next h and c, of the sums of the gates [B, 4 hidden, H, W]."""
        h, c = state
        i, f, g, o = sums.chunk(4, 1)
        to_i, to_f, to_o = (None,) * 3 if self.peepholes is None else self.peepholes.unbind()
        c = _seen(f, to_f, c).sigmoid() * c + _seen(i, to_i, c).sigmoid() * g.tanh()
        return (_seen(o, to_o, c).sigmoid() * c.tanh()).to(h.dtype), c


def _seen(gate: Tensor, peephole: Tensor | None, c: Tensor) -> Tensor:
    return gate if peephole is None else gate + peephole * c
