"""When checkpoints are written: the best one, and the last one, from which a run goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from actionkit.training.finite import all_finite
from actionkit.training.signals import Signals


class Best(Checkpoint):
    """Writes a checkpoint at the end of every validation whose metric is higher than all before, or
    as high with a smaller loss.
    """

    def __init__(self, file: Path, monitor: str, loss: str = "val/loss") -> None:
        self.file, self.monitor, self.loss = file, monitor, loss
        self.score: tuple[float, float] | None = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Saves if it is the best so far; what cannot be measured counts less than anything."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        found = trainer.callback_metrics
        score = _known(found.get(self.monitor)), _known(-found.get(self.loss, math.nan))
        if (self.score is None or score > self.score) and finite(trainer, self.file):
            self.score = score
            trainer.save_checkpoint(self.file, weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """The metric and the negative loss to beat."""
        return {"score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from these."""
        self.score = state_dict["score"]


class Last(Checkpoint):
    """Writes a checkpoint from which the run goes on as if it had not been interrupted.

    That is every `every` steps of the optimizer, before the last batch of an epoch, since a
    validation may follow that takes long, at the end of an epoch, and when a signal has come, which
    then ends the run. Behind the last batch of an epoch nothing is saved until its validation is
    over: Lightning would count such an epoch wrongly when the run goes on a second time.

    Raises StoppedError when a signal has come.
    """

    def __init__(self, file: Path, signals: Signals, *, every: int) -> None:
        self.file, self.signals, self.every = file, signals, every
        self._saved_for_validation = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """From here on a signal leads to a checkpoint."""
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves between two steps of the optimizer, where it is time."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate() or loop.batch_progress.is_last_batch:
            return
        stop = self.signals.agreed(trainer)
        last_step = self._is_last_step_before_end(trainer, batch_idx + 1)
        if stop or last_step or trainer.global_step % self.every == 0:
            self._save(trainer)
            self._saved_for_validation = last_step
        if stop:
            raise self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Does not wait for the end of a validation; several ranks do, who differ in batches."""
        if self.signals.came and self._saved_for_validation and trainer.world_size == 1:
            raise self._stop(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Saves, and ends the run where that was asked for meanwhile."""
        self._saved_for_validation = False
        self._save(trainer)
        if self.signals.agreed(trainer):
            raise self._stop(trainer)

    def _is_last_step_before_end(self, trainer: lightning.Trainer, done: int) -> bool:
        """Whether the next step of the optimizer ends an epoch that is then validated."""
        batches, each = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        follows = trainer.fit_loop.epoch_loop._should_check_val_epoch()
        return follows and done == (batches - 1) // each * each

    def _save(self, trainer: lightning.Trainer) -> None:
        if finite(trainer, self.file):
            trainer.save_checkpoint(self.file, weights_only=False)

    def _stop(self, trainer: lightning.Trainer) -> Exception:
        epoch, step = trainer.current_epoch, trainer.global_step
        return self.signals.stop(trainer, f"{self.file} was written at step {step} (epoch {epoch})")


def _known(value: Any) -> float:
    """A number; minus infinity for what could not be measured."""
    number = math.nan if value is None else float(value)
    return -math.inf if math.isnan(number) else number


def finite(trainer: lightning.Trainer, file: Path) -> bool:
    """Whether every weight of all ranks is a number; says so if not, since a checkpoint is then
    not written. All ranks must ask: where each holds a share of the weights, they save together.
    """
    if trainer.strategy.reduce_boolean_decision(all_finite(trainer.lightning_module), all=True):
        return True
    kept = "the one before it is kept" if file.exists() else "there is none yet"
    trainer.print(f"{file} is not written: weights are NaN or infinite; {kept}")
    return False
