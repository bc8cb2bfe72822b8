"""Features computed once: one array of all clips' steps, and a list of which steps are whose.

A folder of `features.npy` [steps, C, H, W], which numpy reads too; `clips.jsonl`, a line a batch as
they were computed; and `store.json`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from actionkit.contracts import Info, Kind, Reader, Record, Shape, VideoReadError
from actionkit.data.stores.folder import NOTE, Failure, Store, writing
from actionkit.errors import RunError
from actionkit.files import sync

KIND = "features"
ARRAY, LIST = "features.npy", "clips.jsonl"


class StoredFeatures(Reader):
    """Reads the features that `actionkit extract features` has stored, one step an index.

    A network is then trained on them, and what they were computed by is not run again:
    `reader: {features: {use: stored_features, path: DIR}}` gives the modality `features`, of the
    shape that left the part they were taken from, float16 or float32. They are found by a clip's
    id, so the data set must be the one they were extracted with; a clip's own start and end are
    those of its features. `sampler: full` takes all steps. A store knows no seconds: times count
    steps.
    """

    whole: ClassVar[bool] = True
    kind: Kind | None = "score"
    name: ClassVar[str] = "stored_features"

    def __init__(self, *, path: Path) -> None:
        self.path = Path(path)
        self._folder, self._array, self._note = (
            os.path.join(path, name) for name in ("", ARRAY, NOTE)
        )
        Store.open(self.path, KIND)
        try:
            self._sizes = _layout(self.path / ARRAY).sizes
        except (OSError, ValueError) as error:
            raise ValueError(f"finds no sound {ARRAY} in {path} ({error}); extract again") from None

    def source(self, record: Record, modality: str) -> Path:
        """The clip's place in the store, by its id; not a file of its own."""
        return self.path / _name(record.id)

    def out(self, shape: Shape) -> Shape:
        """As many steps as there were, of the size of what is stored."""
        return Shape(shape.steps, *self._sizes)

    def probe(self, path: Path) -> Info:
        """How many steps there are of a clip."""
        clip, layout = self._find(path)
        return Info(clip.steps, 1.0, float(clip.steps), *layout.sizes[1:])

    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Steps `indices` [N] int64 of a clip, float16 or float32 [N, C, H, W]."""
        clip, layout = self._find(path)
        steps = indices.tolist()
        if steps and not 0 <= min(steps) <= max(steps) < clip.steps:
            raise VideoReadError(
                path,
                self.name,
                f"steps {min(steps)} to {max(steps)} were asked for, but it has steps 0 to "
                f"{clip.steps - 1}",
            )
        rows = np.empty((len(steps), *layout.sizes), layout.dtype)
        raw, size = rows.reshape(-1).view(np.uint8), layout.row_bytes
        try:
            with open(self._array, "rb", 0) as file:
                for start, stop in _runs(steps):
                    file.seek(layout.place(clip.first + steps[start]))
                    _fill(file, raw[start * size : stop * size])
        except (OSError, EOFError) as error:
            raise VideoReadError(path, self.name, f"{ARRAY} cannot be read: {error}") from error
        return torch.from_numpy(rows)

    def _find(self, path: Path) -> tuple[_Clip, _Layout]:
        """Where a clip's steps are. Raises VideoReadError for one that is not in the store."""
        try:
            table = _table(self._folder, os.stat(self._note).st_mtime_ns)
        except (OSError, ValueError) as error:
            text = f"the store cannot be read: {error}"
            raise VideoReadError(path, self.name, text) from error
        clip = table.clips.get(path.name)
        if clip is None or not clip.steps:
            reason = table.failures.get(path.name)
            text = f"it could not be read when features were extracted: {reason}"
            other = "the store has no clip of this id; extract features of this data set"
            raise VideoReadError(path, self.name, text if reason else other)
        return clip, table.layout


# --------------------------------------------------------------------------------------- writing


class Line(NamedTuple):
    """A batch, as it stands in the list."""

    pieces: list[tuple[str, int]]  # id and number of steps, in the order of the array
    failures: list[Failure]  # by id

    @property
    def steps(self) -> int:
        """Rows of the array."""
        return sum(steps for _, steps in self.pieces)


class Writer:
    """Appends batches of features, behind the last whole one of those that are there.

    A batch counts when its line is in the list. What a killed process has left behind that is cut
    off, so the files become what they would have been without the kill.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder, self.dtype = folder, np.dtype(dtype)
        self._array, self._list = folder / ARRAY, folder / LIST
        self._array.touch()
        self._list.touch()
        content = self._list.read_bytes()
        self._listed = content.rfind(b"\n") + 1
        try:
            self.lines = _lines(content[: self._listed])
            self.steps = sum(line.steps for line in self.lines)
            self._layout = _layout(self._array) if self.steps else None
            size = self._layout.place(self.steps) if self._layout else 0
            if self._array.stat().st_size < size:
                raise ValueError(f"{ARRAY} is shorter than {LIST} says")
        except (ValueError, TypeError, KeyError) as error:
            text = f"{folder} is damaged: {error}; remove it and extract again"
            raise RunError(text) from error
        os.truncate(self._list, self._listed)
        os.truncate(self._array, size)

    @property
    def failures(self) -> list[Failure]:
        """The clips that are not stored, each once."""
        found: dict[str, Failure] = {}
        for line in self.lines:
            for failure in line.failures:
                found.setdefault(failure.name, failure)
        return list(found.values())

    def append(self, pieces: Sequence[tuple[str, np.ndarray]], failures: Sequence[Failure]) -> None:
        """Adds a batch: features [T, C, H, W] by id, the pieces of a clip in turn.

        It is on the disk when this returns. Raises RunError where sizes differ or another process
        writes too, NoRoomError where nothing can be written.
        """
        line = Line([(name, len(x)) for name, x in pieces], list(failures))
        with writing(self.folder):
            if line.steps:
                self._write(pieces)
            if self._list.stat().st_size != self._listed:
                raise RunError(f"another process writes to {self.folder} too; this one stops")
            with self._list.open("ab") as file:
                file.write(json.dumps(line._asdict()).encode() + b"\n")
                sync(file)
        self._listed = self._list.stat().st_size
        self.lines.append(line)
        self.steps += line.steps

    def finish(self) -> None:
        """Writes into the array's head how many steps there are."""
        assert self._layout is not None  # noqa: S101  there is a step
        with self._array.open("r+b") as file:
            _write_head(file, self.dtype, (self.steps, *self._layout.sizes))
            sync(file)

    def _write(self, pieces: Sequence[tuple[str, np.ndarray]]) -> None:
        with self._array.open("r+b") as file:
            if self._layout is None:
                sizes = pieces[0][1].shape[1:]
                _write_head(file, self.dtype, (0, *sizes))
                self._layout = _Layout.of(self.dtype, sizes, file.tell())
            file.seek(self._layout.place(self.steps))
            for name, x in pieces:
                if x.shape[1:] != self._layout.sizes or x.dtype != self.dtype:
                    raise RunError(
                        f"{name} has features of {_sizes(x.shape[1:])}, but those before it have "
                        f"{_sizes(self._layout.sizes)}; a store takes one size: end per_sample "
                        "with crop_resize, or take the features behind spatial_pool"
                    )
                file.write(np.ascontiguousarray(x).data)
            sync(file)


def _sizes(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


# ----------------------------------------------------------------------------------- the two files


class _Layout(NamedTuple):
    """How the array lies in its file."""

    dtype: np.dtype
    sizes: tuple[int, ...]  # C, H, W
    head: int  # bytes
    row_bytes: int

    @classmethod
    def of(cls, dtype: np.dtype, sizes: tuple[int, ...], head: int) -> _Layout:
        return cls(dtype, sizes, head, math.prod(sizes) * dtype.itemsize)

    def place(self, step: int) -> int:
        """Where a step begins."""
        return self.head + step * self.row_bytes


class _Clip(NamedTuple):
    first: int  # row of the array
    steps: int


class _Table(NamedTuple):
    layout: _Layout
    clips: dict[str, _Clip]  # by name
    failures: dict[str, str]  # reasons by name


def _write_head(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Numpy's own head, which leaves room for any number of steps: its length never changes."""
    descr = npy.dtype_to_descr(dtype)
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def _layout(path: Path) -> _Layout:
    """Raises ValueError for what is no such array, or is cut short."""
    with path.open("rb") as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("it is not of version 1.0")
        shape, fortran, dtype = npy.read_array_header_1_0(file)
        if fortran or len(shape) != 4 or dtype.kind != "f":
            raise ValueError("it is no array of steps, channels, height and width")
        layout = _Layout.of(dtype, shape[1:], file.tell())
        if os.fstat(file.fileno()).st_size < layout.place(shape[0]):
            raise ValueError("it is cut short")
    return layout


def _lines(text: bytes) -> list[Line]:
    found = []
    for line in text.splitlines():
        value = json.loads(line)
        pieces = [(name, steps) for name, steps in value["pieces"]]
        found.append(Line(pieces, [Failure(*failure) for failure in value["failures"]]))
    return found


@lru_cache(maxsize=16)
def _table(folder: str, _mtime: int) -> _Table:
    """What is where in a whole store."""
    layout, first = _layout(Path(folder, ARRAY)), 0
    clips: dict[str, _Clip] = {}
    failures: dict[str, str] = {}
    for line in _lines(Path(folder, LIST).read_bytes()):
        for identity, steps in line.pieces:
            name = _name(identity)
            before = clips.get(name, _Clip(first, 0))  # its pieces follow each other
            clips[name] = before._replace(steps=before.steps + steps)
            first += steps
        for failure in line.failures:
            failures.setdefault(_name(failure.name), failure.reason)
    whole = {name: clip for name, clip in clips.items() if name not in failures}
    return _Table(layout, whole, failures)


def _name(identity: str) -> str:
    """A clip's id as one name of a path, whatever it holds."""
    name = quote(identity, safe="", errors="surrogatepass")
    return name if name.strip(".") else f"%{name}"


def _runs(steps: list[int]) -> Iterator[tuple[int, int]]:
    """From where to where each step is followed by the next one, so that they are read at once."""
    start = 0
    for stop in range(1, len(steps) + 1):
        if stop == len(steps) or steps[stop] != steps[stop - 1] + 1:
            yield start, stop
            start = stop


def _fill(file: BinaryIO, into: np.ndarray) -> None:
    """Reads bytes [N]; a system gives at most 2 GB at once."""
    while len(into):
        count = file.readinto(into)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it is cut short")
        into = into[count:]
