"""A look at every file of a data set before any of them is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from actionkit.contracts import Bad, Dataset, Record, VideoReadError
from actionkit.data.sources import Sources

THREADS = 8  # opening files waits for the disk more than for the processor


class Look(NamedTuple):
    """What opening every file of a split has shown."""

    split: str
    clips: int
    bad: list[Bad]
    same_as: str = ""  # the split of the same clips that was looked at in the place of this one

    def __str__(self) -> str:
        if self.same_as:
            return f"{self.split}: the same clips as {self.same_as}"
        return f"{self.split}: {self.clips - len(self.bad)} of {self.clips} clips can be opened"


def preflight(
    datasets: Mapping[str, Dataset], sources: Sources, console: Console
) -> Iterator[Look]:
    """Opens every file and decodes its first frame. A split of the same clips as another one is
    looked at once.
    """
    seen: dict[tuple[Any, ...], Look] = {}
    for split, dataset in datasets.items():
        dataset.prepare()
        records = [dataset[i] for i in range(len(dataset))]
        clips = tuple((*r.sources.values(), r.start, r.end) for r in records)
        if clips in seen:
            yield seen[clips]._replace(split=split, same_as=seen[clips].split)
            continue
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda record: _probe(record, sources), records)
            errors = list(
                track(
                    answers,
                    f"{split}: opening files",
                    len(records),
                    console=console,
                    transient=True,
                )
            )
        seen[clips] = Look(split, len(records), [bad for bad in errors if bad])
        yield seen[clips]


def _probe(record: Record, sources: Sources) -> Bad | None:
    """Why a record cannot be opened; None if it can."""
    try:
        sources.timeline(record)
    except VideoReadError as error:
        return Bad(record.id, error.path, record.origin, error.reader, error.reason)
    return None
