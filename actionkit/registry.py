"""The registry: (group, name) -> component, from the entry points of installed distributions.

Names are read from package metadata in one pass; nothing is imported until a component is used, so
a broken plugin hurts only who names it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

GROUPS = (
    "backbones", "aggregators", "fusions", "heads", "losses", "datasets", "readers", "samplers",
    "transforms", "tasks", "metrics", "callbacks", "loggers", "recipes",
)  # fmt: skip
OWN = "actionkit"


class Entry(NamedTuple):
    """A registered component, not yet imported."""

    group: str  # without the "actionkit." in front
    name: str
    target: str  # "module:Class"
    distribution: str  # normalised name
    version: str


class UnknownComponentError(LookupError):
    """No component, or more than one, goes by this name. The message says what to write."""


class BrokenComponentError(ImportError):
    """A component is registered but cannot be imported."""


def singular(group: str) -> str:
    """What one component of a group is called."""
    return "loss" if group == "losses" else group.removesuffix("s")


def normalise(distribution: str) -> str:
    """A distribution's name as PyPI compares it: lower case, runs of `-_.` as one dash."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All registered components, ours first, read once a process (`entries.cache_clear()`)."""
    found: dict[tuple[str, str, str], Entry] = {}
    for dist in importlib.metadata.distributions():
        if not (dist.read_text("METADATA") or dist.read_text("PKG-INFO")):
            continue  # what a removal has left over
        ours = [e for e in dist.entry_points if e.group.removeprefix("actionkit.") in GROUPS]
        for point in (e for e in ours if e.group.startswith("actionkit.")):
            owner = normalise(dist.metadata["Name"])
            group = point.group.removeprefix("actionkit.")
            entry = Entry(group, point.name, point.value, owner, dist.version)
            found.setdefault((group, point.name, owner), entry)  # the first on sys.path counts
    return tuple(sorted(found.values(), key=lambda e: (e.distribution != OWN, e)))


def find(groups: str | Iterable[str], use: str) -> Entry:
    """The component called `use` in one of `groups`: `name`, or `distribution:name`.

    Raises UnknownComponentError, with near names or with the cure where two plugins share one.
    """
    groups = (groups,) if isinstance(groups, str) else tuple(groups)
    owner, _, name = use.rpartition(":")
    kind = " or ".join(singular(group) for group in groups)
    candidates = [e for e in entries() if e.group in groups]
    hits = [e for e in candidates if e.name == name]
    if owner:
        hits = [e for e in hits if e.distribution == normalise(owner)]
    elif any(e.distribution == OWN for e in hits):
        hits = [e for e in hits if e.distribution == OWN]
    if len(hits) == 1:
        return hits[0]
    if hits:
        choices = " or ".join(f"'use: {e.distribution}:{e.name}'" for e in hits)
        raise UnknownComponentError(
            f"{kind} '{use}' comes from {len(hits)} distributions; {choices}"
        )
    raise UnknownComponentError(f"there is no {kind} '{use}'{_cure(use, name, groups, candidates)}")


def _cure(use: str, name: str, groups: tuple[str, ...], candidates: list[Entry]) -> str:
    if elsewhere := [e.group for e in entries() if e.name == use and e.group not in groups]:
        return f"; '{use}' is one of the {elsewhere[0]}"
    if near := get_close_matches(name, sorted({e.name for e in candidates}), n=3):
        return f". Did you mean {' or '.join(repr(n) for n in near)}?"
    if not re.fullmatch(r"([\w.-]+:)?[a-z][a-z0-9_]*", use):
        return "; only names of registered components can stand here, see `actionkit list`"
    known = ", ".join(sorted({e.name for e in candidates})) or "none"
    return f"; registered are: {known}"


def load(entry: Entry) -> Any:
    """Imports the component. Raises BrokenComponentError naming its distribution and the cause."""
    point = importlib.metadata.EntryPoint(entry.name, entry.target, f"actionkit.{entry.group}")
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # a plugin's import can raise anything
        raise BrokenComponentError(
            f"'{entry.name}' comes from {entry.distribution} {entry.version} ({entry.target}) "
            f"and could not be imported: {type(error).__name__}: {error}"
        ) from error
