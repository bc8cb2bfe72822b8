"""A look at every file of a data set before any of them is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.progress import track

from actionkit.contracts import Dataset, Reader, Record, VideoReadError

THREADS = 8  # opening files waits for the disk more than for the processor


def preflight(datasets: Mapping[str, Dataset], reader: Reader, console: Console) -> Iterator[str]:
    """Opens every file, without decoding it; a line for each bad one and for each split.

    A split of the same clips as another one is looked at once.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for split, dataset in datasets.items():
        dataset.prepare()
        records = [dataset[i] for i in range(len(dataset))]
        clips = tuple((*r.sources.values(), r.start, r.end) for r in records)
        if clips in seen:
            yield f"{split}: the same clips as {seen[clips]}"
            continue
        seen[clips] = split
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda record: _probe(record, reader), records)
            errors = list(track(answers, f"{split}: opening files", len(records), console=console))
        bad = [error for error in errors if error]
        yield from bad
        yield f"{split}: {len(records) - len(bad)} of {len(records)} clips can be opened"


def _probe(record: Record, reader: Reader) -> str:
    """Why a record cannot be opened; empty if it can."""
    try:
        for path in record.sources.values():
            reader.probe(path)
    except VideoReadError as error:
        entry = f" [{record.origin}]" if record.origin not in ("", error.path) else ""
        return f"  unreadable: {error}{entry}"
    return ""
