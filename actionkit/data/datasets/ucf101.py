"""UCF101 with its official lists (Soomro, Zamir, Shah 2012, arXiv:1212.0402)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from actionkit.data.datasets.lists import Problems
from actionkit.data.datasets.official import Clip, Official, read_list, require

INDEX = "classInd.txt"
LAYOUTS = ("{folder}/{name}", "{name}", "UCF-101/{folder}/{name}")  # below root
CLASS_LINE = re.compile(r"(\d+)\s+([\w-]+)")
CLIP_LINE = re.compile(r"([^/\s]+)/(v_[\w-]+_g\d+_c\d+\.\w+)(?:[ \t]+(\S+))?")


class UCF101(Official):
    """UCF101 by its official lists: 13,320 clips of 101 actions, three splits.

    `root` holds the videos as root/CLASS/v_CLASS_g01_c01.avi, the same below root/UCF-101, or all
    in root itself. `lists` is the folder of classInd.txt, trainlist01.txt, testlist01.txt and so on
    (UCF101TrainTestSplits-RecognitionTask.zip); by default root/ucfTrainTestlist,
    ucfTrainTestlist beside root, or root, the first that holds classInd.txt. `split` 1, 2 or 3 says
    which pair of lists is used; published figures are of split 1 or the mean of the three.

    UCF101 has no validation split: `val` and `test` are both the official test list, so a
    checkpoint chosen by its score on `val` flatters the score on `test`.

    Classes are those of classInd.txt, in its order. A list may be cut to the clips you have. All
    its lines are checked; which files exist is not, since `actionkit check` opens them all.
    `group` is the video a clip was cut from, as v_Archery_g08; the official lists keep each on one
    side, and lists that do not are refused.
    """

    classes: list[str]

    def __init__(
        self, subset: str, *, root: Path, split: Literal[1, 2, 3] = 1, lists: Path | None = None
    ) -> None:
        root = Path(root)
        side = require(subset, split, root)
        folder, problems = _lists_folder(root, lists), Problems()
        self.classes = _read_classes(folder / INDEX, problems)
        problems.require_none()  # without classes no line can be judged
        paths = {side: folder / f"{side}list0{split}.txt" for side in ("train", "test")}
        sides = {side: _read_clips(path, self.classes, problems) for side, path in paths.items()}
        _check_groups(sides, paths, problems)
        self.keep(root, LAYOUTS, sides[side], problems)


def _lists_folder(root: Path, lists: Path | None) -> Path:
    """The folder that holds the class index. Raises ValueError if there is none."""
    beside = Path(os.path.abspath(root)).parent
    tried = [root / "ucfTrainTestlist", beside / "ucfTrainTestlist", root]
    tried = tried if lists is None else [Path(lists)]
    for folder in tried:
        if (folder / INDEX).is_file():
            return folder
    raise ValueError(
        f"finds no {INDEX} in {' or '.join(str(folder) for folder in tried)}; unpack "
        "UCF101TrainTestSplits-RecognitionTask.zip beside the videos, or name its folder as lists"
    )


def _read_classes(path: Path, problems: Problems) -> list[str]:
    """The names of "1 ApplyEyeMakeup", which count from 1."""
    classes: list[str] = []
    for line, text in read_list(path, problems):
        match = CLASS_LINE.fullmatch(text)
        wanted = len(classes) + 1
        if not match or int(match[1]) != wanted:
            problems.add(path, f"expected '{wanted} NAME', got {text!r}", line)
        elif match[2] in classes:
            problems.add(path, f"the class {match[2]!r} is listed twice; take one out", line)
        classes.append(match[2] if match else "")
    return classes


def _read_clips(path: Path, classes: list[str], problems: Problems) -> list[Clip]:
    """The sound lines of "Archery/v_Archery_g08_c01.avi 3"; in a test list without the number."""
    numbers = {name: number for number, name in enumerate(classes, 1)}
    clips: dict[str, Clip] = {}
    for line, text in read_list(path, problems):
        match = CLIP_LINE.fullmatch(text)
        label = match[3] if match else None
        if not match or (label is None and path.name.startswith("train")):
            number = " NUMBER" if path.name.startswith("train") else ""
            text = f"expected 'CLASS/v_CLASS_g01_c01.avi{number}', got {text!r}"
        elif match[1] not in numbers:
            text = f"expected a class of {INDEX}, got {match[1]!r}"
        elif wrong := _wrong_label(label, numbers[match[1]], classes):
            text = wrong
        elif known := clips.get(match[2]):
            text = f"{match[2]} is in line {known.line} already; take one out"
        else:
            clips[match[2]] = Clip(
                match[1], match[2], numbers[match[1]] - 1, _group(match[2]), path, line
            )
            continue
        problems.add(path, text, line)
    return list(clips.values())


def _group(name: str) -> str:
    """v_Archery_g08 of v_Archery_g08_c01.avi."""
    return name.rpartition("_c")[0]


def _wrong_label(label: str | None, wanted: int, classes: list[str]) -> str:
    """What is wrong with the number behind a clip of class `wanted`; empty if nothing."""
    number = wanted if label is None else int(label) if label.isdecimal() else 0
    if number == wanted:
        return ""
    if not 1 <= number <= len(classes):
        return f"label {label} outside 1..{len(classes)} ({len(classes)} classes)"
    folder, name = classes[wanted - 1], classes[number - 1]
    return f"expected label {wanted}, since the folder is {folder}, got {number}, which is {name}"


def _check_groups(sides: dict[str, list[Clip]], paths: dict[str, Path], problems: Problems) -> None:
    """Refuses a source video with clips on both sides: it would be known before it is tested."""
    trained = {clip.group: clip.line for clip in sides["train"]}
    for clip in sides["test"]:
        if line := trained.pop(clip.group, None):  # once a group
            text = (
                f"the source video {clip.group} is in train too ({paths['train']}:{line}); "
                "take its clips out of one list"
            )
            problems.add(paths["test"], text, clip.line)
