"""What the labels of a user's lists mean."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from actionkit.data.datasets.lists import Problems, printable, read_lines

NUMBER = re.compile(r"[+-]?\d{1,9}")
NUMBERED = re.compile(r"(\d{1,9})[ \t]+(\S.*)")


class Labels:
    """Names of classes, or their numbers from `first` on."""

    def __init__(self, classes: Sequence[str], first: int | None = None) -> None:
        self.classes, self._first = [printable(name) for name in classes], first
        keys = classes if first is None else map(str, range(first, first + len(classes)))
        self._targets = {key: target for target, key in enumerate(keys)}

    def target(self, label: str) -> int:
        """The class of a label, -1 where there is none. Raises ValueError for what is none."""
        if label in self._targets or not label:
            return self._targets.get(label, -1)
        number, count = bool(NUMBER.fullmatch(label)), len(self.classes)
        if number and self._first is not None and (key := str(int(label))) in self._targets:
            return self._targets[key]  # as 007
        if number != (self._first is not None):
            kind = "a number" if number else "no number"
            raise ValueError(
                f"label {label!r} is {kind}, unlike the first of train; write one kind"
            )
        if self._first is None:
            raise ValueError(f"label {label!r} is none of the {count} classes")
        last = self._first + count - 1
        raise ValueError(f"label {label} outside {self._first}..{last} ({count} classes)")


def learn_labels(labels: Sequence[str], path: Path, problems: Problems) -> Labels:
    """Of the train list alone, of the kind of its first label.

    Raises ValueError, with all problems so far, for numbers that leave one out: it would be a class
    without clips, and numbers that count from 1 would be taken for others.
    """
    if not NUMBER.fullmatch(labels[0]):
        return Labels(sorted(label for label in set(labels) if not NUMBER.fullmatch(label)))
    numbers = {int(label) for label in set(labels) if NUMBER.fullmatch(label)}
    most = max(numbers)
    missing = next((n for n in range(most + 1) if n not in numbers), None)
    if missing is not None:
        text = f"no clip has label {missing}, though labels go up to {most}; count from 0"
        problems.add(path, f"{text}, or name all classes in 'classes'")
        problems.require_none()
    return Labels([str(number) for number in range(most + 1)], 0)


def name_labels(classes: Path | list[str], labels: Sequence[str], problems: Problems) -> Labels:
    """Of given classes: the labels are their names if the first is one, or is no number.

    Raises ValueError, with all problems so far, where there are no classes.
    """
    first, names = (0, classes) if isinstance(classes, list) else _read_names(classes, problems)
    place = "classes" if isinstance(classes, list) else classes
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        problems.add(place, f"{twice[0]!r} is named more than once; take out all but one")
    if not names or "" in names:
        problems.add(place, f"expected names of classes, got {names}")
        problems.require_none()
    numbers = NUMBER.fullmatch(labels[0]) and labels[0] not in names
    return Labels(names, first if numbers else None)


def _read_names(path: Path, problems: Problems) -> tuple[int, list[str]]:
    """The names of a file, a line each, and the number of the first: 0 if none is written."""
    try:
        lines = read_lines(path)
    except ValueError as error:
        problems.add(path, error)
        return 0, []
    numbered = [match for _, text in lines if (match := NUMBERED.fullmatch(text))]
    if len(numbered) < len(lines):
        return 0, [text for _, text in lines]
    first = 1 if numbered and int(numbered[0][1]) == 1 else 0
    for wanted, (line, _), match in zip(itertools.count(first), lines, numbered, strict=False):
        if int(match[1]) != wanted:
            problems.add(path, f"expected number {wanted}, got {match[1]}", line)
            break
    return first, [match[2] for match in numbered]
