"""Pictures of many videos in one file: JPEG blobs, where each ends, and a line a video.

What a store holds is what the whole lines of `videos.jsonl` say. A video's blobs come first, then
their ends, at last its line; so a process that is killed leaves a tail that nobody reads, and that
the next writer cuts off.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from actionkit.data.stores.folder import writing
from actionkit.errors import RunError
from actionkit.files import sync

DATA, ENDS, VIDEOS = "data.bin", "offsets.bin", "videos.jsonl"
END = np.dtype("<i8")  # where a blob ends in DATA, in bytes
AT_ONCE = 64  # blobs in memory


class StoreError(Exception):
    """Carries what is wrong with a store to where the video is known."""


class Video(NamedTuple):
    """A line of the table: a video, and which blobs are its pictures."""

    name: str  # its path from the store's root, with /
    first: int  # blob
    blobs: int
    frames: int  # of the video, of which flow has one field less
    fps: float
    seconds: float
    height: int  # pixels of a stored picture
    width: int


# ----------------------------------------------------------------------------------------- names


def name_of(path: Path, root: str) -> str:
    """A video's name: its path from an absolute root, with /."""
    return Path(os.path.relpath(os.path.abspath(path), root)).as_posix()


# --------------------------------------------------------------------------------------- reading


class Table(NamedTuple):
    """The videos of a store by name, or why none can be read."""

    videos: Mapping[str, Video]
    damage: str = ""


def table(store: Path) -> Table:
    """What a store holds, read once a process unless it has changed. Raises OSError."""
    state = (store / VIDEOS).stat()
    return _table(os.path.abspath(store), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _table(store: str, _mtime: int, _size: int) -> Table:
    try:
        videos, _ = _lines((Path(store) / VIDEOS).read_bytes())
        there = (os.path.getsize(Path(store, DATA)), os.path.getsize(Path(store, ENDS)))
        with Path(store, ENDS).open("rb") as ends:
            _require_whole(videos, there, ends)
    except StoreError as error:
        return Table({}, f"{error}; copy it anew, or remove it and extract again")
    return Table({video.name: video for video in videos})


def read_blobs(store: Path, numbers: np.ndarray) -> Iterator[bytes]:
    """The blobs of sorted, different numbers int64 [N], in turn. Raises OSError, StoreError.

    Both files are open only while they are read; blobs side by side are read together.
    """
    with (store / ENDS).open("rb", 0) as ends, (store / DATA).open("rb", 0) as data:
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            for first in range(0, len(run), AT_ONCE):
                some = run[first : first + AT_ONCE]
                places = _bounds(ends, int(some[0]), len(some))
                if len(places) <= len(some) or places != sorted(places):
                    raise StoreError(f"is lost: {ENDS} does not tell where it lies")
                data.seek(places[0])
                content = data.read(places[-1] - places[0])
                for start, end in pairwise(places):
                    yield content[start - places[0] : end - places[0]]


def decode(blob: bytes, flag: int, height: int, width: int) -> np.ndarray:
    """A blob's picture as OpenCV gives it, uint8. Raises StoreError for what is damaged."""
    if blob[:2] != b"\xff\xd8" or blob[-2:] != b"\xff\xd9":
        raise StoreError("is damaged: its bytes are no whole JPEG picture")
    try:
        image = cv2.imdecode(np.frombuffer(blob, np.uint8), flag)
    except cv2.error as error:
        raise StoreError(f"cannot be decoded ({error.err})") from error
    if image is None or image.shape[:2] != (height, width):
        raise StoreError(f"is damaged: its bytes are no JPEG picture of {height}x{width}")
    return image


def _bounds(ends: BinaryIO, first: int, count: int) -> list[int]:
    """Where blobs first to first + count begin, and where the last of them ends: count + 1."""
    before = min(first, 1)
    ends.seek((first - before) * END.itemsize)
    found = np.frombuffer(ends.read((count + before) * END.itemsize), END).tolist()
    return found if before else [0, *found]


def _lines(content: bytes) -> tuple[list[Video], int]:
    """The whole lines of a table, and how many bytes they have. Raises StoreError."""
    whole = content.rfind(b"\n") + 1
    try:
        videos = [Video(**json.loads(line)) for line in content[:whole].splitlines()]
    except (ValueError, TypeError) as error:
        raise StoreError(f"has a damaged {VIDEOS} ({error})") from None
    return videos, whole


def _require_whole(videos: Sequence[Video], there: tuple[int, int], ends: BinaryIO) -> int:
    """The bytes of all blobs. Raises StoreError where data or ends have less than the table says.

    `there` are the sizes of both files.
    """
    blobs = videos[-1].first + videos[-1].blobs if videos else 0
    if there[1] < blobs * END.itemsize:
        said = f"its {ENDS} has {there[1]} bytes and should have {blobs * END.itemsize}"
        raise StoreError(f"is cut short: {said}")
    size = _bounds(ends, blobs - 1, 1)[-1] if blobs else 0
    if there[0] < size:
        raise StoreError(f"is cut short: its {DATA} has {there[0]} bytes and should have {size}")
    return size


# --------------------------------------------------------------------------------------- writing


class Part(NamedTuple):
    """A video's blobs beside the store, before they come into it."""

    video: Video  # first: 0
    file: Path  # the blobs; their ends, from 0 on, lie beside it

    @property
    def ends(self) -> Path:
        """The file of the blobs' ends."""
        return self.file.with_suffix(".ends")


class PartFile:
    """Writes the files of a Part. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path, self.ends = path, [0]
        self._file: BinaryIO | None = None

    def add(self, blob: bytes) -> None:
        """One more blob."""
        self.ends.append(self.ends[-1] + len(blob))
        if self._file is None:
            self._file = self.path.open("wb")
        self._file.write(blob)

    def finish(self, video: Video) -> Part:
        """The part, whole."""
        assert self._file is not None  # noqa: S101  it has blobs
        self._file.flush()
        part = Part(video._replace(first=0, blobs=len(self.ends) - 1), self.path)
        part.ends.write_bytes(np.array(self.ends[1:], END).tobytes())
        return part

    def close(self) -> None:
        """Closes its file."""
        if self._file is not None:
            with suppress(OSError):  # what could not be written has been said
                self._file.close()


class Writer:
    """The only writer of a store, which begins where the last whole video ends.

    Raises RunError where another process writes the store, or it is damaged; NoRoomError where it
    cannot be written.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        with writing(store):
            self._data, self._ends, self._rows = (
                (store / name).open("a+b") for name in (DATA, ENDS, VIDEOS)
            )
            try:
                _lock(self._data, store)
                self._recover()
            except BaseException:
                self.close()
                raise

    def _recover(self) -> None:
        """Cuts off what a killed process has left behind the last whole video."""
        self._rows.seek(0)
        try:
            videos, whole = _lines(self._rows.read())
            there = (self._data.seek(0, os.SEEK_END), self._ends.seek(0, os.SEEK_END))
            self.size = _require_whole(videos, there, self._ends)
        except StoreError as error:
            raise RunError(f"{self.store} {error}; remove it and extract again") from None
        self.names = {video.name for video in videos}
        self.blobs = videos[-1].first + videos[-1].blobs if videos else 0
        sizes = (self.size, self.blobs * END.itemsize, whole)
        for file, size in zip((self._data, self._ends, self._rows), sizes, strict=True):
            if file.seek(0, os.SEEK_END) > size:
                file.truncate(size)

    def append(self, part: Part) -> None:
        """Takes a part in and removes its files; from then on the video is in the store."""
        size = part.file.stat().st_size
        line = json.dumps(part.video._replace(first=self.blobs)._asdict()) + "\n"
        with writing(self.store, size):
            with part.file.open("rb") as blobs:
                shutil.copyfileobj(blobs, self._data, 1 << 20)
            sync(self._data)
            ends = np.frombuffer(part.ends.read_bytes(), END) + self.size
            self._ends.write(ends.astype(END).tobytes())
            sync(self._ends)
            self._rows.write(line.encode())
            sync(self._rows)
        self.names.add(part.video.name)
        self.blobs, self.size = self.blobs + part.video.blobs, self.size + size
        part.file.unlink()
        part.ends.unlink()

    def close(self) -> None:
        """Lets another process write."""
        for file in (self._data, self._ends, self._rows):
            with suppress(OSError):  # what could not be written has been said
                file.close()


def _lock(file: BinaryIO, store: Path) -> None:
    """Keeps other processes from writing, until this one ends. Raises RunError if one does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not shared with forked workers
    except BlockingIOError as error:
        raise RunError(f"{store} is being written by another process; wait for it") from error
    except OSError:  # not every file system has locks
        return
