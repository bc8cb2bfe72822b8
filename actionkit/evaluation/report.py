"""What a person and a program see of an evaluation: a table, results.json, predictions.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from torch import Tensor

from actionkit.contracts import Classes
from actionkit.evaluation.results import Results
from actionkit.network import SCORES


def table(results: Results, title: str) -> Table:
    """One row for every stream and head, the whole network last; one column a metric."""
    names = [n for n in results.metrics if n != SCORES]
    names += [SCORES] if SCORES in results.metrics else []
    metrics = list(dict.fromkeys(m for n in names for m in results.metrics[n]))
    whole = "fused" if len(names) > 1 else "network"
    view = Table(title=title, title_justify="left", title_style="bold")
    view.add_column("scores of")
    for metric in metrics:
        view.add_column(metric.replace("_", " "), justify="right")
    for name in names:
        values = (results.metrics[name].get(metric) for metric in metrics)
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        last = name == SCORES
        view.add_row(whole if last else name, *cells, style="bold green" if last else None)
    return view


def coverage(results: Results) -> str:
    """How many videos were read, in words."""
    missing = len({bad.id for bad in results.bad})
    total = len(results.ids) + missing
    text = f"{len(results.ids)} of {total} videos"
    return f"{text} ({missing} unreadable, coverage {results.coverage:.1%})" if missing else text


def as_json(
    results: Results, *, split: str, protocol: str, checkpoint: str, versions: dict[str, str]
) -> dict[str, Any]:
    """The object of one command in results.json."""
    main = SCORES if SCORES in results.metrics else next(iter(results.metrics))
    return {
        "split": split,
        "protocol": protocol,
        "checkpoint": checkpoint,
        "coverage": results.coverage,
        "videos": len(results.ids),
        "missing": [bad._asdict() for bad in results.bad],
        "metrics": results.metrics[main],
        "streams": {n: m for n, m in results.metrics.items() if n != main},
        "versions": versions,
    }


def predictions(results: Results, classes: Classes, heads: Mapping[str, str]) -> str:
    """CSV: id, target, then a score per class.

    The scores are the whole network's. Without a fusion there is such a block of columns, with the
    output's name in front, for every output.
    """
    outputs = [SCORES] if SCORES in results.scores else list(results.scores)
    columns = ["id"]
    for name in outputs:
        known = classes[heads[name]] if isinstance(classes, Mapping) else classes
        block = ["target", *known]
        columns += block if len(outputs) == 1 else [f"{name}/{column}" for column in block]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row, video in enumerate(results.ids):
        cells = [video]
        for name in outputs:
            cells.append(_label(results.targets[name][row]))
            cells += [f"{score:.6g}" for score in results.scores[name][row].tolist()]
        writer.writerow(cells)
    return text.getvalue()


def _label(target: Tensor) -> str:
    return str(int(target)) if target.ndim == 0 else " ".join(f"{v:g}" for v in target.tolist())
