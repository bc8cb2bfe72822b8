"""LSTMs that choose, at every step, which places of a map to look at."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from actionkit.aggregators.pooling import Last
from actionkit.aggregators.stateful import Stateful
from actionkit.contracts import Features, Shape
from actionkit.layers.attention import (
    AdditiveAttention,
    factors,
    over_places,
    require_places,
    weigh,
)
from actionkit.layers.convlstm import ConvLSTMLayer
from actionkit.layers.convolution import same
from actionkit.layers.recurrence import (
    State,
    choose,
    require_layers,
    steps_of,
    zeros,
)
from actionkit.layers.steps import mean, over


class _AttentionLSTM(Stateful):
    """Scores of places by what was read before, a weighted map, and LSTMs that read it.

    z = U tanh(W x_t + V h_{t-1} + b) + c, one score for each place, with h of the top layer.
    """

    keeps_maps: ClassVar[bool]  # or sums over places, so that the state is a vector

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        kernel: int,
        width: int | None,
        attention_kernel: int,
        initial: Literal["zero", "mean"],
        to: Literal["many", "one"],
        layers: int = 1,
        by: Literal["content", "state"] = "content",
    ) -> None:
        super().__init__()
        require_places(inp)
        channels = inp.require_channels()
        require_layers(layers)
        self.lstm = ConvLSTMLayer(channels, hidden, kernel)
        self.above = nn.ModuleList(ConvLSTMLayer(hidden, hidden, kernel) for _ in range(layers - 1))
        self.hidden = hidden
        self.attention = (
            AdditiveAttention(
                channels, channels if width is None else width, [hidden], attention_kernel
            )
            if by == "content"
            else _StateAttention(inp, hidden, width)
        )
        self.start = same(channels, 2 * layers * hidden, kernel) if initial == "mean" else None
        size = {} if self.keeps_maps else {"height": 1, "width": 1}
        whole = inp._replace(channels=hidden, **size)
        self.last = Last(whole) if to == "one" else None
        self.out = self.last.out if self.last else whole

    def forward(self, features: Features) -> Features:
        """Maps to states, and `attention` [B, T, 1, H, W], the weights of each step's places."""
        read = super().forward(features).x.flatten(2)  # [B, T, states, weights and notes]
        size, places = self._size(features.x), features.x.shape[-2:]
        end = self.hidden * size.numel()
        states, weights, notes = read.tensor_split([end, end + places.numel()], 2)
        result = self.noted(features, weights.unflatten(2, (1, *places)), notes)
        result = result._replace(x=states.unflatten(2, (-1, *size)).to(features.x.dtype))
        return result if self.last is None else self.last(result)

    def fresh(self, features: Features) -> State:
        """The state before the first step: h and c of each layer in turn.

        Each is [B, hidden, H, W], or [B, hidden, 1, 1].
        """
        zero = zeros(features.x, self.hidden, self._size(features.x)) * (1 + len(self.above))
        if self.start is None:
            return zero
        seen = mean(features.x, features.mask)[:, 0]
        if not self.keeps_maps:
            seen = seen.mean((2, 3), keepdim=True)
        first = self.start(seen).tanh().chunk(len(zero), 1)
        return tuple(own.to(like.dtype) for own, like in zip(first, zero, strict=True))

    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """The top's state, weights and notes of each step, along channels; 0 at padded ones."""
        state = self.fresh(features) if state is None else state
        padding = ~over(features.mask)
        x = features.x.masked_fill(padding, 0)
        content = self.attention.content(x.flatten(0, 1)).unflatten(0, features.mask.shape)
        soft, found = self.softly(x), []
        steps = zip(x.unbind(1), content.unbind(1), steps_of(features.mask), strict=True)
        for now, known, real in steps:
            weights = self.weigh(self.attention(known, state[-2]))
            used, note = self.look(weights, soft)
            state = choose(real, self.step(self.see(now, used.to(now.dtype)), state), state)
            found.append(torch.cat([state[-2].flatten(1), weights.flatten(1), note], 1))
        return torch.stack(found, 1)[..., None, None].masked_fill(padding, 0), state

    def step(self, seen: Tensor, state: State) -> State:
        """The next h and c of each layer; each reads the h of the one below it."""
        end: list[Tensor] = []
        for number, layer in enumerate([self.lstm, *self.above]):
            own = layer.step(layer.input(seen), state[2 * number : 2 * number + 2])
            seen = own[0]
            end.extend(own)
        return tuple(end)

    def softly(self, x: Tensor) -> Tensor:
        """Which clips of x [B, T, C, H, W] are read by their weights, [B, 1] bool: all."""
        return x.new_ones(len(x), 1, dtype=torch.bool)

    def look(self, weights: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        """By what to read a map, of weights [B, 1, H, W] and `softly`; and notes [B, n] of it."""
        return weights, weights.new_zeros(len(weights), 0)

    def noted(self, features: Features, weights: Tensor, notes: Tensor) -> Features:
        """Adds what the weights [B, T, 1, H, W] and notes [B, T, n] of all steps say."""
        return features._replace(attention=weights)

    def weigh(self, scores: Tensor) -> Tensor:
        """Weights of scores [B, 1, H, W], in float32 at least: their sum over places is 1."""
        return over_places(scores)

    def see(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the LSTM reads of x [B, C, H, W]: the weighted map, or its sum over places."""
        seen = weights * x
        return seen if self.keeps_maps else seen.sum((2, 3), keepdim=True)

    def _size(self, x: Tensor) -> torch.Size:
        return x.shape[-2:] if self.keeps_maps else torch.Size((1, 1))


class ALSTM(_AttentionLSTM):
    """LSTM over the weighted mean of a map's places: x [B, T, C, H, W] to [B, T, hidden, 1, 1].

    Soft attention (Sharma et al. 2015, arXiv:1511.04119; the ALSTM of VideoLSTM, arXiv:1607.01794):
    before each step it weighs the places by a softmax of their scores, and reads the sum of the map
    so weighted. The weights leave as `attention` [B, T, 1, H, W], with sum 1 at real steps and 0 at
    padded ones. Their entropy in nats, mean over the real steps, is logged as `attention_entropy`:
    that of even weights over n places is log n, where attention without `balance` often stays.
    4 h (C + h) + 4 h parameters of the first LSTM, 8 h^2 + 4 h of each above, a (C + h) + 2 a + 1
    of the attention, and 2 L h (C + 1) of `initial: mean`, for C channels in, h hidden, L layers
    and a of the attention (by state it has n h for n places). Else as `convlstm`.

    Args:
        inp: a map per step.
        hidden: units of the state of each layer.
        width: channels of the attention; None = those that come.
        layers: LSTMs on top of each other; the top one's state leaves, and that of the step before
            is the h_{t-1} of the attention, as in the paper. It has three, its public code one.
        by: `content` = scores z = u tanh(W x_t + V h_{t-1} + b) + c, as in the code; `state` =
            z_i = w_i h_{t-1}, as in the paper: a score knows nothing of what is at its place.
        initial: the state before the first step: `zero`, or `mean` = a layer with tanh for each h
            and c on the mean of all real steps and places, as published, so that it knows of later
            steps; in windows of a long video that is the mean of the window.
        balance: lambda of the doubly stochastic penalty, added to `penalty`: lambda times the sum
            over places of (1 - sum over real steps of its weights)^2, mean over the clips with a
            real step. It asks for a look at every place: with T steps and n places the least is
            n (1 - T / n)^2. Published beside a loss summed over steps: divide by T beside a mean.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: maps of one place, or of varying size by state; a width by state; layers below
            1, balance below 0, or channels that vary; when run, a state of another number of rows.
    """

    keeps_maps = False

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        width: int | None = None,
        layers: int = 1,
        by: Literal["content", "state"] = "content",
        initial: Literal["zero", "mean"] = "zero",
        balance: float = 0.0,
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__(
            inp,
            hidden=hidden,
            kernel=1,
            width=width,
            attention_kernel=1,
            initial=initial,
            to=to,
            layers=layers,
            by=by,
        )
        if balance < 0:
            raise ValueError(f"takes a balance of 0 or more, but got {balance}")
        self.balance = balance

    def noted(self, features: Features, weights: Tensor, notes: Tensor) -> Features:
        """Adds `attention`, its entropy to `extra`, and the doubly stochastic penalty."""
        result = super().noted(features, weights, notes)
        found = entropy(weights.detach(), result.mask)
        result = result._replace(extra={**(result.extra or {}), "attention_entropy": found})
        if self.balance:
            result = penalised(result, self.balance * imbalance(weights, result.mask))
        return result


class ConvALSTM(_AttentionLSTM):
    """Convolutional LSTM over a map weighted place by place: to [B, T, hidden, H, W].

    VideoLSTM (arXiv:1607.01794): the places of x_t are weighed by the convolutions
    z = U * tanh(W * x_t + V * h_{t-1} + b) + c, and a `convlstm` of one layer without peepholes
    reads the weighted map, not its sum. The weights leave as `attention` [B, T, 1, H, W], 0 at
    padded steps. 4 k^2 (C + h) h + 4 h parameters of the LSTM, q^2 a (C + h + 1) + a + 1 of the
    attention and 2 h (k^2 C + 1) of `initial: mean`, for C channels in, h hidden, a of the
    attention, and kernels k and q. Else as `convlstm`.

    Args:
        inp: a map per step.
        hidden: channels of the state.
        kernel: rows and columns of the convolutions of input and state, odd.
        width: channels of the attention; None = those that come.
        attention_kernel: rows and columns of the convolutions of the attention, odd.
        weights: `softmax` over places, with sum 1, as published: it makes a map of n places about n
            times smaller. `scaled` = that times n, so that even attention leaves the map as it is;
            `attention` keeps sum 1. `sigmoid` = each place by itself, between 0 and 1.
        initial: the state before the first step: `zero`, or `mean` = a convolution with tanh of the
            mean of all real steps, as published, so that it knows of later steps; in windows of a
            long video that is the mean of the window.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: maps of one place, an even kernel, or channels that vary; when run, a state of
            another number of rows.
    """

    keeps_maps = True

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        kernel: int = 3,
        width: int | None = None,
        attention_kernel: int = 1,
        weights: Literal["softmax", "scaled", "sigmoid"] = "softmax",
        initial: Literal["zero", "mean"] = "zero",
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__(
            inp,
            hidden=hidden,
            kernel=kernel,
            width=width,
            attention_kernel=attention_kernel,
            initial=initial,
            to=to,
        )
        self.weights = weights

    def weigh(self, scores: Tensor) -> Tensor:
        """Weights of scores [B, 1, H, W], in float32 at least."""
        return weigh(scores, self.weights)

    def see(self, x: Tensor, weights: Tensor) -> Tensor:
        """The weighted map [B, C, H, W]."""
        return super().see(x, factors(weights, self.weights))


class _StateAttention(nn.Module):
    """A score for each place from a state alone, z_i = w_i h: one row of weights a place."""

    def __init__(self, inp: Shape, hidden: int, width: int | None) -> None:
        super().__init__()
        if width is not None:
            raise ValueError(
                f"has an attention of width {width}, but by state there is no such layer; "
                "leave width out, or set by to content"
            )
        if inp.height is None or inp.width is None:
            raise ValueError(
                "has weights for every place of a map by state, but gets maps of "
                f"{inp.height or '?'}x{inp.width or '?'}; set by to content, or let the "
                "transforms make frames of one size"
            )
        self.score = nn.Linear(hidden, inp.height * inp.width, bias=False)

    def content(self, x: Tensor) -> Tensor:
        """The map itself; only its size counts."""
        return x

    def forward(self, known: Tensor, query: Tensor) -> Tensor:
        """Scores [B, 1, H, W] of a query [B, hidden, 1, 1] for a map [B, C, H, W]."""
        return self.score(query.flatten(1)).view(-1, 1, *known.shape[2:])


def entropy(attention: Tensor, mask: Tensor) -> Tensor:
    """0-dim, in nats, mean over real steps; attention [B, T, 1, H, W] is 0 at padded ones."""
    each = -(attention * log(attention)).sum((2, 3, 4))  # [B, T]
    return each.sum() / mask.sum().clamp(min=1)


def imbalance(attention: Tensor, mask: Tensor) -> Tensor:
    """0-dim: sum over places of (1 - sum over steps of weights)^2, mean over clips with a step."""
    each = (1 - attention.sum(1)).square().sum((1, 2, 3))  # [B]
    some = mask.any(1)
    return (each * some).sum() / some.sum().clamp(min=1)


def penalised(features: Features, penalty: Tensor) -> Features:
    """The features with a penalty added to theirs."""
    return features._replace(
        penalty=penalty if features.penalty is None else features.penalty + penalty
    )


def log(weights: Tensor) -> Tensor:
    """The logarithm, finite at 0, so that 0 times its gradient is 0."""
    return weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
