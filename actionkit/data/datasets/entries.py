"""Lists of clips as users write them, in txt, csv or json, to entries with their lines."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from actionkit.data.datasets.folder import SUFFIXES
from actionkit.data.datasets.lists import Problems, read_lines, read_text

Report = Callable[[int, object], None]  # notes what is wrong with a line


class Entry(NamedTuple):
    """A clip of a list, as it is written there."""

    line: int
    path: str
    label: str = ""  # empty = none
    start: float | None = None  # seconds
    end: float | None = None
    id: str = ""
    group: str = ""


FIELDS = Entry._fields[1:]
BLANK = re.compile(r"[ \t\n]*")


def read_entries(path: Path, problems: Problems) -> list[Entry]:
    """The sound entries of a list; notes what is wrong with the others, and a list without any."""
    count = len(problems.found)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        problems.add(path, f"expected a file named {' or '.join(f'*{s}' for s in READERS)}")
        return []
    try:
        entries = list(reader(path, lambda line, text: problems.add(path, text, line)))
    except ValueError as error:
        problems.add(path, error)
        return []
    if not entries and len(problems.found) == count:
        problems.add(path, "expected clips, but the list is empty")
    return entries


# ------------------------------------------------------------------------------------- formats


def _read_txt(path: Path, report: Report) -> Iterator[Entry]:
    """Lines `path label`: the last word is the label unless it is alone or ends a video's name."""
    for number, line in read_lines(path):
        blank = max(line.rfind(" "), line.rfind("\t"))
        if blank < 0 or line.lower().endswith(SUFFIXES):
            yield Entry(number, line)
        else:
            yield Entry(number, line[:blank].rstrip(" \t"), line[blank + 1 :])


def _read_csv(path: Path, report: Report) -> Iterator[Entry]:
    """Rows `path,label`, or of the columns that the first row names."""
    rows = _rows(path, report)
    line, first = next(rows, (1, ["path"]))
    columns, fewest = [cell.lower() for cell in first], len(first)
    if not {"path", "label"} & set(columns):  # no header
        columns, fewest = ["path", "label"], 1
        rows = itertools.chain([(line, first)], rows)
    elif "path" not in columns or set(columns) - set(FIELDS) or len(set(columns)) < fewest:
        wanted = f"path, and each at most once {', '.join(FIELDS[1:])}"
        report(line, f"expected the columns {wanted}; got {', '.join(first)}")
        return
    for line, row in rows:
        if fewest <= len(row) <= len(columns):
            yield from _checked(line, dict(zip(columns, row, strict=False)), report)
        else:
            report(line, f"expected {','.join(columns)}, got {len(row)} cells: {','.join(row)}")


def _rows(path: Path, report: Report) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file that are not blank, with the line where each begins."""
    rows = csv.reader(io.StringIO(read_text(path)), strict=True)
    line = 1
    try:
        for row in rows:
            cells = [cell.strip(" \t") for cell in row]
            if any(cells):
                yield line, cells
            line = rows.line_num + 1
    except csv.Error as error:
        report(line, f"the row that begins here is no csv: {error}")


def _read_json(path: Path, report: Report) -> Iterator[Entry]:
    """A list of objects with the keys FIELDS."""
    try:
        for line, value in _values(read_text(path)):
            yield from _checked(line, value, report)
    except json.JSONDecodeError as error:
        report(error.lineno, f"no JSON: {error.msg}")


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """The values of a JSON list and their lines, which `json` alone does not tell."""
    decode = json.JSONDecoder().raw_decode
    place, line, counted = _skip(text, 0), 1, 0
    if text[place : place + 1] != "[":
        raise json.JSONDecodeError('expected a list of objects, [{"path": ...}]', text, place)
    place = _skip(text, place + 1)
    more = text[place : place + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, place), place
        value, place = decode(text, place)
        yield line, value
        place = _skip(text, place)
        more = text[place : place + 1] == ","
        place = _skip(text, place + 1) if more else place
    if text[place:].rstrip() != "]":
        raise json.JSONDecodeError("expected ',' or ']', and nothing behind", text, place)


def _skip(text: str, place: int) -> int:
    """The first place from here on that is not blank."""
    match = BLANK.match(text, place)
    return match.end() if match else place


READERS: dict[str, Callable[[Path, Report], Iterator[Entry]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".json": _read_json,
}

# ------------------------------------------------------------------------------------- values


def _checked(line: int, values: Any, report: Report) -> list[Entry]:
    """The entry of a row or object; none, with a report, where a value is wrong."""
    try:
        return [_entry(line, values)]
    except ValueError as error:
        report(line, error)
        return []


def _entry(line: int, values: Any) -> Entry:
    if not isinstance(values, dict):
        raise ValueError(f"expected an object with path and label, got {values!r}")
    if not values.keys() <= set(FIELDS):
        strange = ", ".join(sorted(values.keys() - set(FIELDS)))
        raise ValueError(f"expected the keys {', '.join(FIELDS)}; got {strange}")
    path, label, id_, group = (_text(values, name) for name in ("path", "label", "id", "group"))
    start, end = _seconds(values, "start"), _seconds(values, "end")
    if not path:
        raise ValueError("has no path")
    if end is not None and (start or 0.0) >= end:
        raise ValueError(f"expected start before end, got {start or 0.0:g} and {end:g}")
    return Entry(line, path, label, start, end, id_, group)


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if isinstance(value, bool | list | dict | float):
        raise ValueError(f"expected a text as {name}, got {value!r}")
    return str(value).strip(" \t")


def _seconds(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"expected seconds from 0 as {name}, got {value!r}")
    return seconds
