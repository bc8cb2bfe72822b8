"""A learning rate that falls when a metric no longer grows."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.trainer.states import TrainerFn
from timm.scheduler import StepLRScheduler
from torch.optim import Optimizer

from actionkit.training.watched import Watched


class Plateau(StepLRScheduler):
    """Constant behind its warm-up, times `decay_rate` whenever `judge` has heard of no gain in more
    than `patience` values running; never below the share `least` of itself.

    timm's own of that name saves no state, and Lightning moves torch's when the checkpoint of the
    epoch is written already.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        decay_rate: float,
        patience: int,
        least: float,
        warmup_t: float,
        warmup_lr_init: float,
    ) -> None:
        self.fall_rate, self.patience, self.least = decay_rate, patience, least
        self.factor, self.best, self.waited = 1.0, -math.inf, 0
        self.now = 0
        super().__init__(
            optimizer,
            decay_t=1,
            decay_rate=1.0,
            warmup_t=warmup_t,  # type: ignore[arg-type]
            warmup_lr_init=warmup_lr_init,
            t_in_epochs=False,
        )

    def _get_lr(self, t: int) -> list[float]:
        self.now = t
        return [rate * self.factor for rate in super()._get_lr(t)]

    def judge(self, value: float) -> None:
        """Takes in a value, of which more is better; NaN is no gain."""
        if value > self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.factor, self.waited = max(self.factor * self.fall_rate, self.least), 0
            self.step_update(self.now)


class Judge(lightning.Callback):
    """Tells a Plateau the metric of every validation, before checkpoints are written."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Lets the rate fall where it is time."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
            scheduler.judge(self.watched.gain(trainer))
