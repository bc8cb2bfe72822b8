"""How a check says what is wrong: sentences with numbers."""

from __future__ import annotations

import torch
from torch import Tensor


class NotConformingError(AssertionError):
    """A component breaks its contract; the message says where, and by how much."""


class NotSupportedError(Exception):
    """Something that is only reported (compile, export) does not work with this component."""


def require(condition: object, sentence: str) -> None:
    """Raises NotConformingError unless the condition holds; `assert` would vanish under -O."""
    if not condition:
        raise NotConformingError(sentence)


def require_equal(got: Tensor, wanted: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Raises NotConformingError where two tensors differ by more than `tolerance` of the scale.

    NaN equals NaN. The scale is the largest wanted value, at least 1.
    """
    require(
        got.shape == wanted.shape,
        f"{what}: the size is {list(got.shape)} instead of {list(wanted.shape)}",
    )
    if not wanted.numel():
        return
    a, b = got.detach().double(), wanted.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    off = (a - b).abs().masked_fill(same, 0).nan_to_num(torch.inf, torch.inf)
    scale = max(1.0, b[b.isfinite()].abs().max().item() if b.isfinite().any() else 1.0)
    worst = off.max().item()
    require(
        worst <= tolerance * scale, f"{what}: off by up to {worst:.3g} at a scale of {scale:.3g}"
    )


def require_finite(x: Tensor, what: str) -> None:
    """Raises NotConformingError for NaN or infinity."""
    wrong = int((~x.isfinite()).sum())
    require(wrong == 0, f"{what}: {wrong} of {x.numel()} values are NaN or infinite")
