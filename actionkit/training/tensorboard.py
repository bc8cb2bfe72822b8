"""The logger of TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

FOLDER = "tensorboard"  # in the run folder


class TensorBoard(TensorBoardLogger):
    """TensorBoard: the numbers of a run, in its folder; `tensorboard --logdir runs` shows all runs.

    A run that is continued goes on in the same curves, from the step at which it was saved.

    Raises ValueError where the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(folder, name="", version=FOLDER, default_hp_metric=False)
        except ModuleNotFoundError as error:
            raise ValueError(
                "needs the package tensorboard, which is not installed; "
                "pip install 'actionkit[tensorboard]', or leave it to csv"
            ) from error

    def rewind(self, step: int) -> None:
        """Takes out what was logged from a step on, at which the run goes on."""
        self._kwargs["purge_step"] = step

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: recipe.yaml is in the run folder already."""

    def save(self) -> None:
        """Nothing: numbers are written as they come."""
