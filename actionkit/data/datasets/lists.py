"""What data sets that read lists share: text, problems with places, paths that stay in root.

Names of files need not be UTF-8: other bytes become surrogates, as in every path of Python.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

MOST = 5  # problems shown


def printable(text: str) -> str:
    """Text that any printer, logger or CSV file takes: surrogates become backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_text(path: Path) -> str:
    """A list as text, lines ended by a bare newline. Raises ValueError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("is written in UTF-16; save it as UTF-8")
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, stripped, with their numbers from 1.

    Raises ValueError where it cannot be read.
    """
    lines = ((number, line.strip(" \t")) for number, line in enumerate(_split(path), 1))
    return [(number, line) for number, line in lines if line]


def _split(path: Path) -> list[str]:
    return read_text(path).split("\n")  # splitlines() would cut names at characters like U+2028


class Problems:
    """What is wrong with a data set's lists, gathered so that all of it is said at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, place: object, text: object, line: int | None = None) -> None:
        """Notes what is wrong in a file, or at a line of it."""
        self.found.append(f"{place}: {text}" if line is None else f"{place}:{line}: {text}")

    def require_none(self) -> None:
        """Raises ValueError with the first of the problems, and how many more there are."""
        if not self.found:
            return
        count = len(self.found)
        shown = [f"\n  {problem}" for problem in self.found[:MOST]]
        more = f"\n  and {count - MOST} more" if count > MOST else ""
        number = "a problem" if count == 1 else f"{count} problems"
        raise ValueError(printable(f"finds {number} in its lists:{''.join(shown)}{more}"))


def link_out(path: Path, root: Path) -> str:
    """Says that a path leads out of a resolved root by a link; empty if it stays inside."""
    target = Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return ""
    return (
        f"a link that leads out of root: {path} -> {target}; "
        "copy the file, or take the folder that holds both as root"
    )


class Inside:
    """The paths of a list, kept under a root.

    Each folder is looked at once and no file at all, since lists are long and network disks slow.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._written = Path(os.path.abspath(root))
        self._folders: dict[str, tuple[str, dict[str, str]]] = {}

    def locate(self, path: str) -> str:
        """A listed path, absolute or relative to root, as one relative to root, without `..`.

        The file need not exist. Raises ValueError for a path that leaves root, also by a link.
        """
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or "\0" in path or "\n" in path:
            raise ValueError(f"{path!r} is no name of a file")
        if folder not in self._folders:
            self._folders[folder] = self._look(folder)
        prefix, refused = self._folders[folder]
        if reason := refused.get(name) or refused.get(""):
            raise ValueError(reason)
        return prefix + name

    def _look(self, folder: str) -> tuple[str, dict[str, str]]:
        """A folder relative to root, and why a name in it (or any, under "") is refused."""
        path = Path(os.path.normpath(self._written / folder))
        if path.is_relative_to(self._written):
            path = self.root / path.relative_to(self._written)
        if not path.is_relative_to(self.root):
            text = f"the path leaves root: {folder!r} is not in {self.root}"
            return "", {"": f"{text}; correct the path, or take a folder above both as root"}
        if reason := link_out(path, self.root):
            return "", {"": reason}
        inner = path.relative_to(self.root).as_posix()
        return "" if inner == "." else f"{inner}/", self._links(path)

    def _links(self, folder: Path) -> dict[str, str]:
        try:
            with os.scandir(folder) as entries:  # tells links apart without asking for each file
                links = [Path(entry.path) for entry in entries if entry.is_symlink()]
        except OSError:  # a missing folder is found when its files are opened
            return {}
        reasons = {path.name: link_out(path, self.root) for path in links}
        return {name: reason for name, reason in reasons.items() if reason}
