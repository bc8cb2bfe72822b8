"""A component under test, with the options it is built with."""

from __future__ import annotations

import functools
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actionkit import registry, schema
from actionkit.registry import Entry
from actionkit.testing.verdict import NotConformingError, NotSupportedError, require

Check = Callable[["Subject"], None]
"""One rule of the contract; its docstring is the rule. Raises NotConformingError."""


class Subject:
    """A registered component, and what its checks share so that it is made only once."""

    def __init__(self, entry: Entry, options: Mapping[str, Any] | None = None) -> None:
        self.entry, self.options = entry, dict(options or {})
        self.shared: dict[Any, Any] = {}  # what an earlier check made, by the maker's key

    @functools.cached_property
    def component(self) -> Any:
        """The class. Raises BrokenComponentError if it cannot be imported."""
        return registry.load(self.entry)

    def make(self, *supplied: Any) -> Any:
        """An instance. Raises NotConformingError if an option without default is not given."""
        known = schema.parameters(self.entry).values()
        missing = [p.name for p in known if p.required and p.name not in self.options]
        written = ", ".join(f"{name!r}: ..." for name in missing)
        require(
            not missing,
            f"{', '.join(missing)} must be given; write "
            f"conformance(..., options={{{self.entry.name!r}: {{{written}}}}})",
        )
        return self.component(*supplied, **self.options)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made by the first check that asks for it."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


@contextmanager
def global_rng_untouched(what: str) -> Iterator[None]:
    """Raises NotConformingError if a global generator, torch's, numpy's or Python's, was used."""
    before = _global_rngs()
    yield
    for name, state in _global_rngs().items():
        require(state == before[name], f"{what} draws from the global generator of {name}")


def _global_rngs() -> dict[str, bytes]:
    """The states of the three generators that all code of a process shares."""
    states = {"numpy": np.random.get_state(), "Python": random.getstate()}
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        **{name: pickle.dumps(state) for name, state in states.items()},
    }


def require_pickles(thing: Any) -> Any:
    """A copy by pickling. Raises NotConformingError where it does not survive that."""
    try:
        return pickle.loads(pickle.dumps(thing))  # noqa: S301  our own bytes
    except Exception as error:
        raise NotConformingError(f"cannot be pickled: {type(error).__name__}: {error}") from error


def pickle_(subject: Subject) -> None:
    """It survives pickling, as on its way to a worker."""
    require_pickles(subject.make())


def open_files() -> set[tuple[str, str]]:
    """The regular files this process holds open, (descriptor, path).

    Raises NotSupportedError on a system that does not list them.
    """
    folder = Path("/dev/fd")
    if not folder.is_dir():
        raise NotSupportedError(f"this system lists no open files under {folder}")
    held = {(d.name, os.path.realpath(d)) for d in folder.iterdir()}
    return {(number, path) for number, path in held if os.path.isfile(path)}
