"""What data sets share that are read by official lists, one for each of three splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from actionkit.contracts import Dataset, Record
from actionkit.data.datasets.lists import Inside, Problems, read_lines

A_FEW = 5  # files looked at to learn the layout


class Clip(NamedTuple):
    """A sound line of a list."""

    folder: str
    name: str
    target: int
    group: str
    list: Path
    line: int

    def place(self, layout: str) -> str:
        """Its path below root, in a layout such as "{folder}/{name}"."""
        return layout.format(folder=self.folder, name=self.name)


class Official(Dataset):
    """The clips of one side of a split, below a root."""

    root: Path

    def keep(
        self, root: Path, layouts: Sequence[str], clips: Sequence[Clip], problems: Problems
    ) -> None:
        """Takes clips, in the layout in which the first few lie. Raises ValueError for problems,
        those that were found before and paths that leave root.
        """
        self.root, self._clips = root.resolve(), list(clips)
        self._layout = _layout(self.root, layouts, self._clips)
        inside = Inside(root)
        for clip in self._clips:
            try:
                inside.locate(clip.place(self._layout))
            except ValueError as error:
                problems.add(clip.list, error, clip.line)
        problems.require_none()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Record:
        clip = self._clips[index]
        return Record(
            id=f"{clip.folder}/{os.path.splitext(clip.name)[0]}",
            sources={"rgb": self.root / clip.place(self._layout)},
            target=clip.target,
            group=clip.group,
            origin=f"{clip.list}:{clip.line}",
        )


def require(subset: str, split: int, root: Path) -> str:
    """The side of a split, train or test, that a subset is. Raises ValueError for what is none."""
    if subset not in ("train", "val", "test"):
        raise ValueError(f"has the subsets train, val and test, but was asked for {subset!r}")
    if split not in (1, 2, 3):
        raise ValueError(f"has the splits 1, 2 and 3, but was asked for {split!r}; write 1")
    if not root.is_dir():
        raise ValueError(f"finds no folder {root}; check root")
    return "train" if subset == "train" else "test"


def _layout(root: Path, layouts: Sequence[str], clips: Sequence[Clip]) -> str:
    """How videos lie below root, told by the first few that are listed; the first for none."""
    for layout in layouts:
        if any(os.path.lexists(root / clip.place(layout)) for clip in clips[:A_FEW]):
            return layout
    return layouts[0]


def read_list(path: Path, problems: Problems) -> list[tuple[int, str]]:
    """The lines of an official list, of which there must be some; else notes why."""
    if not path.is_file():
        problems.add(path, "there is no such file; unpack all official lists into one folder")
        return []
    try:
        lines = read_lines(path)
    except ValueError as error:
        problems.add(path, error)
        return []
    if not lines:
        problems.add(path, "expected lines, but the file is empty")
    return lines
