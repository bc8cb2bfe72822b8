"""Reads a W&B run that was recorded on the disk: no server, only the client's protobuf schema."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768  # bytes; the file has LevelDB's framing
FULL, FIRST, LAST = 1, 2, 4
SUMMARIES = ("min", "max", "mean", "best", "last", "none", "first")


@dataclass
class Recorded:
    """What a run's files hold."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # -> axis, summaries
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def folders(run: Path) -> list[Path]:
    """W&B's folders in a run folder, the oldest first."""
    files = (run / "wandb").glob("*run-*/run-*.wandb")
    return [file.parent for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def read(folder: Path) -> Recorded:
    """All records of one of W&B's folders."""
    found = Recorded()
    for record in records(next(folder.glob("run-*.wandb"))):
        kind = record.WhichOneof("record_type")
        value: Any = getattr(record, kind) if kind else None
        if kind == "run":
            found.run = value
            _merge(found.config, _items(value.config.update))
        elif kind == "config":
            _merge(found.config, _items(value.update))
        elif kind == "history":
            found.history.append(_items(value.item))
        elif kind == "summary":
            _merge(found.summary, _items(value.update))
        elif kind == "metric":
            wanted = [name for name in SUMMARIES if getattr(value.summary, name, False)]
            found.metrics[value.name or value.glob_name] = (value.step_metric, wanted)
        elif kind == "artifact":
            found.artifacts.append(value)
        elif kind == "exit":
            found.exit_code = value.exit_code
    return found


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file."""
    from wandb.proto import wandb_internal_pb2 as schema

    data, position, part = file.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        if not kind and not length:
            return
        chunk = data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        part = chunk if kind in (FULL, FIRST) else part + chunk
        if kind in (FULL, LAST):
            record = schema.Record()  # type: ignore[attr-defined]
            record.ParseFromString(part)
            yield record


def _items(items: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        at, keys = found, list(item.nested_key) or [item.key]
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = json.loads(item.value_json)
    return found


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
