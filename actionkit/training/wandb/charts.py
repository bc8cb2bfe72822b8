"""What an evaluation says of each class, as W&B's charts and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import wandb
from torch import Tensor
from torchmetrics.functional.classification import (
    multilabel_average_precision,
    multilabel_precision_recall_curve,
)

MATRIX = 100  # classes whose matrix can still be read; of more, the pairs most confused are listed
CURVES = 10  # classes whose curves can still be told apart
THRESHOLDS = 51


class Mistake(NamedTuple):
    """What a network said of a video, and what is true."""

    id: str
    true: str
    predicted: str
    confidence: float
    loss: float


def charts(scores: Tensor, targets: Tensor, classes: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Charts by name, of scores [N, K] float and targets [N] int64 or [N, K] 0 to 1."""
    known = _labelled(targets)
    scores, targets, names = probabilities(scores[known]), targets[known], plain(classes)
    if not len(targets):
        return
    if targets.ndim == 1:
        yield "confusion_matrix", _confusion(scores, targets, names)
    truth = _truth(targets, len(names))
    precision = multilabel_average_precision(
        scores, truth, len(names), average="none", thresholds=THRESHOLDS
    )
    assert isinstance(precision, Tensor)  # noqa: S101  without an average it has one per class
    yield "classes", _classes(scores, targets, names, precision)
    yield "precision_recall", _curves(scores, truth, names, precision)


def worst(
    ids: Sequence[str], scores: Tensor, targets: Tensor, classes: Sequence[str], count: int
) -> list[Mistake]:
    """The mistakes of the highest loss, at most `count`, of targets [N] int64; equals by id."""
    if targets.ndim != 1 or not len(ids):
        return []
    shares, names = probabilities(scores), plain(classes)
    confidence, predicted = shares.max(1)
    loss = -shares.gather(1, targets.clamp(min=0)[:, None]).clamp(min=1e-7).log()[:, 0]
    wrong = ((predicted != targets) & _labelled(targets)).nonzero()[:, 0].tolist()
    wrong.sort(key=lambda row: (-float(loss[row]), ids[row]))
    return [
        Mistake(
            ids[row],
            names[int(targets[row])],
            names[int(predicted[row])],
            float(confidence[row]),
            float(loss[row]),
        )
        for row in wrong[:count]
    ]


def probabilities(scores: Tensor) -> Tensor:
    """Scores [N, K] as float32 shares; logits are told by values outside 0 to 1."""
    scores = scores.float()
    inside = bool(((scores >= 0) & (scores <= 1 + 1e-6)).all())
    return scores.clamp(max=1) if inside else scores.softmax(1)


def plain(names: Sequence[str]) -> list[str]:
    """Names that can be sent; bytes that were no UTF-8 are written out."""
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


def _labelled(targets: Tensor) -> Tensor:
    """[N] bool."""
    return targets >= 0 if targets.ndim == 1 else ~targets.isnan().any(-1)


def _truth(targets: Tensor, classes: int) -> Tensor:
    """[N, K] int64, 1 = the class is there."""
    if targets.ndim == 1:
        return torch.nn.functional.one_hot(targets, classes)
    return (targets > 0.5).long()


def _confusion(scores: Tensor, targets: Tensor, names: list[str]) -> Any:
    predicted = scores.argmax(1)
    if len(names) <= MATRIX:
        return wandb.plot.confusion_matrix(
            y_true=targets.tolist(),
            preds=predicted.tolist(),
            class_names=names,
            title="Confusion matrix",
        )
    pairs = torch.stack([targets, predicted], 1)[targets != predicted]
    found, counts = pairs.unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:MATRIX].tolist()
    rows = [[names[found[i, 0]], names[found[i, 1]], int(counts[i])] for i in order]
    return wandb.Table(columns=["true", "predicted", "count"], data=rows)


def _classes(scores: Tensor, targets: Tensor, names: list[str], precision: Tensor) -> Any:
    """A row a class; the accuracy of one that does not occur is empty."""
    truth = _truth(targets, len(names))
    support = truth.sum(0)
    columns: list[str | int] = ["class", "support", "average precision"]
    rows: list[list[Any]] = [
        [name, int(n), float(p) if n else None]
        for name, n, p in zip(names, support, precision, strict=True)
    ]
    if targets.ndim == 1:
        right = torch.bincount(targets[scores.argmax(1) == targets], minlength=len(names))
        columns.append("accuracy")
        for row, hits in zip(rows, right.tolist(), strict=True):
            row.append(hits / row[1] if row[1] else None)
    return wandb.Table(columns=columns, data=rows)


def _curves(scores: Tensor, truth: Tensor, names: list[str], precision: Tensor) -> Any:
    """Curves of the classes that are found worst; wandb.plot.pr_curve would need pandas."""
    there = truth.sum(0).nonzero()[:, 0]
    chosen = there[precision[there].argsort(stable=True)[:CURVES]].sort().values
    curves = multilabel_precision_recall_curve(scores, truth, len(names), thresholds=THRESHOLDS)
    rows = []
    for k in chosen.tolist():
        for p, r in zip(curves[0][k].tolist(), curves[1][k].tolist(), strict=True):
            rows.append([names[k], r, p])
    table = wandb.Table(columns=["class", "recall", "precision"], data=rows)
    title = "Precision and recall"
    return wandb.plot.line(table, "recall", "precision", stroke="class", title=title)
