"""How fast a run goes, what it waits for, and its learning rate."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as lightning
import torch

from actionkit.contracts import Batch


class Meters(lightning.Callback):
    """Logs, every `log_every_n_steps`, what happened since the last time.

    `train/lr`, of the first group of parameters; `train/clips_per_second`, of all devices;
    `train/data_wait`, the share of time in which a step waited for its batch, from 0 to 1; and
    `train/unreadable`, how many clips this process could not read so far. Times are those of the
    host, which is not held up: nothing waits for the device. Evaluations do not count.
    """

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.rate = 0.0
        self.step = -1  # the last one logged
        self._clear()
        self.mark = time.perf_counter()

    def _clear(self) -> None:
        self.waited, self.worked, self.clips = 0.0, 0.0, 0

    def _lap(self) -> float:
        """Seconds since it was last called."""
        last, self.mark = self.mark, time.perf_counter()
        return self.mark - last

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """What came before was no training."""
        self._lap()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """What came before was no training."""
        self._lap()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        """A batch is there."""
        self.waited += self._lap()
        self.bad.update(bad.id for bad in batch.bad)
        self.rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """A step is done."""
        self.worked += self._lap()
        self.clips += len(batch.id) * trainer.world_size
        step = trainer.global_step
        if step == self.step or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = self.waited + self.worked
        values = {
            "lr": self.rate,
            "clips_per_second": self.clips / seconds,
            "data_wait": self.waited / seconds,
            "unreadable": len(self.bad),
        }
        for name, value in values.items():  # on the CPU: a copy to the device would wait for it
            pl_module.log(f"train/{name}", torch.tensor(float(value)), on_step=True, batch_size=1)
        self.step = step
        self._clear()
