"""Files written as a whole or not at all, and the room there is for them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

HOST = platform.node().partition(".")[0]
UNFINISHED = re.compile(r"\..+\.(?P<host>[^.]*)\.(?P<pid>\d{1,9})\.actionkit-part")
DEAD_AFTER = 3600.0  # seconds in which nothing was written to an unfinished file


def write(path: Path, text: str) -> None:
    """Writes a text file as a whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # names of files may be no UTF-8


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well: on disk, and as a whole.

    Until then it lies beside it, since only within a file system is a file renamed at one stroke.
    """
    unfinished = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.actionkit-part")
    try:
        with unfinished.open("wb") as file:
            yield file
            sync(file)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system can; a power cut may then bring back the old
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sync(file: BinaryIO) -> None:
    """Puts what was written on the disk, since what follows relies on it."""
    file.flush()
    os.fsync(file.fileno())


def remove_unfinished(folder: Path) -> None:
    """Removes what `replacing` left in a folder when its process was killed."""
    for file in folder.iterdir():
        if (owner := UNFINISHED.fullmatch(file.name)) is None:
            continue
        with suppress(OSError):  # its process has just finished it, or it is another user's
            idle = time.time() - file.stat().st_mtime
            here = owner["host"] == HOST and not _alive(int(owner["pid"]))
            if here or idle > DEAD_AFTER:
                file.unlink()


def _alive(process: int) -> bool:
    """Whether another process of this machine may still be writing."""
    if process == os.getpid():
        return False  # a namesake's from before: this one writes nothing yet
    if os.name == "nt":
        return True  # where to ask is to kill
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def free_bytes(path: Path) -> int:
    """What this user may still write at a path, which need not exist."""
    existing = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    return shutil.disk_usage(existing).free


def megabytes(size: int) -> str:
    """A number of bytes, to be read."""
    return f"{size / 1e6:,.1f} MB"
