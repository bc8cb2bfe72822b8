"""HMDB51 with its official lists (Kuehne et al. 2011)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from actionkit.data.datasets.lists import Problems
from actionkit.data.datasets.official import Clip, Official, read_list, require

LISTS = "testTrainMulti_7030_splits"
LAYOUTS = ("{folder}/{name}", "{name}", "hmdb51_org/{folder}/{name}")  # below root
LIST = re.compile(r"(\w+)_test_split([123])\.txt")
CLIP_LINE = re.compile(r"(\S+\.\w+)[ \t]+([012])")
SIDES = {"1": "train", "2": "test"}  # 0: in neither


class HMDB51(Official):
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
        root = Path(root)
        side = require(subset, split, root)
        files, problems = _lists(root, lists, split), Problems()
        self.classes = sorted(files)
        clips = [
            clip
            for target, name in enumerate(self.classes)
            for clip in _read_clips(files[name], name, target, problems)[side]
        ]
        self.keep(root, LAYOUTS, clips, problems)


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


def _read_clips(path: Path, folder: str, target: int, problems: Problems) -> dict[str, list[Clip]]:
    """By side, the sound lines of "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1"."""
    lines: dict[str, int] = {}  # of names
    sides: dict[str, list[Clip]] = {"train": [], "test": [], "": []}
    for line, text in read_list(path, problems):
        match = CLIP_LINE.fullmatch(text)
        if not match:
            said = f"expected 'NAME.avi N', N being 1 to train, 2 to test or 0, got {text!r}"
            problems.add(path, said, line)
        elif known := lines.get(match[1]):
            problems.add(path, f"{match[1]} is in line {known} already; take one out", line)
        else:
            lines[match[1]] = line
            clip = Clip(folder, match[1], target, _film(match[1], folder), path, line)
            sides[SIDES.get(match[2], "")].append(clip)
    trained = {clip.group: clip.line for clip in reversed(sides["train"])}  # the first of each
    for clip in sides["test"]:
        if other := trained.pop(clip.group, None):  # once a film
            said = f"the film {clip.group} is in train too (line {other}); take one side out"
            problems.add(path, said, clip.line)
    return sides


def _film(name: str, folder: str) -> str:
    """FILM of FILM_brush_hair_u_nm_np1_ba_goo_0.avi."""
    return name.rpartition(f"_{folder}_")[0] or name
