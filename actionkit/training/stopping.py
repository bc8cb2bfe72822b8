"""A training that ends before its last epoch, since it learns no more."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import EarlyStopping

from actionkit.training.watched import Watched


class Stopping(EarlyStopping):
    """Lightning's early stopping, which decides before checkpoints are written.

    A run that goes on behind that decision stays ended, unless the patience is longer now.
    """

    def __init__(self, watched: Watched, *, patience: int, min_delta: float = 0.0) -> None:
        super().__init__(
            watched.name,
            mode=watched.mode,
            patience=patience,
            min_delta=min_delta,
            check_on_train_epoch_end=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting; the patience is that of the recipe."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Ends a run at once that was ended when its checkpoint was written."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
