"""A user's own lists of clips."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from actionkit.contracts import Dataset, Record
from actionkit.data.datasets.entries import Entry, read_entries
from actionkit.data.datasets.labels import Labels, learn_labels, name_labels
from actionkit.data.datasets.lists import Inside, Problems, printable


class Listing(Dataset):
    """Your own lists of clips, in txt, csv or json, one for train, one for val, maybe one for test.

    What a list holds, by the ending of its name:

    - txt: a line a clip, `some/path/video.mp4 12` or `video.mp4 jump`. The label is the last word,
      so the path may hold spaces.
    - csv: `path,label` in every row, or a first row that names the columns: path, label, start,
      end, id, group, in any order; all but path may be left out.
    - json: a list of objects with those keys: [{"path": "a.mp4", "label": "jump", "start": 2.5}].

    `path` is relative to `root`, or absolute and in it. `start` and `end` are seconds: the clip is
    that part of the file. `id` names a clip in predictions (by default its path, with #t=start,end)
    and must differ in a list. `group` names what clips were cut from, if no group may be on two
    sides. The lists, and a file of `classes`, are looked for as written, then in `root`. Without
    `test`, test is val.

    Labels are names of classes or numbers. Names: the classes are those of the train list, sorted.
    Numbers: they count from 0 without a gap, and name themselves. `classes` gives the names in
    order, in the recipe or as a text file of a name a line, or of a number and a name a line; then
    labels count as that file does, from 0 or 1. Clips of val and test may have no label: they are
    predicted, but not measured.

    All lines of all lists are checked, and all that is wrong comes at once. Which files exist is
    not checked here: `actionkit check` opens them all. A clip that is in train and also in val or
    test is refused, and so are parts of one file that overlap.
    """

    classes: list[str]

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        train: Path,
        val: Path,
        test: Path | None = None,
        classes: Path | list[str] | None = None,
    ) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"has the splits train, val and test, but was asked for {split!r}")
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"finds no folder {root}; check root")
        written = {"train": train, "val": val} | ({"test": test} if test is not None else {})
        paths = {side: _find(path, root) for side, path in written.items()}
        problems, inside = Problems(), Inside(root)
        entries = {side: read_entries(path, problems) for side, path in paths.items()}
        found = _require_labels(paths["train"], entries["train"], problems)
        if classes is None:
            labels = learn_labels(found, paths["train"], problems)
        else:
            given = classes if isinstance(classes, list) else _find(classes, root)
            labels = name_labels(given, found, problems)
        clips = {
            side: _read_clips(path, entries[side], labels, inside, problems)
            for side, path in paths.items()
        }
        for side in [*paths][1:]:
            _refuse_leaks(side, paths, clips, problems)
        problems.require_none()
        side = split if split in paths else "val"
        self.root, self.classes = root.resolve(), labels.classes
        self._list, self._clips = paths[side], clips[side]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Record:
        clip = self._clips[index]
        return Record(
            id=printable(clip.id),
            sources={"rgb": self.root / clip.path},
            target=clip.target,
            start=clip.start,
            end=clip.end,
            group=printable(clip.group),
            origin=printable(f"{self._list}:{clip.line}"),
        )


class _Clip(NamedTuple):
    path: str  # relative to root
    target: int
    start: float | None
    end: float | None
    id: str
    group: str
    line: int

    @property
    def part(self) -> tuple[str, float, float]:
        """Which part of which file it is."""
        return self.path, self.start or 0.0, math.inf if self.end is None else self.end


def _find(path: Path, root: Path) -> Path:
    """A file as written, or in root. Raises ValueError where it is neither."""
    for place in (Path(path), root / path):
        if place.is_file():
            return place
    raise ValueError(f"finds no file {path}, neither as written nor in {root}; correct its path")


def _require_labels(path: Path, entries: Sequence[Entry], problems: Problems) -> list[str]:
    """The labels of the train list; notes lines without.

    Raises ValueError, with all problems so far, if none has one.
    """
    labels = [entry.label for entry in entries if entry.label]
    if entries and not labels:
        problems.add(path, "expected a label for every clip to train on, but none has one")
    if not labels:
        problems.require_none()  # nothing more can be judged
    for entry in entries:
        if not entry.label:
            problems.add(path, "expected a label, which every clip to train on needs", entry.line)
    return labels


def _read_clips(
    path: Path, entries: Sequence[Entry], labels: Labels, inside: Inside, problems: Problems
) -> list[_Clip]:
    """The sound entries, with their places, ids and targets; notes what is wrong with others."""
    clips: dict[tuple[str, float, float], _Clip] = {}
    ids: dict[str, _Clip] = {}
    for entry in entries:
        try:
            clip = _clip(entry, labels, inside)
            if twin := clips.get(clip.part) or ids.get(clip.id):
                raise ValueError(f"the same clip, or id, is in line {twin.line}; take one out")
        except ValueError as error:
            clue = f"{entry.path!r}: " if path.suffix.lower() == ".json" else ""  # all in one line?
            problems.add(path, f"{clue}{error}", entry.line)
        else:
            clips[clip.part] = ids[clip.id] = clip
    return list(clips.values())


def _clip(entry: Entry, labels: Labels, inside: Inside) -> _Clip:
    target, place = labels.target(entry.label), inside.locate(entry.path)
    seconds = ""
    if entry.start is not None or entry.end is not None:
        end = "" if entry.end is None else f"{entry.end:.10g}"
        seconds = f"#t={entry.start or 0:.10g},{end}"
    return _Clip(
        place, target, entry.start, entry.end, entry.id or place + seconds, entry.group, entry.line
    )


def _refuse_leaks(
    side: str, paths: Mapping[str, Path], clips: Mapping[str, list[_Clip]], problems: Problems
) -> None:
    """Refuses what would be known before it is measured: parts of files, ids, groups of train."""
    files, ids, groups = defaultdict(list), {}, {}
    for clip in clips["train"]:
        files[clip.path].append(clip)
        ids[clip.id] = clip
        groups[clip.group] = clip
    groups.pop("", None)
    for clip in clips[side]:
        _, start, end = clip.part
        overlapping = (c for c in files.get(clip.path, ()) if c.part[1] < end and start < c.part[2])
        if known := next(overlapping, None) or ids.get(clip.id):
            what = f"the same clip in train and {side}: {clip.id}"
        elif known := groups.pop(clip.group, None):  # once a group
            what = f"clips of the same group in train and {side}: {clip.group}"
        else:
            continue
        text = f"{what} ({paths['train']}:{known.line}); take it out of one"
        problems.add(paths[side], text, clip.line)
