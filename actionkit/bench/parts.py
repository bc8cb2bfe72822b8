"""Where the time of one loader worker goes: every component of it, timed call by call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from actionkit.bench.clock import Clock, Run, Spent, now
from actionkit.contracts import Record, VideoReadError
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.module import DataModule
from actionkit.data.order import Ask, Order
from actionkit.grammar import Node

FIRST, READ, COLLATE, REST = "first look", "read", "collate", "rest"
NOTHING = Spent(0, 0)


class Watch:
    """Adds up what calls take, by name."""

    def __init__(self, clock: Clock = now) -> None:
        self._clock = clock
        self.spent: dict[str, Spent] = defaultdict(lambda: NOTHING)

    def call(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        """Calls the function, and adds its time to the name's."""
        start = self._clock()
        try:
            return function(*given)
        finally:
            self.add(name, self._clock().since(start))

    def add(self, name: str, spent: Spent) -> None:
        """Adds time to a name's."""
        old = self.spent[name]
        self.spent[name] = Spent(old.cpu + spent.cpu, old.wall + spent.wall)


class Timed:
    """A reader, sampler or transform whose calls are timed under one name."""

    def __init__(self, inner: Any, name: str, watch: Watch) -> None:
        self._inner, self._name, self._watch = inner, name, watch

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value
        return lambda *given: self._watch.call(self._name, value, *given)

    def __call__(self, *given: Any) -> Any:
        """What the component's own call gives."""
        return self._watch.call(self._name, self._inner, *given)


class Share(NamedTuple):
    """One part of a worker's time; milliseconds a clip."""

    name: str
    cpu: float
    wall: float
    share: float  # of the wall time of a clip; 0 of what happens only once


class Worker(NamedTuple):
    """One worker's time for a clip. Its first look at a file is not in it: it happens only once."""

    shares: list[Share]  # those of a clip, the largest first
    first: Share  # listing a file's frames, which reads it from the disk; 0 where it was done
    bytes: int  # of a clip, to the device
    types: dict[str, str]  # how the clips of each modality travel, as uint8

    @property
    def cpu(self) -> float:
        """Processor milliseconds of a clip."""
        return sum(share.cpu for share in self.shares)

    @property
    def wall(self) -> float:
        """Milliseconds of a clip."""
        return sum(share.wall for share in self.shares)

    def as_json(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "parts": [share._asdict() for share in self.shares],
            "first": self.first._asdict(),
            "cpu_ms": self.cpu,
            "wall_ms": self.wall,
            "bytes": self.bytes,
            "types": self.types,
        }


def asks(order: Order, batches: int) -> list[list[Ask]]:
    """So many batches in the training's order, over as many epochs as that takes."""
    found: list[list[Ask]] = []
    before = order.epoch
    for epoch in range(batches):
        if len(found) >= batches:
            break
        order.set_epoch(epoch)
        found += list(order)
    order.set_epoch(before)
    return found[:batches]


def names_of(nodes: Sequence[Node]) -> list[str]:
    """What transforms are called in a table: their names, numbered where one comes twice."""
    uses = [node.use for node in nodes]
    return [f"{use} {i}" if uses.count(use) > 1 else use for i, use in enumerate(uses)]


def worker(
    data: DataModule,
    names: Sequence[str],
    clips: int,
    rounds: int,
    *,
    tick: Run | None = None,
    clock: Clock = now,
) -> Worker:
    """Does the work of one training worker in this process, `rounds + 1` times for the same clips.

    `names` are those of the per_sample transforms. The first round is a warm-up, of which only the
    first look at the files counts; of the others the median of each part.
    """
    stage, dataset = data.train_stage, data.datasets["train"]
    order = Order(len(dataset), min(clips, len(dataset)), seed=data.seed)
    (chosen,) = asks(order, 1)
    first = Watch(clock)
    for ask in chosen:
        _look(first, data, dataset[ask.index])
    found: list[dict[str, Spent]] = []
    batch = None
    for number in range(rounds + 1):
        watch = Watch(clock)
        timed = Clips(
            dataset,
            data.sources.each(partial(Timed, name=READ, watch=watch)),
            Timed(stage.sampler, "sampler", watch),  # type: ignore[arg-type]
            [Timed(t, n, watch) for t, n in zip(stage.per_sample, names, strict=True)],  # type: ignore[misc]
            train=True,
        )
        start = clock()
        samples = [timed[ask] for ask in chosen]
        batch = watch.call(COLLATE, collate, samples)
        whole = clock().since(start)
        known = [Spent(*spent) for spent in watch.spent.values()]
        watch.add(REST, whole.since(Spent(sum(s.cpu for s in known), sum(s.wall for s in known))))
        if number:
            found.append(dict(watch.spent))
        if tick is not None:
            tick()
    assert batch is not None  # noqa: S101  there is a round at least
    size = sum(clip.x.nbytes for clip in batch.clips.values()) // max(1, len(batch.id))
    types = {name: str(clip.x.dtype).removeprefix("torch.") for name, clip in batch.clips.items()}
    return Worker(
        _shares(found, len(chosen)), _share(FIRST, first.spent[FIRST], len(chosen), 0), size, types
    )


def _look(watch: Watch, data: DataModule, record: Record) -> None:
    with suppress(VideoReadError):  # Clips takes another one in its place
        watch.call(FIRST, data.sources.timeline, record)


def _shares(rounds: list[dict[str, Spent]], clips: int) -> list[Share]:
    medians = {
        name: Spent(
            median(r.get(name, NOTHING).cpu for r in rounds),
            median(r.get(name, NOTHING).wall for r in rounds),
        )
        for name in rounds[0]
    }
    total = sum(spent.wall for spent in medians.values()) or 1
    shares = [_share(name, s, clips, s.wall / total) for name, s in medians.items()]
    return sorted(shares, key=lambda share: -share.share)


def _share(name: str, spent: Spent, clips: int, share: float) -> Share:
    return Share(name, 1e3 * spent.cpu / clips, 1e3 * spent.wall / clips, share)
