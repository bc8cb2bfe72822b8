"""A run whose loss is no number any more is ended, with the clips of the batch where that began."""

from __future__ import annotations

from collections import deque
from typing import Any, NoReturn

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn

from actionkit.contracts import Batch
from actionkit.errors import RunError

IN_A_ROW = 3  # losses, before a run is ended


class FiniteLoss(lightning.Callback):
    """Ends a run after `IN_A_ROW` losses in a row that are NaN or infinite.

    A loss is looked at when as many later ones have been computed, so no step waits for a device.
    Raises RunError.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[Tensor, list[str], int, float]] = deque()
        self._bad: list[tuple[list[str], int, float]] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Notes a loss, and looks at an older one."""
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        loss = outputs["loss"].detach()
        self._recent.append((torch.isfinite(loss), batch.id, trainer.global_step, rate))
        if len(self._recent) >= IN_A_ROW:
            self._look()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Ends the run before weights are measured that are no numbers."""
        while self._recent:
            self._look()
        if self._bad and not all_finite(pl_module):
            self._end()

    def _look(self) -> None:
        is_finite, *where = self._recent.popleft()
        self._bad = [] if bool(is_finite) else [*self._bad, tuple(where)]  # type: ignore[list-item]
        if len(self._bad) >= IN_A_ROW:
            self._end()

    def _end(self) -> NoReturn:
        ids, step, rate = self._bad[0]
        raise RunError(
            f"the loss is NaN or infinite since step {step} (learning rate {rate:.3g}), "
            f"{len(self._bad)} times in a row. The batch of that step: {', '.join(ids)}. The "
            "checkpoints from before are kept. Lower optimizer.lr, add a warm-up, set "
            "trainer.gradient_clip_val, or look at those clips"
        )


def all_finite(module: nn.Module) -> bool:
    """Whether every trained weight is a number."""
    weights = [p for p in module.parameters() if p.requires_grad]
    return not weights or bool(torch.stack([p.isfinite().all() for p in weights]).all())
