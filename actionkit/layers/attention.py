"""Attention to the places of a map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from actionkit.contracts import Shape
from actionkit.layers.convolution import same
from actionkit.layers.recurrence import at_least_float32


class AdditiveAttention(nn.Module):
    """A score for each place of a map, z = u tanh(W x + sum_k V_k q_k + b) + c (arXiv:1409.0473).

    W, V_k and u are convolutions; a query q_k is a map, or one vector for all places. The share
    W x + b needs no query, so it can be had for all steps at once.
    """

    def __init__(self, channels: int, width: int, queries: Sequence[int], kernel: int = 1) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(
                f"takes a width of 1 or more channels for its attention, but got {width}"
            )
        self.content = same(channels, width, kernel)
        self.queries = nn.ModuleList(same(n, width, kernel, bias=False) for n in queries)
        self.score = same(width, 1, kernel)

    def forward(self, known: Tensor, *queries: Tensor) -> Tensor:
        """Scores [B, 1, H, W] of `content(x)` [B, width, H, W] and each query [B, C_k, H, W]."""
        for layer, query in zip(self.queries, queries, strict=True):
            known = known + layer(query)
        return self.score(known.tanh())


def over_places(scores: Tensor) -> Tensor:
    """Softmax over the places of scores [B, 1, H, W], in float32 at least."""
    return scores.flatten(2).softmax(2, dtype=at_least_float32(scores)).view_as(scores)


def weigh(scores: Tensor, by: str) -> Tensor:
    """Weights of scores [B, 1, H, W], in float32 at least: `over_places`, or by `sigmoid` each."""
    if by == "sigmoid":
        return scores.to(at_least_float32(scores)).sigmoid()
    return over_places(scores)


def factors(weights: Tensor, by: str) -> Tensor:
    """What a map is multiplied by: its weights [B, 1, H, W], where `scaled` times its places."""
    return weights * weights.shape[-2:].numel() if by == "scaled" else weights


def require_places(inp: Shape) -> None:
    """Raises ValueError for maps of one place, where there is no choice."""
    if inp.height == inp.width == 1:
        raise ValueError(
            "chooses among the places of a map, but gets maps of 1x1; "
            "take away the spatial_pool before it"
        )
