"""Late fusion: scores of several streams to one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from actionkit.contracts import Features, Fusion, Shape
from actionkit.fusions.steps import common_mask, common_steps


class Average(Fusion):
    """Weighted mean of the streams' scores: logits x [B, T, K, 1, 1] of each to one of that shape.

    Streams have equally many steps, or 1, which then counts at every step; a step is real where it
    is real in all streams. TSN averages logits (arXiv:1608.00859), the first two-stream network
    probabilities (arXiv:1406.2199); a mean of probabilities leaves as its logarithm, whose softmax
    is that mean.

    Args:
        inp: a vector of K logits per step from each stream.
        weights: a weight of 0 or more for each stream, scaled to sum 1; None = all equal.
        of: what the mean is taken of.

    Raises:
        ValueError: maps, unequal classes or steps, weights that do not fit the streams.
    """

    def __init__(
        self,
        inp: dict[str, Shape],
        *,
        weights: dict[str, float] | None = None,
        of: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        classes = {name: shape.require_vectors() for name, shape in inp.items()}
        if len(set(classes.values())) > 1:
            numbers = ", ".join(f"'{name}' has {number}" for name, number in classes.items())
            raise ValueError(
                f"needs streams of equally many classes, but {numbers}; put a head in each stream"
            )
        self.weights = _shares(weights, inp)
        self.of = of
        self.out = next(iter(inp.values()))._replace(steps=common_steps(inp))

    def forward(self, inputs: dict[str, Features]) -> Features:
        """Fuses logits; padded steps give finite values."""
        mask = common_mask(inputs)
        padding = ~mask[:, :, None, None, None]
        # padding is put to 0, since 0 * NaN would reach the streams' gradients
        logits = {name: f.x.masked_fill(padding, 0) for name, f in inputs.items()}
        fused = self._probabilities(logits) if self.of == "probabilities" else self._mean(logits)
        return Features.merge(inputs)._replace(x=fused, mask=mask)

    def _mean(self, logits: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * x for name, x in logits.items()]).sum(0)

    def _probabilities(self, logits: dict[str, Tensor]) -> Tensor:
        """The logarithm of sum w p, as the logsumexp of log w + log p."""
        terms = []
        for name, x in logits.items():
            weight = self.weights[name]
            wide = torch.promote_types(x.dtype, torch.float32)
            log_weight = math.log(weight) if weight else -math.inf
            terms.append(F.log_softmax(x, 2, dtype=wide) + log_weight)
        return torch.stack(terms).logsumexp(0)


def _shares(weights: dict[str, float] | None, streams: Iterable[str]) -> dict[str, float]:
    """A weight for each stream, of sum 1."""
    names = list(streams)
    if weights is None:
        return dict.fromkeys(names, 1 / len(names))
    for name in weights:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or names
            raise ValueError(
                f"has a weight for '{name}', but no such stream; did you mean {' or '.join(near)}?"
            )
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(
            f"needs a weight for each stream, but '{missing[0]}' has none; "
            f"add {missing[0]}: 1, or 0 to leave it out"
        )
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < math.inf:
        raise ValueError(f"needs weights of 0 or more, one of them above 0, but got {weights}")
    return {name: weights[name] / total for name in names}
