"""The metric that decides on a training while it runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import lightning.pytorch as lightning


class Watched(NamedTuple):
    """A metric of the validation split, as it is logged."""

    name: str  # val/top1
    mode: str  # max, or min for the loss

    @classmethod
    def of(cls, metric: str) -> Watched:
        """By its name in the recipe, as top1, rgb/top1 or loss."""
        is_loss = metric.rpartition("/")[2] == "loss"
        return cls(f"val/{metric}", "min" if is_loss else "max")

    def gain(self, trainer: lightning.Trainer) -> float:
        """Its value in the last validation, turned so that more is better; NaN if there is none."""
        value = float(trainer.callback_metrics.get(self.name, math.nan))
        return -value if self.mode == "min" else value
