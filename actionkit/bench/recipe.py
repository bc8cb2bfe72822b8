"""Where the time of a recipe's training steps goes: real steps, by Lightning, on its own data."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler

from actionkit import builder, run
from actionkit.bench.advice import AROUND, COMPUTE, DEVICE, TRANSFER, WAIT, Measured
from actionkit.bench.clock import Run, Spent, now, one_thread
from actionkit.bench.parts import NOTHING, Timed, Watch, names_of, worker
from actionkit.builder import Blueprint
from actionkit.data.module import DataModule, cpus
from actionkit.errors import RunError
from actionkit.tasks.recognition import Recognition

STEP, TRAIN = "step", "train"
WARM_UP = 2  # steps, and one for each worker, whose first batches come together
CLIPS = 8  # of which a worker's time is measured
ACTIONS = {"train_dataloader_next": WAIT, "batch_to_device": TRANSFER, "run_training_batch": TRAIN}


def measure(
    found: Blueprint,
    rounds: int,
    steps: int,
    *,
    tick: Run = lambda: None,
    expect: Callable[[int], object] = lambda total: None,
) -> Measured:
    """Does a worker's work by itself, then trains some steps with every part timed.

    One device is used, for the whole batch. On an accelerator the host waits for it at the end of
    every part, which makes a step a little longer than it is in a training. `tick` is called after
    every round of the worker and every step, `expect` before, with how often that will be. Raises
    RecipeError, RunError.
    """
    task, data = builder.build(found)
    data.prepare_data()
    expect(rounds + 1 + _wanted(data, steps))
    names = names_of(found.plan.data.train.per_sample)
    with one_thread():
        alone = worker(data, names, CLIPS, rounds, tick=tick)
    watched = _train(found, task, data, steps, tick)
    device = watched.device
    mean = {name: _mean([s.get(name, NOTHING) for s in watched.steps]) for name in watched.names}
    inside = [name for name in mean if name.startswith(DEVICE)]
    parts = {
        WAIT: mean[WAIT],
        TRANSFER: mean[TRANSFER],
        **{name: mean[name] for name in inside},
        COMPUTE: _less(mean[TRAIN], *(mean[name] for name in inside)),
        AROUND: _less(mean[STEP], mean[WAIT], mean[TRANSFER], mean[TRAIN]),
    }
    return Measured(
        device=device.type,
        name=_name(device),
        precision=found.plan.trainer.precision,
        batch=watched.batch,
        workers=data.workers,
        cores=cpus(),
        step=mean[STEP],
        parts=parts,
        worker=alone,
    )


class Steps(Profiler):
    """Times the parts of every training step, as Lightning names them."""

    def __init__(self, clock: Callable[[], Spent] = now) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.batch = 0
        self.steps: list[dict[str, Spent]] = []
        self._now = clock
        self.watch = Watch(self.clock)
        self._open: dict[str, Spent] = {}
        self._began: Spent | None = None

    def clock(self) -> Spent:
        """The time at which the device has done all that it was told."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return self._now()

    @property
    def names(self) -> list[str]:
        """All parts that any step has."""
        return list(dict.fromkeys(name for step in self.steps for name in step))

    def start(self, action_name: str) -> None:
        """A part begins; with the wait for its batch a step does, and the one before ends."""
        name = ACTIONS.get(action_name.rpartition(".")[2])
        if name is None:
            return
        at = self.clock()
        if name == WAIT:
            if self._began is not None:
                self.steps.append({**self.watch.spent, STEP: at.since(self._began)})
            self.watch.spent.clear()
            self._began = at
        self._open[name] = at

    def stop(self, action_name: str) -> None:
        """A part ends."""
        name = ACTIONS.get(action_name.rpartition(".")[2])
        if name in self._open:
            self.watch.add(name, self.clock().since(self._open.pop(name)))


class _Ticks(Callback):
    """Moves the progress bar, and notes how many clips a step has."""

    def __init__(self, watched: Steps, tick: Run) -> None:
        self._watched, self._tick = watched, tick

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Before a step."""
        self._watched.batch = max(self._watched.batch, len(batch.id))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind a step."""
        self._tick()


def _train(found: Blueprint, task: Recognition, data: DataModule, steps: int, tick: Run) -> Steps:
    """Trains; the steps of the warm-up are left out. What is fitted before stays as it starts."""
    if not task.trains:
        raise RunError("the recipe trains nothing by gradients, so it has no step to measure")
    fits = {part: task.network.get_submodule(part).fits for part in task.unfitted}
    task.unfitted = [part for part, when in fits.items() if when == "after"]
    watched = Steps()
    wanted = _wanted(data, steps)
    accumulate = found.plan.trainer.accumulate_grad_batches
    epochs = -(-wanted // max(1, len(data.train_dataloader())))
    trainer = run.make_trainer(
        found,
        [_Ticks(watched, tick)],
        progress=False,
        profiler=watched,
        devices=1,
        num_nodes=1,
        strategy="auto",
        max_epochs=max(epochs, found.plan.trainer.max_epochs),
        max_steps=-(-wanted // accumulate),
        limit_val_batches=0,
        limit_train_batches=None,
        log_every_n_steps=run.LOG_EVERY,
    )
    watched.device = trainer.strategy.root_device
    names = names_of(found.plan.data.train.per_batch)
    task.system.train_transforms = [
        Timed(transform, DEVICE + name, watched.watch)  # type: ignore[misc]  # does as it does
        for transform, name in zip(task.system.train_transforms, names, strict=True)
    ]
    with closing(data):
        trainer.fit(task, datamodule=data)
    watched.steps = watched.steps[WARM_UP + data.workers :]
    if not watched.steps:
        raise RunError("the training ended before its steps could be measured; raise --steps")
    return watched


def _wanted(data: DataModule, steps: int) -> int:
    """Steps to train: those of the warm-up, those to measure, and a last, which has no end."""
    return WARM_UP + data.workers + steps + 1


def _mean(found: list[Spent]) -> Spent:
    """Not the median: waits come in waves, as many batches at a time as there are workers."""
    return Spent(sum(s.cpu for s in found) / len(found), sum(s.wall for s in found) / len(found))


def _less(whole: Spent, *parts: Spent) -> Spent:
    cpu, wall = sum(p.cpu for p in parts), sum(p.wall for p in parts)
    return Spent(max(0.0, whole.cpu - cpu), max(0.0, whole.wall - wall))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "CPU" if device.type == "cpu" else f"{device.type} ({platform.processor()})"
