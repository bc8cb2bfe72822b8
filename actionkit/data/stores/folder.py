"""The folder of a store: what it was made with, whether it is whole, what could not be stored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from actionkit.differences import differences
from actionkit.errors import NoRoomError, RunError
from actionkit.files import UNFINISHED, free_bytes, megabytes, remove_unfinished, write

FORMAT = 1
NOTE = "store.json"


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
    kind: str  # frames, flow, features or videos
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
            videos = store.kind == "videos"
            cure = "make it data.dataset.root" if videos else f"use stored_{store.kind}"
            raise ValueError(f"reads stores of {kind}, but {path} holds {store.kind}; {cure}")
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
            if path.is_dir() and any(not UNFINISHED.fullmatch(p.name) for p in path.iterdir()):
                text = "holds files, but no store; choose another folder, or empty it"
                raise RunError(f"{path} {text}") from None
            path.mkdir(parents=True, exist_ok=True)
            store = cls(path, kind, _plain(settings), str(root))
            remove_unfinished(path)
            store.save()
            return store
        except ValueError as error:
            raise RunError(f"{path}: {error}") from None
        remove_unfinished(path)
        wanted = {"kind": kind, "root": str(root), **_plain(settings)}
        there = {"kind": store.kind, "root": store.root, **store.settings}
        if changes := differences(there, wanted):
            said = "; ".join(f"{d.key} is {d.there} there, {d.wanted} is wanted" for d in changes)
            raise RunError(
                f"{path} is a store made with other settings: {said}. Write to "
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


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON, so that both sides compare equal."""
    return json.loads(json.dumps(settings, default=str))


def root_for(store: Path, files: Sequence[Path]) -> Path:
    """What the names of files begin at: the store's own root where it has one that holds them all,
    else the deepest folder that does.
    """
    folders = [os.path.dirname(os.path.abspath(file)) for file in files]
    deepest = Path(os.path.commonpath(folders))
    try:
        root = Path(Store._read(store).root)
    except (OSError, ValueError):
        return deepest
    return root if deepest.is_relative_to(root) else deepest


def no_room(path: Path, error: OSError, size: int = 0) -> NoRoomError:
    """What to say where so many bytes, as far as is known, cannot be written at a path."""
    wants = f"it takes {size} bytes more, and " if size else ""
    return NoRoomError(
        f"{path} cannot be written: {error.strerror or error}; {wants}"
        f"{megabytes(free_bytes(path))} are free. Free space and call this again: what is "
        "stored stays, and it goes on where it was"
    )


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Raises NoRoomError where so many bytes cannot be written at a path."""
    try:
        yield
    except OSError as error:
        raise no_room(path, error, size) from error
