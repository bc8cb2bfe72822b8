"""HMDB51 with its official lists (Kuehne et al. 2011)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from actionkit.contracts import Dataset, Record
from actionkit.data.datasets.lists import Inside, Problems, layout_of, read_list

LISTS = "testTrainMulti_7030_splits"
LAYOUTS = ("{folder}/{name}", "{name}", "hmdb51_org/{folder}/{name}")  # below root
LIST = re.compile(r"(\w+)_test_split([123])\.txt")
CLIP_LINE = re.compile(r"(\S+\.\w+)[ \t]+([012])")
SIDES = {"1": "train", "2": "test"}  # 0: in neither


class HMDB51(Dataset):
    """HMDB51 by its official lists: 6,766 clips of 51 actions, three splits.

    `root` holds the videos as root/CLASS/NAME.avi, the same below root/hmdb51_org, or all in root
    itself. `lists` is the folder of brush_hair_test_split1.txt and so on (test_train_splits.rar);
    by default root/testTrainMulti_7030_splits, testTrainMulti_7030_splits beside root, or root, the
    first that holds such lists. `split` 1, 2 or 3 says which lists are used; published figures are
    of split 1 or the mean of the three. Each has 70 clips of a class to train on and 30 to test,
    and leaves out the others.

    HMDB51 has no validation split: `val` and `test` are both the official test clips, so a
    checkpoint chosen by its score on `val` flatters the score on `test`.

    Classes are those of the lists, sorted by name. A list may be cut to the clips you have, a class
    without a list is left out. All lines are checked; which files exist is not, since
    `actionkit check` opens them all. `group` is the film a clip was cut from. The official lists
    keep the clips of a film and a class on one side, and lists that do not are refused; clips of a
    film in different classes they do not keep so.
    """

    classes: list[str]

    def __init__(
        self, subset: str, *, root: Path, split: Literal[1, 2, 3] = 1, lists: Path | None = None
    ) -> None:
        if subset not in ("train", "val", "test"):
            raise ValueError(f"has the subsets train, val and test, but was asked for {subset!r}")
        if split not in (1, 2, 3):
            raise ValueError(f"has the splits 1, 2 and 3, but was asked for {split!r}; write 1")
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"finds no folder {root}; check root")
        files, problems = _lists(root, lists, split), Problems()
        self.classes = sorted(files)
        side = "train" if subset == "train" else "test"
        self._clips = [
            clip
            for target, name in enumerate(self.classes)
            for clip in _read_clips(files[name], name, target, problems)
            if clip.side == side
        ]
        self.root = root.resolve()
        self._layout = layout_of(self.root, LAYOUTS, self._clips)
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
            id=clip.id,
            sources={"rgb": self.root / clip.place(self._layout)},
            target=clip.target,
            group=clip.group,
            origin=f"{clip.list}:{clip.line}",
        )


class _Clip(NamedTuple):
    folder: str
    name: str
    target: int
    side: str  # train, test, or empty
    list: Path
    line: int

    @property
    def id(self) -> str:
        return f"{self.folder}/{os.path.splitext(self.name)[0]}"

    @property
    def group(self) -> str:
        """FILM of FILM_brush_hair_u_nm_np1_ba_goo_0.avi."""
        return self.name.rpartition(f"_{self.folder}_")[0] or self.name

    def place(self, layout: str) -> str:
        return layout.format(folder=self.folder, name=self.name)


def _lists(root: Path, lists: Path | None, split: int) -> dict[str, Path]:
    """The list of each class. Raises ValueError if there is none."""
    beside = Path(os.path.abspath(root)).parent
    tried = [root / LISTS, beside / LISTS, root] if lists is None else [Path(lists)]
    for folder in tried:
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        found = {
            m[1]: folder / m[0] for m in map(LIST.fullmatch, names) if m and m[2] == str(split)
        }
        if found:
            return found
    raise ValueError(
        f"finds no CLASS_test_split{split}.txt in {' or '.join(str(folder) for folder in tried)}; "
        "unpack test_train_splits.rar beside the videos, or name its folder as lists"
    )


def _read_clips(path: Path, folder: str, target: int, problems: Problems) -> list[_Clip]:
    """The sound lines of "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1"."""
    clips: dict[str, _Clip] = {}
    trained: dict[str, int] = {}  # film -> line
    for line, text in read_list(path, problems):
        match = CLIP_LINE.fullmatch(text)
        if not match:
            said = f"expected 'NAME.avi N', N being 1 to train, 2 to test or 0, got {text!r}"
            problems.add(path, said, line)
        elif known := clips.get(match[1]):
            problems.add(path, f"{match[1]} is in line {known.line} already; take one out", line)
        else:
            clip = _Clip(folder, match[1], target, SIDES.get(match[2], ""), path, line)
            clips[clip.name] = clip
            if clip.side == "train":
                trained.setdefault(clip.group, line)
    for clip in clips.values():
        if clip.side == "test" and (other := trained.pop(clip.group, None)):  # once a film
            said = f"the film {clip.group} is in train too (line {other}); take one side out"
            problems.add(path, said, clip.line)
    return list(clips.values())
