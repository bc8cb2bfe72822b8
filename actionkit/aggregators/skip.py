"""Recurrence that learns which steps to skip."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from actionkit.aggregators.pooling import Last
from actionkit.aggregators.stateful import Stateful
from actionkit.contracts import Features, Shape
from actionkit.layers.recurrence import State, at_least_float32, choose, steps_of


class _Layer(nn.Module):
    """The candidate of a layer's next state."""

    gates: ClassVar[int]  # blocks of a weight matrix
    states: ClassVar[int]  # h, then c where there is one
    two_biases: ClassVar[bool]

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, self.gates * hidden)
        self.state = nn.Linear(hidden, self.gates * hidden, bias=self.two_biases)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights of the state, and sets biases; the input's weights are torch's."""
        for gate in self.state.weight.chunk(self.gates):
            nn.init.orthogonal_(gate)
        self.input.bias.zero_()
        if self.two_biases:
            self.state.bias.zero_()

    @abstractmethod
    def forward(self, share: Tensor, state: State) -> State:
        """The candidate, of the input's share [B, gates hidden] and a state, each [B, hidden]."""


class _LSTMLayer(_Layer):
    gates, states, two_biases = 4, 2, False  # i, f, g, o

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.input.bias.chunk(4)[1].fill_(1.0)

    def forward(self, share: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (share + self.state(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return (o.sigmoid() * c.tanh()).to(h.dtype), c


class _GRULayer(_Layer):
    gates, states, two_biases = 3, 1, True  # r, z, n

    def forward(self, share: Tensor, state: State) -> State:
        (h,) = state
        x_r, x_z, x_n = share.chunk(3, 1)
        h_r, h_z, h_n = self.state(h).chunk(3, 1)
        z = (x_z + h_z).sigmoid()
        n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        return (((1 - z) * n + z * h).to(h.dtype),)


class _Skip(Stateful):
    """Layers that all update at a step, or all keep their states.

    A state holds, behind those of the layers, the probability found at the last update, and what
    has added up of it since, both [B].
    """

    kind: ClassVar[type[_Layer]]

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        layers: int = 1,
        budget: float = 0.0,
        target: float = 0.0,
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__()
        if hidden < 1 or layers < 1:
            raise ValueError(
                f"takes 1 or more hidden units and layers, but got {hidden} and {layers}"
            )
        if budget < 0:
            raise ValueError(f"takes a budget of 0 or more, but got {budget}; set it to 0")
        if not 0 <= target <= 1:
            raise ValueError(
                f"takes a target of 0 to 1, a share of the steps, but got {target}; leave it out"
            )
        inputs = [inp.require_vectors(), *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList(self.kind(n, hidden) for n in inputs)
        self.gate = nn.Linear(hidden, 1)
        nn.init.ones_(self.gate.bias)
        # s_0 in one row, as biases are, so that no weight decay pulls at it
        self.start = nn.Parameter(torch.zeros(layers * self.kind.states * hidden))
        self.hidden, self.budget, self.target = hidden, budget, target
        whole = inp._replace(channels=hidden)
        self.last = Last(whole) if to == "one" else None
        self.out = self.last.out if self.last else whole

    def forward(self, features: Features) -> Features:
        """Maps vectors [B, T, C, 1, 1] to the states after each real step, or to the last one."""
        read = super().forward(features)
        x, updates = read.x.split([self.hidden, 1], 2)
        result = self._counted(read._replace(x=x.to(features.x.dtype)), updates.flatten(1))
        return result if self.last is None else self.last(result)

    def _counted(self, features: Features, updates: Tensor) -> Features:
        """With the share of updates [B, T] among real steps in `extra`, their cost in `penalty`."""
        used, real = updates.sum(1), features.mask.sum(1)  # [B]
        share = used.detach().sum() / real.sum().clamp(min=1)
        features = features._replace(extra={**(features.extra or {}), "updates": share})
        if not self.budget:
            return features
        cost = self.budget * (used - self.target * real).abs().mean()
        return features._replace(
            penalty=cost if features.penalty is None else features.penalty + cost
        )

    def fresh(self, features: Features) -> State:
        """The learned s_0 in every row, and a probability of 1, so that the first step updates."""
        x, rows = features.x, len(features.x)
        wide = at_least_float32(x)  # for c and what adds up
        states = [
            s.to(wide if number % self.kind.states else x.dtype).expand(rows, -1)
            for number, s in enumerate(self.start.split(self.hidden))
        ]
        return *states, x.new_ones(rows, dtype=wide), x.new_zeros(rows, dtype=wide)

    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """The states and, as last channel, whether it updated; 0 at padded steps."""
        state = self.fresh(features) if state is None else state
        padding = ~features.mask[..., None]
        x = features.x.flatten(2).masked_fill(padding, 0)
        read = []
        # the first layer's input hangs on no state, so that one product serves all steps
        shares = self.layers[0].input(x).unbind(1)  # type: ignore[operator]
        # the gradient of unbind is one stack, that of each index a tensor of all steps
        for share, real in zip(shares, steps_of(features.mask), strict=True):
            update, after = self.step(share, state)
            state = choose(real, after, state)
            h = state[-2 - self.kind.states]  # the top layer's
            read.append(torch.cat([h, update[:, None]], 1))
        return torch.stack(read, 1).masked_fill(padding, 0)[..., None, None], state

    def step(self, share: Tensor, state: State) -> tuple[Tensor, State]:
        """Whether it updates [B], 0 or 1, and the next state, of the first layer's share [B, D]."""
        *old, last, total = state
        total = total + torch.minimum(last, 1 - total)
        update = straight_through(total)
        new: list[Tensor] = []
        states = self.kind.states
        for number, layer in enumerate(self.layers):
            if number:
                share = layer.input(new[-states])  # type: ignore[operator]
            new += layer(share, tuple(old[number * states : (number + 1) * states]))
        after = (*new, self._probability(new[-1]).to(total.dtype), torch.zeros_like(total))
        return update, _mixed(update, after, (*old, last, total))

    def _probability(self, top: Tensor) -> Tensor:
        """[B], of the top layer's c or h [B, hidden]."""
        # no product of matrices, which autocast would round, since this adds up over steps
        return ((top * self.gate.weight).sum(1) + self.gate.bias).sigmoid()


class SkipLSTM(_Skip):
    """LSTM that skips steps: x [B, T, C, 1, 1] to [B, T, hidden, 1, 1].

    Skip RNN (Campos et al. 2018, arXiv:1708.06834), in the form of its code. A probability adds up
    from step to step; at 0.5 and above all layers update, else all keep their states, and the state
    before stands for a skipped step. An update begins the sum afresh, with the probability that a
    linear layer and a sigmoid find in the top layer's new cell state: with p it skips the next
    ceil(0.5 / p) - 1 steps. The first real step updates. Gradients pass the decision as if it were
    the sum (straight through). `extra["updates"]` is the share of real steps that update. All steps
    are computed: what is saved is known, and would be saved by an engine that runs clips one by
    one, the backbone's work too.

    4 h (d + h) + 4 h parameters a layer for d inputs and h hidden units, 2 h of its learned state
    before the first step, and h + 1 of the update gate. At start recurrent weights are orthogonal
    gate by gate, biases and first states 0, but the forget gates' and the update gate's bias 1.
    Padded steps, wherever they stand, leave state and sum as they are, give 0 and count nowhere;
    every clip starts afresh, unless `extra["start"]` says that it goes on.

    Args:
        inp: one vector per step.
        hidden: units of each layer.
        layers: layers on top of each other.
        budget: what an update costs: that times their number, mean over clips, is the penalty.
        target: share of the real steps from which the number is counted, up or down; 0 = all count.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: maps instead of vectors, a budget below 0, or a target that is no share; when
            run, a state of another number of rows.
    """

    kind = _LSTMLayer


class SkipGRU(_Skip):
    """GRU that skips steps: x [B, T, C, 1, 1] to [B, T, hidden, 1, 1].

    Skip RNN as `skip_lstm`, with layers as `gru` has them, in the form of cuDNN; the update gate
    reads the top layer's new state. 3 h (d + h) + 6 h parameters a layer for d inputs and h hidden
    units, h of its learned state before the first step, and h + 1 of the update gate.

    Args:
        inp: one vector per step.
        hidden: units of each layer.
        layers: layers on top of each other.
        budget: what an update costs: that times their number, mean over clips, is the penalty.
        target: share of the real steps from which the number is counted, up or down; 0 = all count.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: maps instead of vectors, a budget below 0, or a target that is no share; when
            run, a state of another number of rows.
    """

    kind = _GRULayer


def straight_through(p: Tensor) -> Tensor:
    """1 where p is 0.5 or above, else 0, exactly; the gradient is p's."""
    return (p >= 0.5).to(p.dtype) + (p - p.detach())


def _mixed(update: Tensor, state: State, other: State) -> State:
    """`state` in the rows where `update` [B] is 1, `other` where it is 0, with its gradient."""
    mixed = []
    for a, b in zip(state, other, strict=True):
        u = update.to(b.dtype).view(-1, *[1] * (b.ndim - 1))
        mixed.append(u * a + (1 - u) * b)
    return tuple(mixed)
