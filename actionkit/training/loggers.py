"""Loggers: where the numbers of a run go."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from actionkit.files import write


class CSV(CSVLogger):
    """metrics.csv in the run folder: one line a logging step, one column a number."""

    def __init__(self, folder: Path, *, flush_every: int = 1) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_every)

    def rewind(self, step: int) -> None:
        """Takes out the lines from a step on, at which the run goes on."""
        file = Path(self.log_dir, ExperimentWriter.NAME_METRICS_FILE)
        if not file.is_file():
            return
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            names = list(reader.fieldnames or ())
            kept = [
                row for row in reader if (row["step"] or "").isdigit() and int(row["step"]) < step
            ]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(kept)
        self.experiment.metrics_keys = names  # which, made here, removes the file
        write(file, text.getvalue())
