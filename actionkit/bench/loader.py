"""How many clips the training's loader gives, by its number of workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from statistics import median
from typing import NamedTuple

from actionkit.bench.clock import Comparison, Run, Spent, now, rounds_of, rows_of
from actionkit.bench.parts import asks
from actionkit.contracts import Batch
from actionkit.data.clips import Clips
from actionkit.data.loader import Loader
from actionkit.data.module import DataModule, cpus
from actionkit.data.order import Ask, Order


class Pass(NamedTuple):
    """One loader from its start to its end."""

    first: float  # seconds until the first batch
    rate: float  # clips a second, once all workers are at work
    spent: Spent  # per clip; processor time of the workers included


def counts(cores: int | None = None) -> list[int]:
    """Numbers of workers to compare: none, one, and twice as many until all cores are used."""
    cores = cpus() if cores is None else cores
    doubled = [2**i for i in range(cores.bit_length()) if 2**i < cores]
    return [0, *doubled, cores]


def compare_workers(
    data: DataModule,
    rounds: int,
    batches: int,
    *,
    cores: int | None = None,
    tick: Run | None = None,
) -> Comparison:
    """A row for each number of workers. Ratios are of steady clips a second, which is wall time:
    workers are there to do more at once, not less.
    """
    passes: dict[int, list[Pass]] = {number: [] for number in counts(cores)}

    def run(number: int) -> Spent:
        done = one_pass(data, number, batches)
        passes[number].append(done)
        return Spent(1 / done.rate, 1 / done.rate)

    variants = {_name(n): partial(run, n) for n in passes}
    rows = rows_of(rounds_of(variants, rounds, tick))
    for row, found in zip(rows, passes.values(), strict=True):
        own = found[1:]  # the first was the warm-up
        row.cpu = 1e3 * median(p.spent.cpu for p in own)
        row.facts = {
            "clips/s": median(p.rate for p in own),
            "first batch s": median(p.first for p in own),
        }
    notes = [
        "times are those of a clip, CPU that of all processes together; the ratio is of clips/s",
        "files lie in memory behind the warm-up, so a slow disk does not show here",
    ]
    size = min(data.batch, len(data.datasets["train"]))
    return Comparison(f"training loader, batches of {size}", rows, notes=notes)


def one_pass(data: DataModule, workers: int, batches: int) -> Pass:
    """Starts a loader, takes all its batches, and ends it."""
    stage, dataset = data.train_stage, data.datasets["train"]
    clips = Clips(dataset, data.sources, stage.sampler, stage.per_sample, train=True)
    order = _Fixed(asks(Order(len(dataset), data.batch, seed=data.seed), batches + workers))
    arrived: list[tuple[float, int]] = []
    start, before = now(), _children()
    with closing(Loader(clips, order, workers)) as loader:  # type: ignore[arg-type]
        for batch in loader:
            arrived.append((time.perf_counter() - start.wall, _clips_in(batch)))
    spent, children = now().since(start), _children() - before
    # The first batches of all workers come together: counting starts behind them.
    skip = max(1, workers)
    seconds = arrived[-1][0] - arrived[skip - 1][0]
    total = sum(count for _, count in arrived)
    rate = sum(count for _, count in arrived[skip:]) / seconds if seconds else 0.0
    each = Spent((spent.cpu + children) / max(1, total), spent.wall / max(1, total))
    return Pass(arrived[0][0], max(rate, 1e-9), each)


class _Fixed:
    """The same batches every time."""

    def __init__(self, batches: list[list[Ask]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Ask]]:
        return iter(self._batches)


def _clips_in(batch: Batch) -> int:
    return len(batch.id)


def _children() -> float:
    """Processor seconds of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _name(workers: int) -> str:
    return "no worker" if not workers else f"{workers} worker{'s' if workers > 1 else ''}"
