"""Parts that look at time against the plain way of writing them: forward and backward, one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from actionkit.aggregators.convlstm import ConvLSTM
from actionkit.aggregators.recurrent import LSTM
from actionkit.backbones.tsm import shift
from actionkit.bench.clock import Comparison, Run, compare
from actionkit.contracts import Features, Shape

Map = Callable[[Tensor], Tensor]  # of steps [B, T, C, H, W] to any tensor

MAPS = {  # channels in, hidden channels, side: behind a late stage of a network, and an early one
    "late": (512, 256, 7),
    "early": (64, 64, 28),
}
CLIPS, STEPS = 2, 16
VECTORS = (8, 25, 2048, 512)  # clips, steps, channels, hidden units
SHIFTED = (8, 8, 256, 28, 28)
MEASUREMENTS = 2 * len(MAPS) + 2 + 2  # variants of all comparisons together


def model(rounds: int, tick: Run | None = None) -> list[Comparison]:
    """A comparison for convolutional LSTMs of each size, one for LSTMs, one for temporal shifts."""
    maps = [_convlstm(*size, rounds, tick) for size in MAPS.values()]
    return [*maps, _lstm(rounds, tick), _shift(rounds, tick)]


def _convlstm(channels: int, hidden: int, side: int, rounds: int, tick: Run | None) -> Comparison:
    part = ConvLSTM(Shape(STEPS, channels, side, side), hidden=hidden)
    x = torch.randn(CLIPS, STEPS, channels, side, side)
    variants = {
        "one convolution a step over state and input": concatenated(part),
        "convlstm": lambda x: part(_full(x)).x,
    }
    title = f"ConvLSTM, {CLIPS} clips of {STEPS} maps {channels}x{side}x{side} to {hidden}"
    return Comparison(title, compare(_trained(variants, x), rounds, tick=tick))


def _lstm(rounds: int, tick: Run | None) -> Comparison:
    clips, steps, channels, hidden = VECTORS
    part = LSTM(Shape(steps, channels, 1, 1), hidden=hidden)
    x = torch.randn(clips, steps, channels, 1, 1)
    variants = {"a loop of torch's LSTMCell": loop(part), "lstm": lambda x: part(_full(x)).x}
    title = f"LSTM, {clips} clips of {steps} vectors, {channels} to {hidden}"
    return Comparison(title, compare(_trained(variants, x), rounds, tick=tick))


def _shift(rounds: int, tick: Run | None) -> Comparison:
    x = torch.randn(SHIFTED)
    variants: dict[str, Map] = {"assigned to slices of zeros": assigned, "shift of tsm": shift}
    clips, steps, channels, side, _ = SHIFTED
    title = f"temporal shift, {clips} clips of {steps} maps {channels}x{side}x{side}"
    return Comparison(title, compare(_trained(variants, x), rounds, tick=tick))


# ------------------------------------------------------------------------------------ plain ways


def concatenated(part: ConvLSTM) -> Map:
    """A layer's recurrence with its input and state in one convolution, as it is mostly written."""
    layer: Any = part.layers[0]
    hidden = part.hidden
    both = nn.Conv2d(layer.input.in_channels + hidden, 4 * hidden, 3, padding=1)
    with torch.no_grad():
        both.weight.copy_(torch.cat([layer.input.weight, layer.state.weight], 1))
        both.bias.copy_(layer.input.bias)  # type: ignore[union-attr]

    def run(x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), hidden, *x.shape[-2:])
        states = []
        for step in range(x.shape[1]):
            i, f, g, o = both(torch.cat([x[:, step], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, 1)

    return run


def loop(part: LSTM) -> Map:
    """The same layer, cell by cell."""
    rnn = part.rnn
    cell = nn.LSTMCell(rnn.input_size, rnn.hidden_size)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in rnn.state_dict().items()})

    def run(x: Tensor) -> Tensor:
        state = None
        states = []
        for step in range(x.shape[1]):
            state = cell(x[:, step].flatten(1), state)
            states.append(state[0])
        return torch.stack(states, 1)

    return run


def assigned(x: Tensor) -> Tensor:
    """Temporal shift of x [B, T, C, H, W] by assignment, an eighth of the channels either way."""
    fold = x.shape[2] // 8
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out


def _full(x: Tensor) -> Features:
    return Features(x, torch.ones(x.shape[:2], dtype=torch.bool))


def _trained(variants: dict[str, Map], x: Tensor) -> dict[str, Run]:
    """Each variant's forward and backward, down to the gradient of its input."""

    def step(run: Map) -> None:
        leaf = x.detach().requires_grad_()
        run(leaf).sum().backward()

    return {name: lambda run=run: step(run) for name, run in variants.items()}  # type: ignore[misc]
