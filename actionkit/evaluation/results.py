"""What evaluating a split gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from actionkit.contracts import Bad


@dataclass
class Results:
    """What evaluating a split gave: targets, scores and metrics by name of Output."""

    ids: list[str]
    targets: dict[str, Tensor]  # [N] class numbers, or [N, K]
    scores: dict[str, Tensor]  # [N, K]
    metrics: dict[str, dict[str, float]]
    bad: list[Bad]

    @property
    def coverage(self) -> float:
        """Share of the videos that could be read."""
        total = len(self.ids) + len({b.id for b in self.bad})
        return len(self.ids) / total if total else 0.0
