"""What differs between two trees of plain values, leaf by leaf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

NOTHING = "not set"


class Difference(NamedTuple):
    """A leaf that is not the same in both trees."""

    key: str  # dotted
    there: Any
    wanted: Any


def differences(there: Any, wanted: Any) -> list[Difference]:
    """All leaves in which two trees of dicts and lists differ."""
    one, other = _leaves(there), _leaves(wanted)
    found = (
        Difference(key, one.get(key, NOTHING), other.get(key, NOTHING))
        for key in dict.fromkeys([*one, *other])
    )
    return [d for d in found if d.there != d.wanted]


def _leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """By dotted keys; an empty dict or list is a leaf."""
    if isinstance(tree, Mapping) and tree:
        items = list(tree.items())
    elif isinstance(tree, list) and tree:
        items = list(enumerate(tree))
    else:
        return {key: tree}
    found: dict[str, Any] = {}
    for name, value in items:
        found.update(_leaves(value, f"{key}.{name}" if key else str(name)))
    return found
