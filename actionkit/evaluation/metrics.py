"""Accuracies of videos with one true class each.

A true class that shares its rank counts as the last of its equals, so that a constant predictor is
not rewarded; torchmetrics takes the first of them. Its macro average also counts classes that are
predicted but never true as recall 0. Hence these few lines of our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actionkit.contracts import Metric


class Top1(Metric):
    """Share of videos whose true class has the highest score."""

    k = 1

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def __call__(self, scores: Tensor, target: Tensor) -> float:
        """Of scores [N, K] float and target [N] int64, in [0, 1].

        Raises:
            ValueError: targets that are not one class a video, NaN scores.
        """
        return _hits(scores, target, self.k).double().mean().item()


class Top5(Top1):
    """Share of videos whose true class is among the five highest scores; 1 with up to 5 classes."""

    k = 5


class MeanClassAccuracy(Metric):
    """Top-1 accuracy of each class that occurs, averaged over these classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def __call__(self, scores: Tensor, target: Tensor) -> float:
        """Of scores [N, K] float and target [N] int64, in [0, 1].

        Raises:
            ValueError: targets that are not one class a video, NaN scores.
        """
        right = torch.bincount(target[_hits(scores, target, 1)], minlength=len(self.classes))
        count = torch.bincount(target, minlength=len(self.classes))
        recalls = right[count > 0].double() / count[count > 0]
        return recalls.mean().item()


def _hits(scores: Tensor, target: Tensor, k: int) -> Tensor:
    """[N] bool: the true class is among the k highest scores."""
    if target.ndim != 1 or target.is_floating_point():
        raise ValueError(
            f"needs one true class a video, but targets are {target.dtype} of shape "
            f"{list(target.shape)}; use a metric for several or soft labels"
        )
    if scores.isnan().any():
        raise ValueError("needs scores that are numbers, but some are NaN; the training diverged")
    rank = (scores >= scores.gather(1, target[:, None])).sum(1)  # 1 = alone at the top
    return rank <= k
