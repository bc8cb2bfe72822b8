"""Work on many files by several processes, the results in the files' own order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Mapped

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Jobs(Mapped[Any], Generic[Item, Result]):
    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.work, self.items = work, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Result:
        return self.work(self.items[index])


def in_turn(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, spawn: bool = False
) -> Generator[Result, None, None]:
    """`work(item)` of every item, in their order, done by so many processes (0: by this one).

    `work` must pickle, as must its results, which should be small. What it raises is raised here.
    Processes are spawned where they will use a GPU. Closed early, it ends them at once, in the
    midst of their work.
    """
    loader = DataLoader(
        _Jobs(work, items),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_start,
        collate_fn=_as_it_is,
        multiprocessing_context="spawn" if spawn and workers else None,
    )
    results: Any = iter(loader)
    try:
        yield from results
    finally:
        for worker in getattr(results, "_workers", ()):
            worker.terminate()
        # what the loader sets at its end: a process may have ended while it held the lock of theirs
        results._workers_done_event = threading.Event()


def _start(_: int) -> None:
    """One thread a worker; Ctrl+C is the main process's to answer, SIGTERM ends a worker."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(result: Any) -> Any:
    return result
