"""From a network's scores to one score a video, the same in validation, test and prediction."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from actionkit.contracts import Features, Loss, Part

T = TypeVar("T")


class Protocol(nn.Module):
    """How steps and views become one score: `steps` pools time, `views` are averaged or vote.

    `of` says what is pooled, probabilities or logits.
    """

    def __init__(
        self,
        steps: Part,
        views: Literal["mean", "vote"] = "mean",
        of: Literal["probabilities", "logits"] = "probabilities",
    ) -> None:
        super().__init__()
        self.steps, self.views, self.of = steps, views, of

    def view_scores(self, scores: Features, loss: Loss) -> Tensor:
        """Scores [B, V, K] of every view from a network's scores.x [B, V, T, K, 1, 1]."""
        of_probabilities = self.of == "probabilities"
        values = loss.probabilities(scores) if of_probabilities else scores.x.flatten(3).float()
        batch, views = values.shape[:2]
        folded = Features(values.flatten(0, 1)[..., None, None], scores.mask.flatten(0, 1))
        pooled = self.steps(folded).x.flatten(1).unflatten(0, (batch, views))
        if self.views == "vote":
            return nn.functional.one_hot(pooled.argmax(-1), pooled.shape[-1]).float()
        return pooled

    def __str__(self) -> str:
        return f"{self.of}, steps {type(self.steps).__name__.lower()}, views {self.views}"


@dataclass
class Tally:
    """Scores of videos, gathered over batches, items of one video and ranks."""

    sums: dict[str, Tensor] = field(default_factory=dict)  # id -> [K]
    views: dict[str, int] = field(default_factory=dict)  # id -> how many are in the sum
    targets: dict[str, Tensor] = field(default_factory=dict)

    def add(self, ids: Sequence[str], scores: Tensor, real: Tensor, target: Tensor) -> None:
        """Adds views: scores [B, V, K]; real [B, V] bool, False = padding; target [B, ...]."""
        # in float64 a sum of float32 does not depend on how the views come together
        sums = scores.masked_fill(~real[..., None], 0).cpu().double().sum(1)
        counts, target = real.sum(1).tolist(), target.cpu()
        for row, name in enumerate(ids):
            self.sums[name] = self.sums.get(name, 0) + sums[row]
            self.views[name] = self.views.get(name, 0) + counts[row]
            self.targets[name] = target[row]

    def gather(self) -> Tally:
        """The tally of all ranks together."""
        whole = Tally()
        for tally in of_all_ranks(self):
            for name, part in tally.sums.items():
                whole.sums[name] = whole.sums.get(name, 0) + part
                whole.views[name] = whole.views.get(name, 0) + tally.views[name]
                whole.targets[name] = tally.targets[name]
        return whole

    def result(self, missing: Container[str] = ()) -> tuple[list[str], Tensor, Tensor]:
        """Ids in order without those `missing`, scores [N, K] float32, targets [N] or [N, K]."""
        ids = sorted(name for name in self.sums if name not in missing)
        scores = [self.sums[name] / max(self.views[name], 1) for name in ids]
        targets = [self.targets[name] for name in ids]
        if not ids:
            return [], torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
        return ids, torch.stack(scores).float(), torch.stack(targets)


def of_all_ranks(mine: T) -> list[T]:
    """What every rank has, in the order of ranks; only this process's where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    return found
