"""What recurrences share: a state, which a padded step leaves as it is, and the input's share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actionkit.contracts import Features, pack, unpack

State = tuple[Tensor, ...]  # each [B, ...]

CHUNK = 8 << 20  # bytes of products made at once on a CPU: more of them leave its cache


def input_shares(product: nn.Conv2d, features: Features) -> list[Tensor]:
    """The input's share in the sums of each step, [B, C', H, W]: what needs no state.

    So one convolution, which keeps the maps' size, serves all real steps; on a CPU as many of them
    as stay in its cache, which at 28x28 maps is 1.1 times as fast.
    """
    x, mask = features.x, features.mask
    chunk = x.shape[1]
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        step = x[:, :1, :1].numel() * product.out_channels * x.element_size()
        chunk = max(1, CHUNK // max(1, step))
    shares: list[Tensor] = []
    for some in map(Features, x.split(chunk, 1), mask.split(chunk, 1)):
        # the gradient of unbind is one stack, that of each index a tensor of all steps
        shares.extend(unpack(product(pack(some)), some).x.unbind(1))
    return shares


def require_layers(layers: int, dropout: float = 0.0) -> None:
    """Raises ValueError for no layer, or for dropout between layers where there is but one."""
    if layers < 1:
        raise ValueError(f"takes 1 or more layers, but got {layers}")
    if dropout and layers == 1:
        raise ValueError(
            f"has dropout {dropout} between its layers, but only one layer; "
            "set layers to 2 or more, or leave dropout out"
        )


def steps_of(mask: Tensor) -> list[Tensor | None]:
    """For each step of mask [B, T] the rows [B] that are real, or None where every step of all is.

    A compiled or exported network cannot choose, and always has the rows.
    """
    if not torch.compiler.is_compiling() and bool(mask.all()):
        return [None] * mask.shape[1]
    return list(mask.unbind(1))


def choose(rows: Tensor | None, state: State, other: State) -> State:
    """`state` in the rows [B] that are True, `other` elsewhere; None = all are."""
    if rows is None:
        return state
    pairs = zip(state, other, strict=True)
    return tuple(torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs)


def zeros(x: Tensor, hidden: int, size: torch.Size) -> State:
    """A state h and c [B, hidden, H, W] for x [B, ...]; c, a sum, has float32 at least."""
    h = x.new_zeros(len(x), hidden, *size)
    return h, h.to(at_least_float32(x))


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype of x, or float32 where that is narrower."""
    return torch.promote_types(x.dtype, torch.float32)
