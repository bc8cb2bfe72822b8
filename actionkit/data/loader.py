"""The loader: batches from worker processes that outlive signals, but not their use."""

from __future__ import annotations

import atexit
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from actionkit.contracts import Sample
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.order import InTurn, Order

SIGNALS = tuple(
    number for name in ("SIGTERM", "SIGINT", "SIGUSR1") if (number := getattr(signal, name, None))
)


class Loader(DataLoader[Sample]):
    """Batches of clips, by workers that stay for all epochs."""

    def __init__(self, clips: Clips, batches: Order | InTurn, workers: int) -> None:
        super().__init__(
            clips,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
        )
        atexit.register(_close, weakref.ref(self))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Lightning makes the iterator of a resumed run before it sets the epoch; so it starts
        # when the first batch is wanted.
        with _signals_held(), _whole_or_none():
            batches = super().__iter__()
        yield from batches

    def close(self) -> None:
        """Ends the workers. They ignore SIGTERM, with which Python would end them at its exit,
        and then wait for them for ever.
        """
        iterator = getattr(self, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            _end(worker for worker in iterator._workers if worker.is_alive())
            self._iterator = None


def _close(reference: weakref.ref[Loader]) -> None:
    loader = reference()
    if loader is not None:
        loader.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait: here, and in processes started meanwhile until they let go themselves.

    To block them is not enough for this process: another thread, such as that of a progress bar,
    may take a signal, and it is the main thread that then answers it.
    """
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    # None = one that Python did not set, and could not set again
    handlers = {n: h for n in SIGNALS if main and (h := signal.getsignal(n)) is not None}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _whole_or_none() -> Iterator[None]:
    """Processes started by what then fails are ended: nobody else knows of them."""
    before = active_children()
    try:
        yield
    except BaseException:
        _end(child for child in active_children() if child not in before)
        raise


def _end(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


def start_worker(_: int) -> None:
    """One thread a worker; a signal to the process group is the main process's to answer."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
