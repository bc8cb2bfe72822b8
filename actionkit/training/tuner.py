"""What a recipe's learning rate and batch could be, found by a few real steps of its training."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from numpy.typing import NDArray
from rich.console import Console

from actionkit import grammar
from actionkit.data.module import DataModule
from actionkit.errors import RunError
from actionkit.training.averaging import EMA
from actionkit.training.bad_clips import BadClips
from actionkit.training.fitting import Fitter
from actionkit.training.memory import NoMemoryError
from actionkit.training.optimizer import scaled

MakeTrainer = Callable[..., lightning.Trainer]  # actionkit.run.make_trainer, of a recipe
WIDTH = 20  # the loss is smoothed over a tenth of the test: a 20th to either side
DIVERGED = 3.0  # times the first loss, above the lowest
STEPS = 3  # to a batch; the first, in which memory is taken, is not timed
START = 8  # clips; larger numbers are multiples of it
NO_LIMIT = ("cpu",)  # kinds of devices whose memory is the machine's
ONE_DEVICE: dict[str, Any] = {
    "progress": False,
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "limit_train_batches": None,
    "limit_val_batches": 0,
}


# ---------------------------------------------------------------------------- the learning rate


@dataclass
class RangeTest:
    """What a learning rate range test has found: a loss for each rate."""

    wanted: int  # steps
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    end: str = "all steps were done"

    @property
    def smooth(self) -> NDArray[np.float64]:
        """The losses as means over their neighbours on both sides, so that no fall comes late."""
        if not self.losses:
            return np.zeros(0)
        weights = np.bartlett(2 * max(1, self.wanted // WIDTH) + 3)[1:-1]
        half = len(weights) // 2
        inside = slice(half, half + len(self.losses))
        of_ones = np.convolve(np.ones(len(self.losses)), weights)[inside]
        return np.convolve(self.losses, weights)[inside] / of_ones

    @property
    def steepest(self) -> int | None:
        """Where the loss falls fastest before its lowest point; None where it never falls."""
        smooth = self.smooth
        lowest = int(smooth.argmin()) if self.losses else 0
        return int(np.gradient(smooth[: lowest + 1]).argmin()) if lowest else None

    @property
    def suggestion(self) -> float | None:
        """The rate to train with, where the loss falls fastest."""
        at = self.steepest
        return None if at is None else self.rates[at]

    def diverges(self) -> bool:
        """Whether the loss has risen so far that higher rates tell nothing more."""
        smooth = self.smooth
        return bool(smooth[-1] - smooth.min() > DIVERGED * abs(smooth[0]))


def range_test(
    task: Any,
    data: DataModule,
    plan: grammar.Plan,
    make_trainer: MakeTrainer,
    *,
    steps: int,
    first: float,
    last: float,
    tick: Callable[[], object] = lambda: None,
) -> RangeTest:
    """Trains `steps` steps while the rate rises from `first` to `last`, always by one factor.

    The learning rate range test (arXiv:1506.01186). It ends early, and well, where the loss
    diverges. One device is used, for the whole batch; the parts of a network keep their factors on
    the rate. The task is worth nothing afterwards. Raises RunError for a recipe without gradients.
    """
    _require_gradients(task, "rate")
    found = RangeTest(steps)
    per_epoch = max(1, len(data.train_dataloader()) // plan.trainer.accumulate_grad_batches)
    clips = {split: len(dataset) for split, dataset in data.datasets.items()}
    with tempfile.TemporaryDirectory() as folder, closing(data):
        bad = BadClips(Path(folder) / "bad_clips.jsonl", clips, max_bad=float("inf"))
        trainer = make_trainer(
            [Fitter(Console(quiet=True), bad, []), bad, _Rise(found, first, last, tick)],
            **ONE_DEVICE,
            max_epochs=-(-steps // per_epoch),
            max_steps=steps,
            default_root_dir=folder,
        )
        trainer.fit(task, datamodule=data)
    return found


class _Rise(lightning.Callback):
    """Sets the rate of every step, after the schedule has, and notes the loss."""

    def __init__(
        self, found: RangeTest, first: float, last: float, tick: Callable[[], object]
    ) -> None:
        self.found, self.first, self.last, self.tick = found, first, last, tick
        self._parts: list[float] = []  # of a step, with accumulate_grad_batches

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Each group of parameters by its own factor on the rate."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self._rate() * group.get("lr_scale", 1.0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind the last part of a step, of which Lightning gives a share of the loss."""
        found = self.found
        self._parts.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == len(found.losses):
            return
        loss = float(np.mean(self._parts))
        self._parts.clear()
        self.tick()
        if not np.isfinite(loss):
            found.end = f"the loss is NaN or infinite at {self._rate():.2g}"
            trainer.should_stop = True
            return
        found.rates.append(self._rate())
        found.losses.append(loss)
        if found.diverges():
            found.end = f"the loss has diverged at {found.rates[-1]:.2g}"
            trainer.should_stop = True

    def _rate(self) -> float:
        share = len(self.found.losses) / max(1, self.found.wanted - 1)
        return self.first * (self.last / self.first) ** share


def as_written(rate: float, settings: grammar.Optimizer, batch: int) -> float:
    """The `optimizer.lr` with which a batch of so many clips is trained at this rate."""
    return rate / scaled(replace(settings, lr=1.0), batch).lr


# ------------------------------------------------------------------------------------ the batch


@dataclass(frozen=True)
class Trial:
    """A few steps with a batch, on one device."""

    batch: int
    fits: bool
    speed: float = 0.0  # clips a second, their reading left out
    peak: int = 0  # bytes of the device, 0 where they are not known


def largest_batch(
    task: Any,
    data: DataModule,
    plan: grammar.Plan,
    make_trainer: MakeTrainer,
    *,
    most: int,
    say: Callable[[int], object] = lambda batch: None,
) -> list[Trial]:
    """Trains some steps with one batch after the other; the largest that fits one device is sought.

    Batches are real ones, of at most `most` clips, and of no more than there are to train on. With
    `accumulate_grad_batches` it is the part of a batch that has to fit. `say` is told every batch
    before it is tried. The task is worth nothing afterwards. Raises RunError for a recipe without
    gradients and for a CPU, NoMemoryError where nothing fits.
    """
    _require_gradients(task, "step")
    _require_limit(make_trainer)
    fits = {part: task.network.get_submodule(part).fits for part in task.unfitted}
    task.unfitted = [part for part, when in fits.items() if when == "after"]
    parts = plan.trainer.accumulate_grad_batches
    trials: list[Trial] = []

    def fit(clips: int) -> bool:
        say(clips * parts)
        trials.append(_try(task, data, plan, make_trainer, clips * parts))
        garbage_collection_cuda()  # only now nobody holds the trainer, and what it holds
        return trials[-1].fits

    if not largest(fit, min(most // parts, len(data.datasets["train"]))):
        raise NoMemoryError(
            f"the memory of the device does not hold even a batch of {trials[-1].batch}; "
            "trainer.precision=bf16-mixed, grad_checkpointing: true at the backbone, and fewer or "
            "smaller frames need less"
        )
    return trials


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, 0 if there is none.

    From 8 it is doubled while it fits, then sought between the last two among multiples of 8; where
    8 do not fit it is halved.
    """
    size = min(START, max(1, most))
    while size and not fits(size):
        size //= 2
    if size < START:
        return size
    most -= most % START
    too_many = most + START
    while size < most and too_many > most:
        bigger = min(2 * size, most)
        if fits(bigger):
            size = bigger
        else:
            too_many = bigger
    while too_many - size > START:
        middle = (size + too_many) // 2 // START * START
        if fits(middle):
            size = middle
        else:
            too_many = middle
    return size


def _try(
    task: Any, data: DataModule, plan: grammar.Plan, make_trainer: MakeTrainer, batch: int
) -> Trial:
    """Trains with this batch; the task holds nothing of it afterwards."""
    clock = _Clock()
    trained = [] if plan.trainer.ema is None else [EMA(plan.trainer.ema)]
    trainer = make_trainer([*trained, clock], **ONE_DEVICE, max_epochs=STEPS, max_steps=STEPS)
    data.batch, data.trainer = batch, trainer
    loader = data.statistics_dataloader(STEPS, epoch=0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*have no `val_dataloader`")  # so it is meant
            trainer.fit(task, train_dataloaders=loader)
    except (RuntimeError, ValueError) as error:
        if not _is_limit(error):
            raise
        return Trial(batch, fits=False)
    finally:
        loader.close()
        task.zero_grad(set_to_none=True)
        task.trainer = data.trainer = None
    return Trial(batch, fits=True, speed=clock.speed, peak=clock.peak)


def _is_limit(error: Exception) -> bool:
    """Whether a batch has no room, or is a single clip where a batch norm takes none."""
    if isinstance(error, torch.OutOfMemoryError) or is_oom_error(error):
        return True
    return "more than 1 value per channel" in str(error)


class _Clock(lightning.Callback):
    """Time and memory of the steps behind the first."""

    def __init__(self) -> None:
        self.clips, self.seconds, self.peak = 0, 0.0, 0
        self._began: float | None = None

    @property
    def speed(self) -> float:
        """Clips a second."""
        return self.clips / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """What came before does not count."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind all that the device was told before."""
        self._began = _now(trainer) if trainer.global_step else None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """When the device has done its work."""
        ended = _now(trainer)
        if self._began is not None:
            self.clips += len(batch.id)
            self.seconds += ended - self._began
        if trainer.strategy.root_device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated()


def _now(trainer: lightning.Trainer) -> float:
    if trainer.strategy.root_device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def _require_limit(make_trainer: MakeTrainer) -> None:
    callbacks: Sequence[lightning.Callback] = ()
    if make_trainer(callbacks, **ONE_DEVICE).strategy.root_device.type in NO_LIMIT:
        raise RunError(
            "there is no limit to find on a CPU, whose memory is that of the machine; search on "
            "the device that you train on, or choose data.batch yourself"
        )


def _require_gradients(task: Any, what: str) -> None:
    if not task.trains:
        raise RunError(f"the recipe trains nothing by gradients, so it has no {what} to tune")
