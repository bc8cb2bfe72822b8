"""Evaluating, and keeping, an average of the weights of all steps."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from actionkit.training.norms import batch_norms


class EMA(WeightAveraging):
    """Lightning's exponential moving average, once an optimizer step.

    Validation and the saved `state_dict` have the average, training goes on from the raw weights.
    Batch norms' statistics are averaged like the weights. All other buffers are copied: an average
    of counts, indices or infinite masks is none. What does not change (frozen parts) stays to the
    bit.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Makes the average where training will be: the module itself is still on the CPU."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes in the weights of a step."""
        average = self._average_model
        assert average is not None  # noqa: S101  it is there from setup to teardown
        statistics = _statistics(average)
        before = [s.clone() for s in statistics] if average.n_averaged else []
        seen = self._latest_update_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if before and self._latest_update_step > seen:  # they hold the raw ones now
            torch._foreach_lerp_(statistics, before, self.decay)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Goes on from both; behind the training only the average is wanted, which is there."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Forgets the average: Lightning would evaluate it in the place of whatever comes next."""
        self._average_model = None


def _statistics(module: torch.nn.Module) -> list[Tensor]:
    """Running means and variances."""
    norms = batch_norms(module)
    both = [s for norm in norms for s in (norm.running_mean, norm.running_var)]
    return [s for s in both if s is not None]
