"""Checks of every component, whatever its group: how it is declared, and what importing it does."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import subprocess
import sys
from typing import Any

from torch import nn

from actionkit import schema
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import require

# group -> what its components must be, and the positional parameters that the builder supplies.
# Named, not imported: a test of one part need not wait for Lightning.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "backbones": (("actionkit.contracts:Backbone", "actionkit.contracts:Joint"), ("inp",)),
    "aggregators": (("actionkit.contracts:Aggregator",), ("inp",)),
    "fusions": (("actionkit.contracts:Fusion",), ("inp",)),
    "heads": (("actionkit.contracts:Head",), ("inp", "classes")),
    "losses": (("actionkit.contracts:Loss",), ()),
    "metrics": (("actionkit.contracts:Metric",), ("classes",)),
    "datasets": (("actionkit.contracts:Dataset",), ("split",)),
    "readers": (("actionkit.contracts:Reader",), ()),
    "samplers": (("actionkit.contracts:Sampler",), ()),
    "transforms": (("actionkit.contracts:Transform",), ()),
    "tasks": (("lightning.pytorch:LightningModule",), ("system",)),
    "callbacks": (("lightning.pytorch:Callback",), ()),
    "loggers": (("lightning.pytorch.loggers:Logger",), ("folder",)),
}
MOST_OPTIONS = 10


def signature(subject: Subject) -> None:
    """Options are keyword-only and annotated, at most 10, and read the same from the source."""
    names, supplied = GROUPS[subject.entry.group]
    bases = tuple(pkgutil.resolve_name(name) for name in names)
    component = subject.component
    wanted = " or ".join(base.__name__ for base in bases)
    require(
        isinstance(component, type) and issubclass(component, bases),
        f"{subject.entry.target} is no {wanted}, which {subject.entry.group} must be",
    )
    require(component.__dict__.get("__doc__"), f"class {component.__name__} has no docstring")
    parameters = _constructor(component)
    for p in parameters:
        starred = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        require(not starred, f"the constructor takes {p}; name its options one by one")
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    first = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    taken = {p.name for p in options}  # an option `split`, as of ucf101, leaves the name to it
    fits = [ours == name or name in taken for ours, name in zip(first, supplied, strict=False)]
    require(
        len(first) == len(supplied) and all(fits),
        f"before the star the constructor takes ({', '.join(first)}), but what the builder "
        f"supplies is ({', '.join(supplied)}); put options behind a *",
    )
    require(
        len(options) <= MOST_OPTIONS, f"it has {len(options)} options; {MOST_OPTIONS} are the most"
    )
    _require_schema(subject, options)


def _constructor(component: type) -> list[inspect.Parameter]:
    """The constructor's parameters behind self; none where it is inherited from a bare base."""
    constructor: Any = component.__init__  # type: ignore[misc]
    if constructor in (object.__init__, nn.Module.__init__):
        return []
    return list(inspect.signature(constructor).parameters.values())[1:]


def _require_schema(subject: Subject, options: list[inspect.Parameter]) -> None:
    """What recipes are checked against, read from the source, is what Python sees."""
    static = schema.parameters(subject.entry)
    names = {p.name for p in options}
    require(
        names == set(static),
        f"its options are {sorted(names)}, but from its source one reads {sorted(static)}; "
        "write __init__ in the class itself or in a base class of its module",
    )
    for p in options:
        require(p.annotation is not p.empty, f"option {p.name!r} has no annotation")
        require(
            static[p.name].type is not Any,
            f"the annotation of {p.name!r}, {p.annotation}, is none that recipes know",
        )
        required = p.default is p.empty
        require(static[p.name].required == required, f"{p.name!r} has a default one cannot read")


def import_is_silent(subject: Subject) -> None:
    """Importing the module prints nothing and changes no global state, in a fresh process."""
    module = subject.entry.target.partition(":")[0]
    import_all([module])
    said = _IMPORTED[module]
    require(not said, f"importing {module} {'; it '.join(said)}")


_IMPORTED: dict[str, list[str]] = {}


def import_all(modules: list[str]) -> None:
    """Imports modules, each apart from the others, at the price of one process that loads torch."""
    missing = [m for m in dict.fromkeys(modules) if m not in _IMPORTED]
    together = hasattr(os, "fork")  # one process then forks for each of them
    for group in [missing] if together and missing else [[m] for m in missing]:
        _import_apart(group)


def _import_apart(modules: list[str]) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(  # noqa: S603  our own module, in our own interpreter
        [sys.executable, "-m", "actionkit.testing.importing", *modules],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    require(done.returncode == 0, f"could not be tried in a fresh process: {done.stderr[-500:]}")
    _IMPORTED.update(json.loads(done.stdout.splitlines()[-1]))
