"""What binds a training, in words, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actionkit.bench.clock import Spent
from actionkit.bench.parts import READ, Share, Worker

WAIT, TRANSFER, COMPUTE, AROUND = "wait for the loader", "transfer", "compute", "around"
DEVICE = "device: "  # stands before the names of per_batch transforms
WAITING = 0.2  # share of a step from which on the loader binds
LARGE = 0.3  # share of a worker's time that is worth a word


@dataclass
class Measured:
    """A training's steps, and the work of one of its workers. Seconds of one step."""

    device: str  # cpu, cuda, ...
    name: str  # of the device
    precision: str
    batch: int  # clips a step
    workers: int
    cores: int
    step: Spent  # all of it
    parts: dict[str, Spent]  # of it
    worker: Worker

    def share(self, *names: str) -> float:
        """The share of the step's wall time that parts take."""
        spent = sum(self.parts[name].wall for name in names if name in self.parts)
        return spent / self.step.wall if self.step.wall else 0.0

    @property
    def transforms(self) -> list[str]:
        """The parts that are transforms on the device."""
        return [name for name in self.parts if name.startswith(DEVICE)]

    @property
    def on_cpu(self) -> bool:
        """Whether network and loader share the same cores."""
        return self.device == "cpu"

    @property
    def loading(self) -> float:
        """Where they do, the share of a step's processor time that goes into loading."""
        loader = self.batch * self.worker.cpu / 1e3
        network = sum(self.parts[n].cpu for n in (COMPUTE, *self.transforms) if n in self.parts)
        return loader / (loader + network) if loader + network else 0.0

    @property
    def enough(self) -> int:
        """So many workers would give a batch in the time that a step takes without waiting."""
        busy = self.step.wall - self.parts[WAIT].wall
        return math.ceil(self.batch * self.worker.wall / 1e3 / max(busy, 1e-9))

    @property
    def binds(self) -> str:
        """What a training must have less of to be faster: loader, transfer, transforms, compute or
        around.
        """
        if self.loading >= 0.5 if self.on_cpu else self.share(WAIT) >= WAITING:
            return "loader"
        rest = {
            "transfer": self.share(TRANSFER),
            "transforms": self.share(*self.transforms),
            "compute": self.share(COMPUTE),
            "around": self.share(AROUND),
        }
        return max(rest, key=lambda name: rest[name])

    def as_json(self) -> dict[str, Any]:
        """Plain containers; milliseconds."""
        return {
            "device": self.name,
            "precision": self.precision,
            "batch": self.batch,
            "workers": self.workers,
            "cores": self.cores,
            "step_ms": 1e3 * self.step.wall,
            "parts": [
                {"part": name, "ms": 1e3 * spent.wall, "share": self.share(name)}
                for name, spent in self.parts.items()
            ],
            "worker": self.worker.as_json(),
            "binds": self.binds,
            "verdict": list(advise(self)),
        }


def advise(m: Measured) -> Iterator[str]:
    """What binds, and then what to do, a sentence each."""
    yield from {
        "loader": _loader,
        "transfer": _transfer,
        "transforms": _transforms,
        "compute": _compute,
        "around": _around,
    }[m.binds](m)
    yield from _floats(m.worker)
    yield from _disk(m.worker)


def _loader(m: Measured) -> Iterator[str]:
    part = m.worker.shares[0]
    largest = f"{_called(part)} is {part.share:.0%} of a worker's time"
    if m.on_cpu:
        yield f"loading binds: {_shared(m)}; {largest}"
    else:
        yield f"the loader binds: each step waits {m.share(WAIT):.0%} of its time, and {largest}"
    yield from _workers(m)
    yield from _cures(m)


def _workers(m: Measured) -> Iterator[str]:
    """How many would do."""
    if m.share(WAIT) < WAITING or (m.workers and m.workers >= min(m.cores, m.enough)):
        if m.enough > m.cores and not m.on_cpu:
            yield f"{m.enough} workers would keep up, but there are {_cores(m)}"
        return
    useful, free = max(1, min(m.cores, m.enough)), m.cores - m.workers
    if not m.workers:
        yield f"set data.workers={useful} (now 0, so reading and computing take turns)"
        return
    yield (
        f"raise data.workers to {useful} (now {m.workers}, {free} core{_are(free)} free; "
        f"{m.enough} would keep up)"
    )


def _cures(m: Measured) -> Iterator[str]:
    """How a worker's largest parts become smaller."""
    for share in m.worker.shares:
        if share.share >= LARGE and (cure := _cure(m, share)):
            yield cure


def _cure(m: Measured, share: Share) -> str:
    if share.name == READ:
        return (
            "decoding: re-encode the videos with a short GOP (a keyframe every 12 frames makes "
            "sparse clips 2 to 4 times as fast to decode) and no larger than is needed, or take "
            "fewer frames a clip"
        )
    if "flow" in share.name:
        device = "" if m.on_cpu else ", or make it on the device, under per_batch (tvl1_flow)"
        return f"{share.name}: compute flow once and store it, or take a quicker preset{device}"
    if "crop" in share.name:
        return f"{share.name}: store the videos with a short side little above what is cut out"
    if share.name in ("collate", "rest", "sampler"):
        return ""
    return "" if m.on_cpu else f"{share.name}: if it can, let it run on the device (per_batch)"


def _transfer(m: Measured) -> Iterator[str]:
    yield (
        f"transfer binds: {m.share(TRANSFER):.0%} of a step is the way of "
        f"{m.batch * m.worker.bytes / 1e6:.0f} MB to the device; take fewer or smaller frames"
    )


def _transforms(m: Measured) -> Iterator[str]:
    largest = max(m.transforms, key=lambda name: m.parts[name].wall)
    yield (
        f"transforms on the device bind: {m.share(*m.transforms):.0%} of a step, most of it "
        f"{largest.removeprefix(DEVICE)} ({m.share(largest):.0%})"
    )
    free = m.cores - m.workers
    if free > 0 and not m.on_cpu:
        yield f"where it can, run it in the workers (per_sample): {free} of {_cores(m)} are free"
    else:
        yield "make it cheaper: fewer steps, smaller frames, fewer iterations"


def _compute(m: Measured) -> Iterator[str]:
    if m.on_cpu:
        yield f"the network binds: {_shared(m)}"
        yield "take a GPU, a smaller network, smaller or fewer frames"
        if m.workers or m.cores == 1:
            yield "more workers do not help: they take their cores from the network"
        else:
            yield "set data.workers=1: reading and computing take turns now"
        if m.loading >= LARGE:
            yield from _cures(m)
        return
    yield (
        f"the network binds, as it should: {m.share(COMPUTE):.0%} of a step is forward, backward "
        f"and optimizer, and it waits {m.share(WAIT):.0%} of its time"
    )
    if m.precision == "32":
        yield "trainer.precision=bf16-mixed (now 32) is faster on most GPUs"
    yield "a larger data.batch may use the device better, as far as its memory goes"
    if m.workers > 2 * m.enough:
        yield f"{m.enough} of the {m.workers} workers would keep up"


def _around(m: Measured) -> Iterator[str]:
    yield (
        f"what stands around the steps binds ({m.share(AROUND):.0%} of {1e3 * m.step.wall:.1f} ms: "
        "logging, schedule, progress): the steps are small; a larger data.batch has fewer of them"
    )


def _floats(worker: Worker) -> Iterator[str]:
    for name, kind in worker.types.items():
        if kind != "uint8":
            yield (
                f"{name} leaves the workers as {kind}, in more bytes than uint8: keep per_sample "
                "in uint8, and make floats under per_batch (normalize)"
            )


def _disk(worker: Worker) -> Iterator[str]:
    waited = worker.first.wall - worker.first.cpu
    if waited > worker.wall:
        yield (
            f"the disk: the first look at a file waits {waited:.0f} ms for it, longer than a clip "
            "takes otherwise; copy the data to a faster disk if it does not fit into memory"
        )


def _called(share: Share) -> str:
    return "decoding" if share.name == READ else share.name


def _shared(m: Measured) -> str:
    return (
        f"there is no GPU in use, so network and loader share {_cores(m)}; of a step's processor "
        f"time {1 - m.loading:.0%} is the network's and {m.loading:.0%} loading (each step waits "
        f"{m.share(WAIT):.0%} of its time)"
    )


def _are(count: int) -> str:
    return " is" if count == 1 else "s are"


def _cores(m: Measured) -> str:
    return f"{m.cores} core{'s' if m.cores > 1 else ''}"
