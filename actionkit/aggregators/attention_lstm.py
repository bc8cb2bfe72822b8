"""LSTMs that choose, at every step, which places of a map to look at."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from actionkit.aggregators.pooling import Last
from actionkit.aggregators.stateful import Stateful
from actionkit.contracts import Features, Shape
from actionkit.layers.attention import AdditiveAttention, over_places, require_places
from actionkit.layers.convlstm import ConvLSTMLayer
from actionkit.layers.convolution import same
from actionkit.layers.recurrence import State, at_least_float32, choose, steps_of, zeros
from actionkit.layers.steps import mean, over


class _AttentionLSTM(Stateful):
    """Scores of places by content and state, a weighted map, and an LSTM that reads it.

    z = U tanh(W x_t + V h_{t-1} + b) + c, one score for each place.
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
    ) -> None:
        super().__init__()
        require_places(inp)
        channels = inp.require_channels()
        self.lstm = ConvLSTMLayer(channels, hidden, kernel)
        self.hidden = hidden
        self.attention = AdditiveAttention(
            channels, channels if width is None else width, [hidden], attention_kernel
        )
        self.start = same(channels, 2 * hidden, kernel) if initial == "mean" else None
        size = {} if self.keeps_maps else {"height": 1, "width": 1}
        whole = inp._replace(channels=hidden, **size)
        self.last = Last(whole) if to == "one" else None
        self.out = self.last.out if self.last else whole

    def forward(self, features: Features) -> Features:
        """Maps to states, and `attention` [B, T, 1, H, W], the weights of each step's places."""
        read = super().forward(features).x.flatten(2)  # [B, T, states and weights]
        places = features.x.shape[-2:]
        states, weights = read.split([read.shape[2] - places.numel(), places.numel()], 2)
        x = states.unflatten(2, (-1, *self._size(features.x))).to(features.x.dtype)
        result = features._replace(x=x, attention=weights.unflatten(2, (1, *places)))
        return result if self.last is None else self.last(result)

    def fresh(self, features: Features) -> State:
        """The state h and c [B, hidden, H, W] or [B, hidden, 1, 1] before the first step."""
        h, c = zeros(features.x, self.hidden, self._size(features.x))
        if self.start is None:
            return h, c
        seen = mean(features.x, features.mask)[:, 0]
        if not self.keeps_maps:
            seen = seen.mean((2, 3), keepdim=True)
        first, second = self.start(seen).tanh().chunk(2, 1)
        return first.to(h.dtype), second.to(c.dtype)

    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """The states and, along channels, weights of each real step; 0 at padded ones."""
        state = self.fresh(features) if state is None else state
        padding = ~over(features.mask)
        x = features.x.masked_fill(padding, 0)
        content = self.attention.content(x.flatten(0, 1)).unflatten(0, features.mask.shape)
        states, maps = [], []
        steps = zip(x.unbind(1), content.unbind(1), steps_of(features.mask), strict=True)
        for now, known, real in steps:
            weights = self.weigh(self.attention(known, state[0]))
            seen = self.lstm.input(self.see(now, weights.to(now.dtype)))
            state = choose(real, self.lstm.step(seen, state), state)
            states.append(state[0].flatten(1))
            maps.append(weights.flatten(1))
        both = torch.cat([torch.stack(states, 1), torch.stack(maps, 1)], 2)
        return both[..., None, None].masked_fill(padding, 0), state

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

    Before each step it weighs the places by z = u tanh(W x_t + V h_{t-1} + b) + c, a softmax over
    places, and reads the sum of the map so weighted (soft attention: Sharma et al. 2015,
    arXiv:1511.04119, in the form of its code; the ALSTM of VideoLSTM, arXiv:1607.01794). The
    weights leave as `attention` [B, T, 1, H, W], with sum 1 at real steps and 0 at padded ones.
    4 h (C + h) + 4 h parameters of the LSTM, a (C + h) + 2 a + 1 of the attention, and 2 h (C + 1)
    of `initial: mean`, for C channels in, h hidden and a of the attention. Else as `convlstm`.

    Args:
        inp: a map per step.
        hidden: units of the state.
        width: channels of the attention; None = those that come.
        initial: the state before the first step: `zero`, or `mean` = a layer with tanh on the mean
            of all real steps and places, as published, so that it knows of later steps; in windows
            of a long video that is the mean of the window.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: maps of one place, or channels that vary; when run, a state of another number
            of rows.
    """

    keeps_maps = False

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        width: int | None = None,
        initial: Literal["zero", "mean"] = "zero",
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
        )


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
        if self.weights == "sigmoid":
            return scores.to(at_least_float32(scores)).sigmoid()
        return super().weigh(scores)

    def see(self, x: Tensor, weights: Tensor) -> Tensor:
        """The weighted map [B, C, H, W]."""
        places = x.shape[-2:].numel()
        return super().see(x, weights * places if self.weights == "scaled" else weights)
