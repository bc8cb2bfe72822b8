"""Attention of one stream, driven by the motion that another one sees."""

from __future__ import annotations

import difflib
from typing import Literal

import torch
from torch import Tensor, nn

from actionkit.contracts import Features, Fusion, Shape
from actionkit.fusions.steps import common_mask
from actionkit.layers.attention import AdditiveAttention, factors, require_places, weigh
from actionkit.layers.convlstm import ConvLSTMLayer
from actionkit.layers.convolution import same
from actionkit.layers.recurrence import State, choose, steps_of, zeros
from actionkit.layers.steps import mean, over


class MotionAttention(Fusion):
    """VideoLSTM: a ConvLSTM over one stream, at places another tells: [B, T, hidden, H, W].

    Motion-based attention (Li et al., arXiv:1607.01794). A motion unit, an LSTM of 1x1 convolutions
    with a state h^m of its own, reads the map m_t of the stream `driver`; it says which places of
    the other stream's map x_t are looked at, and a ConvLSTM reads what they weigh. Coupled, as
    published, the motion unit also knows what the ConvLSTM has seen:

        h^m_t = LSTM(W m_t + V h_{t-1}, h^m_{t-1})
        z_t = u tanh(W_x x_t + W_m h^m_t + b) + c,  a_t = softmax of z_t over places
        h_t = ConvLSTM(a_t x_t, h_{t-1})

    Decoupled there is no V, and z_t has a term W_h h_{t-1}. States h leave as x, weights a as
    `attention` [B, T, 1, H, W]. A step is real where it is in both streams; padded ones, wherever
    they stand, leave all states as they are and give 0. Every clip starts afresh.

    For C and D channels that are read and that drive, h hidden, m of the motion unit, a of the
    attention and a kernel of k x k: 4 k^2 (C + h) h + 4 h parameters of the ConvLSTM,
    4 (D + m + h) m + 4 m of the motion unit, a (C + m + 2) + 1 of the attention; decoupled
    4 h m fewer and a h more; 2 h (k^2 C + 1) + 2 m (D + 1) of `initial: mean`. LSTMs start as in
    `convlstm`, without peepholes.

    Args:
        inp: two streams, a map per step each, of one size and equally many steps.
        hidden: channels of the state.
        kernel: rows and columns of the ConvLSTM's convolutions, odd.
        motion_hidden: channels of the motion unit's state; None = as many as hidden.
        width: channels of the attention; None = those of the stream that is read.
        wiring: `coupled` or `decoupled`, as above.
        driver: the stream that drives the attention; the other one is read.
        weights: as in `conv_alstm`: `softmax` has sum 1, as published, and makes a map of n places
            about n times smaller; `scaled` = that times n, `attention` keeps sum 1; `sigmoid` =
            each place by itself.
        initial: the states before the first step: `zero`, or `mean` = convolutions with tanh of the
            mean of all real steps, as published, so that they know of later steps.

    Raises:
        ValueError: other than two streams, none named as the driver, maps of one place, of unequal
            sizes or of channels that vary, unequal steps, or an even kernel.
    """

    def __init__(
        self,
        inp: dict[str, Shape],
        *,
        hidden: int,
        kernel: int = 3,
        motion_hidden: int | None = None,
        width: int | None = None,
        wiring: Literal["coupled", "decoupled"] = "coupled",
        driver: str = "flow",
        weights: Literal["softmax", "scaled", "sigmoid"] = "softmax",
        initial: Literal["zero", "mean"] = "mean",
    ) -> None:
        super().__init__()
        self.driver, self.reader = driver, _other(inp, driver)
        _require_alike(inp)
        steps = max((s.steps for s in inp.values() if s.steps), default=None)
        self.out = inp[self.reader]._replace(steps=steps, channels=hidden)
        require_places(self.out)
        seen, drives = (inp[name].require_channels() for name in (self.reader, driver))
        motion = hidden if motion_hidden is None else motion_hidden
        coupled = wiring == "coupled"
        self.weights = weights
        # named as those of conv_alstm, so that its weights can be put in
        self.lstm = ConvLSTMLayer(seen, hidden, kernel)
        self.motion = ConvLSTMLayer(drives, motion, 1)
        self.feedback = same(hidden, 4 * motion, 1, bias=False) if coupled else None
        queries = [motion] if coupled else [motion, hidden]
        self.attention = AdditiveAttention(seen, seen if width is None else width, queries)
        starts = initial == "mean"
        self.start = same(seen, 2 * hidden, kernel) if starts else None
        self.motion_start = same(drives, 2 * motion, 1) if starts else None

    def forward(self, inputs: dict[str, Features]) -> Features:
        """Maps [B, T, C, H, W] and [B, T, D, H, W] to states [B, T, hidden, H, W] and weights."""
        mask = common_mask(inputs)
        padding = ~over(mask)
        x, m = (inputs[name].x.masked_fill(padding, 0) for name in (self.reader, self.driver))
        # no state is in these, so that one convolution serves all steps
        content = self.attention.content(x.flatten(0, 1)).unflatten(0, mask.shape)
        shares = self.motion.input(m.flatten(0, 1)).unflatten(0, mask.shape)
        top = _fresh(self.lstm, self.start, x, mask)
        state = (*top, *_fresh(self.motion, self.motion_start, m, mask))
        states, maps = [], []
        # the gradient of unbind is one stack, that of each index a tensor of all steps
        unbound = (tensor.unbind(1) for tensor in (x, content, shares))
        for now, known, share, real in zip(*unbound, steps_of(mask), strict=True):
            weights, after = self._step(now, known, share, state)
            state = choose(real, after, state)
            states.append(state[0])
            maps.append(weights)
        y, attention = (torch.stack(t, 1).masked_fill(padding, 0) for t in (states, maps))
        return Features.merge(inputs)._replace(x=y, mask=mask, attention=attention)

    def _step(
        self, now: Tensor, known: Tensor, share: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """The weights [B, 1, H, W] of a map [B, C, H, W], and both LSTMs' next h and c.

        known [B, width, H, W] is the map's share of the scores, share [B, 4 m, H, W] that of the
        driver's map in the motion unit.
        """
        top, bottom = state[:2], state[2:]
        if self.feedback is None:
            bottom = self.motion.step(share, bottom)
            scores = self.attention(known, bottom[0], top[0])
        else:
            bottom = self.motion.step(share + self.feedback(top[0]), bottom)
            scores = self.attention(known, bottom[0])
        weights = weigh(scores, self.weights)
        seen = factors(weights, self.weights).to(now.dtype) * now
        return weights, (*self.lstm.step(self.lstm.input(seen), top), *bottom)


def _fresh(lstm: ConvLSTMLayer, start: nn.Module | None, x: Tensor, mask: Tensor) -> State:
    """A state h and c [B, hidden, H, W] for x [B, T, C, H, W]: zeros, or by `start` its mean."""
    h, c = zeros(x, lstm.state.in_channels, x.shape[-2:])
    if start is None:
        return h, c
    first, second = start(mean(x, mask)[:, 0]).tanh().chunk(2, 1)
    return first.to(h.dtype), second.to(c.dtype)


def _other(inp: dict[str, Shape], driver: str) -> str:
    """The stream that does not drive. Raises ValueError unless there are that and the driver."""
    if driver not in inp:
        near = difflib.get_close_matches(driver, inp, 1) or list(inp)
        raise ValueError(
            f"is driven by '{driver}', but no such stream; did you mean {' or '.join(near)}?"
        )
    others = [name for name in inp if name != driver]
    if len(others) != 1:
        raise ValueError(
            f"takes two streams, one that drives and one that is read, but gets {len(inp)}: "
            f"{', '.join(inp)}; give it '{driver}' and one other"
        )
    return others[0]


def _require_alike(inp: dict[str, Shape]) -> None:
    """Raises ValueError for maps of different sizes, or different numbers of steps."""
    if len({(shape.height, shape.width) for shape in inp.values()}) > 1:
        sizes = ", ".join(f"'{n}' {s.height or '?'}x{s.width or '?'}" for n, s in inp.items())
        raise ValueError(
            f"needs maps of one size, but {sizes}; crop the streams alike, and give them backbones "
            "that make maps alike"
        )
    if len({shape.steps for shape in inp.values()} - {None}) > 1:
        steps = ", ".join(f"'{name}' has {shape.steps or 'any'}" for name, shape in inp.items())
        raise ValueError(
            f"needs streams of equally many steps, but {steps}; let what makes the flow keep the "
            "frame that each field starts at (keep: starts)"
        )
