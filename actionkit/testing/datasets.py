"""Checks of datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from actionkit.contracts import Dataset, Record, Target
from actionkit.testing.subject import Subject, open_files, require_pickles
from actionkit.testing.verdict import require

SPLITS = ("train", "val", "test")
A_FEW = 20


def records(subject: Subject) -> None:
    """Every record has an id of its own, files that exist, and targets among the classes."""
    for split in SPLITS:
        dataset = _dataset(subject, split)
        require(len(dataset) > 0, f"{split} has no record")
        all_records = [dataset[i] for i in range(len(dataset))]
        for i, record in enumerate(all_records):
            _require_record(record, dataset, f"{split}[{i}]")
        twice = [id_ for id_, n in Counter(r.id for r in all_records).items() if n > 1]
        require(not twice, f"in {split} {len(twice)} ids stand more than once, {twice[:1]} too")
    train, val = ({r.id for r in _all(subject, split)} for split in ("train", "val"))
    require(not train & val, f"train and val share {len(train & val)} ids")


def classes(subject: Subject) -> None:
    """Class names are distinct texts, in the same order in every split."""
    wanted = _dataset(subject, "train").classes
    for split in SPLITS:
        found = _dataset(subject, split).classes
        require(found == wanted, f"the classes of {split} are not those of train, in their order")
        for names in found.values() if isinstance(found, dict) else [found]:
            _require_names(names, split)


def picklable(subject: Subject) -> None:
    """A pickled copy, as a worker gets it, lists the same records."""
    dataset = _dataset(subject, "train")
    copy = require_pickles(dataset)
    require(len(copy) == len(dataset), f"a copy has {len(copy)} records, not {len(dataset)}")
    for i in range(min(A_FEW, len(dataset))):
        a, b = copy[i], dataset[i]
        require(
            (a.id, a.sources) == (b.id, b.sources), f"a copy's record {i} is {a.id}, not {b.id}"
        )


def no_handles(subject: Subject) -> None:
    """No file stays open after records are read."""
    _dataset(subject, "train")  # makes the files
    before = open_files()
    dataset = subject.make("train")
    for i in range(min(A_FEW, len(dataset))):
        dataset[i]
    left = open_files() - before
    require(not left, f"{len(left)} files stay open after records are read: {sorted(left)[:3]}")


def _dataset(subject: Subject, split: str) -> Dataset:
    """A split with its files made, the same one for all checks."""

    def make() -> Dataset:
        dataset = subject.make(split)
        dataset.prepare()
        return dataset

    return subject.once(split, make)


def _all(subject: Subject, split: str) -> list[Record]:
    dataset = _dataset(subject, split)
    return [dataset[i] for i in range(len(dataset))]


def _require_record(record: Record, dataset: Dataset, place: str) -> None:
    require(isinstance(record, Record), f"{place} is a {type(record).__name__}, no Record")
    require(isinstance(record.id, str) and record.id, f"{place} has the id {record.id!r}")
    require(
        set(record.sources) == set(dataset.modalities),
        f"{place} has the sources {list(record.sources)}, but modalities {dataset.modalities}",
    )
    for modality, path in record.sources.items():
        require(path.exists(), f"{place}: there is no file {path} ({modality})")
    start, end = record.start or 0.0, record.end if record.end is not None else np.inf
    require(0 <= start < end, f"{place} goes from {record.start} to {record.end} seconds")
    _require_target(record.target, dataset.classes, place)
    most = 0 if isinstance(dataset.classes, dict) else len(dataset.classes)
    for begin, stop, kind in record.events:
        require(begin <= stop, f"{place} has an event from {begin} to {stop} seconds")
        require(most == 0 or 0 <= kind < most, f"{place} has an event of class {kind}")
    for second, *box in record.boxes:
        x1, y1, x2, y2 = box
        inside = 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
        require(second >= 0 and inside, f"{place} has the box {box}, which is no part of a frame")


def _require_target(
    target: Target, names: Sequence[str] | dict[str, list[str]], place: str
) -> None:
    if isinstance(target, dict):
        require(isinstance(names, dict), f"{place} has targets by head, but classes have no heads")
        known = dict(names) if isinstance(names, dict) else {}
        for head, value in target.items():
            require(head in known, f"{place} has a target for {head!r}, which has no classes")
            _require_target(value, known[head], f"{place}, {head}")
        return
    count = len(names)
    if isinstance(target, np.ndarray):
        right = target.shape == (count,) and np.issubdtype(target.dtype, np.floating)
        require(right, f"{place} has a target {target.dtype} {target.shape} of {count} classes")
        return
    right = isinstance(target, (int, np.integer)) and -1 <= target < count
    require(right, f"{place} has the target {target!r} of {count} classes")


def _require_names(names: list[str], split: str) -> None:
    texts = all(isinstance(name, str) and name for name in names)
    require(len(names) > 0 and texts, f"the classes of {split} are {list(islice(names, 3))}")
    require(len(set(names)) == len(names), f"of {len(names)} classes {len(set(names))} differ")


CHECKS = (records, classes, picklable, no_handles)
