"""Loggers: where the numbers of a run go."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger


class CSV(CSVLogger):
    """metrics.csv in the run folder: one line a logging step, one column a number."""

    def __init__(self, folder: Path, *, flush_every: int = 100) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_every)
