"""The logger of Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from actionkit.files import write
from actionkit.training.wandb.facts import AXIS, digest, tags
from actionkit.training.wandb.report import Report
from actionkit.training.wandb.session import Session

ID = "wandb/run_id.txt"  # in the run folder
TAG = 64  # characters W&B takes at most


class WandB(Logger):
    """Weights & Biases: numbers, charts, the worst mistakes as clips, lineage of data and models.

    The key comes from `wandb login` or WANDB_API_KEY, never from a recipe. A run that is continued
    in its folder is continued on the dashboard. Where W&B cannot be reached, the run is recorded in
    the folder, and its end says how to upload it.

    `clips` mistakes become videos; `watch` is the number of steps between two histograms of all
    gradients, 0 = none; without `models` no checkpoint is uploaded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str = "actionkit",
        entity: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        group: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        clips: int = 16,
        watch: int = 0,
        models: bool = True,
    ) -> None:
        super().__init__()
        for option, value in (("clips", clips), ("watch", watch)):
            if value < 0:
                raise ValueError(f"takes {option} of 0 or more, but gets {value}; 0 means none")
        self.folder, self.project, self.entity = folder, project, entity
        self.display, self.tags, self.group, self.mode = name, list(tags or ()), group, mode
        self.clips, self.watch, self.models = clips, watch, models
        self.session: Session | None = None
        self.failed = False
        self.report = Report(self)
        self.callbacks: list[Callback] = [self.report]

    def begin(self, config: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Session:
        """Starts the W&B run, or continues the folder's; what it is called follows the recipe."""
        recipe = recipe or {}
        init = {
            "id": self._run_id(),
            "project": self.project,
            "entity": self.entity,
            "name": self.display or self.folder.resolve().name,
            "group": self.group or (digest(recipe) if recipe else None),
            "job_type": "train",
            "tags": [tag[:TAG] for tag in dict.fromkeys([*self.tags, *tags(recipe)])],
            "config": dict(config),
        }
        self.session = Session(self.folder, self.mode, init)
        return self.session

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's own run, once it has begun, on rank 0."""
        return (self.session and self.session.run) or _DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a row of numbers."""
        session = self.session or self.begin({})
        row = dict(metrics) if step is None else {**metrics, AXIS: step}
        session.safely("numbers", _log, row)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe is in the run's config already."""

    @property
    def name(self) -> str:
        """The project."""
        return self.project

    @property
    def version(self) -> str:
        """The run's id; empty before the run began for the first time."""
        file = self.folder / ID
        return file.read_text().strip() if file.is_file() else ""

    def _run_id(self) -> str:
        """The folder's id if it has one, else the one a sweep gave, else a new one; kept at once,
        so that a run that is killed can be continued.
        """
        if not self.version:
            (self.folder / ID).parent.mkdir(parents=True, exist_ok=True)
            write(self.folder / ID, f"{os.environ.get('WANDB_RUN_ID') or uuid.uuid4().hex[:8]}\n")
        return self.version

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    def finalize(self, status: str) -> None:
        """Notes a failure. Lightning calls it after every stage, and the run goes on."""
        self.failed = self.failed or status == "failed"

    def close(self) -> None:
        """Uploads the models of a run that did not fail, and ends it, in limited time."""
        if self.session is None:
            return
        if self.models and not self.failed:
            self.report.models(self.folder / "checkpoints", self.version)
        self.session.close(int(self.failed))
        self.session = None


def _log(run: Any, row: Mapping[str, float]) -> None:
    run.log(dict(row))
