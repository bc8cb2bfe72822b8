"""How often a clip comes, so that rare classes come more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from actionkit.contracts import Dataset
from actionkit.errors import RunError


def balanced(dataset: Dataset, exponent: float) -> list[float]:
    """A weight an item: one by the number of its class's items, to the power of `exponent`.

    With 1 every class comes equally often; with 0.5 the root of its share. Raises RunError for
    targets that do not say one class.
    """
    classes = [_class_of(dataset[i].target, dataset[i].id) for i in range(len(dataset))]
    counts = Counter(classes)
    return [counts[c] ** -exponent for c in classes]


def _class_of(target: Any, name: str) -> int:
    """The class number of a target."""
    reason = ""
    if isinstance(target, Mapping):
        reason = f"has a target for each of {', '.join(target)}"
    elif isinstance(target, int):
        if target >= 0:
            return target
        reason = "has no label"
    else:
        shares = [float(share) for share in target]
        if sorted(shares)[-2:] == [0, 1] or shares == [1]:
            return shares.index(1)
        reason = "belongs to several classes, or to shares of them"
    raise RunError(
        f"data.balance needs one class a clip, but '{name}' {reason}; leave data.balance out"
    )
