"""How speed is measured here, written once: interleaved, with medians, and 15 % is no difference.

All variants run in every round, each round starting with another one, so that what else the machine
does hits all alike. Processor time of the process and its threads counts, since others on the
machine change it least; wall time stands beside it. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, NamedTuple

import cv2
import torch

EQUAL = 1.15  # a ratio nearer to 1 than this, either way, is none
LEAST = 0.05  # seconds that one measurement takes: what is quicker runs several times in it
MOST_CALLS = 200

Run = Callable[[], object]
Clock = Callable[[], "Spent"]


class Spent(NamedTuple):
    """Processor and wall time, in seconds."""

    cpu: float
    wall: float

    def since(self, start: Spent) -> Spent:
        """What has passed from `start` to this."""
        return Spent(self.cpu - start.cpu, self.wall - start.wall)


def now() -> Spent:
    """The clocks of this process, of all its threads together."""
    return Spent(time.process_time(), time.perf_counter())


@dataclass
class Row:
    """One variant. Times are milliseconds a call; None: it was not timed, `facts` says why."""

    name: str
    cpu: float | None = None
    wall: float | None = None
    ratio: float | None = None  # how many times as fast as the first variant
    spread: float | None = None  # of the rounds: distance of the quartiles as a share of the median
    facts: dict[str, Any] = field(default_factory=dict)  # further columns

    @property
    def equal(self) -> bool:
        """Whether it differs from the first variant by less than can be told."""
        return self.ratio is not None and is_equal(self.ratio)

    def as_json(self) -> dict[str, Any]:
        """Plain, numbers rounded to four digits."""
        timed = {"cpu_ms": self.cpu, "wall_ms": self.wall, "ratio": self.ratio}
        numbers = {name: _rounded(value) for name, value in timed.items()}
        facts = {name: _rounded(value) for name, value in self.facts.items()}
        spread = {"equal": self.equal, "spread": _rounded(self.spread)}
        return {"variant": self.name, **numbers, **spread, **facts}


@dataclass
class Comparison:
    """The variants of one task, the first of which all others are measured by."""

    title: str
    rows: list[Row]
    group: str = ""  # what several comparisons are about, as one video
    notes: list[str] = field(default_factory=list)  # what to know beside the numbers

    @property
    def verdict(self) -> str:
        """The ratios in a sentence, and whether the machine was quiet enough for it."""
        timed = [row for row in self.rows if row.ratio is not None]
        if not timed:
            return "Nothing could be timed."
        first, *others = timed
        text = f"Against {first.name}: {', '.join(map(_said, others))}"
        text = text if others else f"Only {first.name} could be timed"
        noise = max(row.spread or 0 for row in timed)
        if noise > EQUAL - 1:
            text += (
                f". The machine is busy, rounds differ by {noise:.0%}: repeat with more --rounds"
            )
        return f"{text}."

    def as_json(self) -> dict[str, Any]:
        """Plain containers."""
        rows = [row.as_json() for row in self.rows]
        about = {"group": self.group, "title": self.title}
        return {**about, "rows": rows, "verdict": self.verdict, "notes": self.notes}


def rounds_of(
    variants: Mapping[str, Callable[[], Spent]], rounds: int, tick: Run | None = None
) -> dict[str, list[Spent]]:
    """Measures every variant once a round, one warm-up round not counted; in each round another
    variant comes first. `tick` is called after every measurement.
    """
    names = list(variants)
    spent: dict[str, list[Spent]] = {name: [] for name in names}
    for number in range(rounds + 1):
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            measured = variants[name]()
            if number:
                spent[name].append(measured)
            if tick is not None:
                tick()
    return spent


def compare(
    variants: Mapping[str, Run],
    rounds: int,
    *,
    tick: Run | None = None,
    clock: Clock = now,
    least: float = LEAST,
) -> list[Row]:
    """Times functions against the first of them, a row each.

    `tick` is called `(rounds + 1) * len(variants)` times.
    """
    timed = {name: _Repeated(run, clock, least) for name, run in variants.items()}
    return rows_of(rounds_of(timed, rounds, tick))


def rows_of(spent: Mapping[str, list[Spent]]) -> list[Row]:
    """Medians over the rounds, and ratios to the first variant by processor time."""
    base = next(iter(spent.values()), [])
    rows = []
    for name, own in spent.items():
        cpu = median(s.cpu for s in own)
        ratio = median(a.cpu / b.cpu if b.cpu else math.inf for a, b in zip(base, own, strict=True))
        wall = median(s.wall for s in own)
        rows.append(Row(name, 1e3 * cpu, 1e3 * wall, ratio, _spread([s.cpu for s in own])))
    return rows


class _Repeated:
    """A function, called as often in one measurement as that needs to last `least` seconds."""

    def __init__(self, run: Run, clock: Clock, least: float) -> None:
        self._run, self._clock, self._least = run, clock, least
        self._calls = 0  # the first measurement, the warm-up's, finds it out

    def __call__(self) -> Spent:
        """The mean of the calls."""
        calls = self._calls or 1
        start = self._clock()
        for _ in range(calls):
            self._run()
        total = self._clock().since(start)
        if not self._calls:
            self._calls = min(MOST_CALLS, max(1, math.ceil(self._least / max(total.wall, 1e-9))))
        return Spent(total.cpu / calls, total.wall / calls)


def is_equal(ratio: float) -> bool:
    """Whether a ratio is too near to 1 to mean anything."""
    return 1 / EQUAL <= ratio <= EQUAL


def in_words(ratio: float) -> str:
    """A ratio as it is printed: `=` where it means nothing."""
    return "=" if is_equal(ratio) else f"x{ratio:.2f}"


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and OpenCV, as in a worker of the loader."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _said(row: Row) -> str:
    ratio = row.ratio or 1.0
    if is_equal(ratio):
        return f"{row.name} is as fast"
    if ratio > 1:
        return f"{row.name} is {ratio:.1f} times as fast"
    return f"{row.name} takes {1 / ratio:.1f} times as long"


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
