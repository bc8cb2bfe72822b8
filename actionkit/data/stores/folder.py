"""The folder of a store: what it was made with, whether it is whole, what could not be stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from actionkit.errors import RunError
from actionkit.files import write

FORMAT = 1
NOTE = "store.json"
_NOTHING = "not set"


class Failure(NamedTuple):
    """A video or clip that is not in the store, and why."""

    name: str
    reason: str


@dataclass
class Store:
    """What stands in a store's `store.json`.

    Two stores of equal `settings` hold the same for the same video.
    """

    path: Path
    kind: str  # frames, flow or features
    settings: dict[str, Any]  # plain containers
    root: str  # what names are relative to, as it was when the store was made
    complete: bool = False
    failures: Sequence[Failure] = ()

    @classmethod
    def open(cls, path: Path, kind: str) -> Store:
        """A whole store, to be read. Raises ValueError with the rest of a sentence."""
        try:
            store = cls._read(path)
        except FileNotFoundError:
            text = f"finds no store in {path}; make it: actionkit extract {kind} RECIPE {path}"
            raise ValueError(text) from None
        if store.kind != kind:
            raise ValueError(
                f"reads stores of {kind}, but {path} holds {store.kind}; use stored_{store.kind}"
            )
        if not store.complete:
            raise ValueError(
                f"needs a whole store, but {path} is unfinished; call the actionkit extract that "
                "began it again, it goes on where it was"
            )
        return store

    @classmethod
    def begin(cls, path: Path, kind: str, settings: Mapping[str, Any], root: Path) -> Store:
        """A store to be written, new or begun before.

        Raises RunError, naming every difference, where one of other settings is there.
        """
        try:
            store = cls._read(path)
        except FileNotFoundError:
            if path.is_dir() and any(path.iterdir()):
                text = "holds files, but no store; choose another folder, or empty it"
                raise RunError(f"{path} {text}") from None
            path.mkdir(parents=True, exist_ok=True)
            store = cls(path, kind, _plain(settings), str(root))
            store.save()
            return store
        except ValueError as error:
            raise RunError(f"{path}: {error}") from None
        wanted = {"kind": kind, "root": str(root), **_plain(settings)}
        there = {"kind": store.kind, "root": store.root, **store.settings}
        if changes := differences(there, wanted):
            raise RunError(
                f"{path} is a store made with other settings: {'; '.join(changes)}. Write to "
                "another folder, or remove this one"
            )
        return store

    def finish(self, failures: Sequence[Failure]) -> None:
        """Notes that nothing is left to do."""
        self.complete, self.failures = True, failures
        self.save()

    def save(self) -> None:
        """Writes the note, whole or not at all."""
        values = {
            "format": FORMAT,
            **asdict(self),
            "failures": [f._asdict() for f in self.failures],
        }
        del values["path"]
        write(self.path / NOTE, json.dumps(values, indent=2) + "\n")

    @classmethod
    def _read(cls, path: Path) -> Store:
        """Raises FileNotFoundError where there is none, ValueError where it is unsound."""
        try:
            values = json.loads((path / NOTE).read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError(f"cannot read the store in {path}: it is of another format")
            failures = [Failure(**failure) for failure in values.pop("failures")]
            return cls(path, failures=failures, **values)
        except (NotADirectoryError, KeyError, TypeError, AttributeError, ValueError) as error:
            if "format" in str(error):
                raise
            raise ValueError(f"finds no sound {NOTE} in {path} ({error}); extract again") from None


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two trees of settings: "quality is 90 there, 95 is wanted"."""
    one, other = _flat(there), _flat(wanted)
    return [
        f"{key} is {one.get(key, _NOTHING)} there, {other.get(key, _NOTHING)} is wanted"
        for key in dict.fromkeys([*one, *other])
        if one.get(key, _NOTHING) != other.get(key, _NOTHING)
    ]


def _flat(tree: Any, key: str = "") -> dict[str, Any]:
    """The leaves of a tree of dicts and lists by dotted keys."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    else:
        return {key: tree}
    found: dict[str, Any] = {}
    for name, value in items:
        found.update(_flat(value, f"{key}.{name}" if key else str(name)))
    return found


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON, so that both sides compare equal."""
    return json.loads(json.dumps(settings, default=str))
