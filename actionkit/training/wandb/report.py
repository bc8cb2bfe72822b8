"""What W&B shows beside numbers: charts of every evaluation, clips, the data and the models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import torch
import wandb
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from actionkit.contracts import Sample
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.order import Ask
from actionkit.network import SCORES
from actionkit.training.wandb import artifacts
from actionkit.training.wandb.charts import charts, plain, worst
from actionkit.training.wandb.facts import AXIS, define, facts, nodes
from actionkit.training.wandb.media import film, write_film
from actionkit.training.wandb.session import Session

if TYPE_CHECKING:
    from actionkit.training.wandb.logger import WandB

COLUMNS: list[str | int] = ["clip", "video", "true", "predicted", "confidence", "loss"]
MODELS = ("best", "last")


class Report(lightning.Callback):
    """Starts the W&B run, and reports evaluations, the data set and the models to it."""

    def __init__(self, logger: WandB) -> None:
        self.logger = logger
        self.metrics: dict[str, dict[str, float]] = {}  # of the models, by name

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Starts the run with all that is known of it, once, on rank 0."""
        if trainer.global_rank > 0 or self.logger.session is not None:
            return
        record = dict(pl_module.system.recipe)
        recipe = record.get("recipe", {})
        datasets = getattr(getattr(trainer, "datamodule", None), "datasets", {})
        found = artifacts.fingerprint(datasets) if datasets else {}
        session = self.logger.begin({**record, **facts(pl_module.network, found)}, recipe)
        session.safely("the wanted summaries", define, pl_module)
        if found:
            used = nodes(recipe.get("data", {}).get("dataset"))
            session.safely("the data set", _use_data, used[0]["use"] if used else "data", found)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Histograms of the gradients, where they are asked for and due."""
        session, every = self.logger.session, self.logger.watch
        if session is not None and every and trainer.global_step % every == 0:
            session.safely("gradients", _log_gradients, pl_module.network, trainer.global_step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Charts; clips too where it is not one evaluation of many while training."""
        if trainer.sanity_checking or pl_module.results is None:
            return
        training = trainer.state.fn == "fit"
        main = pl_module.results.metrics.get(pl_module.main, {})
        self.metrics["last" if training else "best"] = dict(main)
        self._report(trainer, pl_module, "val", clips=0 if training else self.logger.clips)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Charts and clips."""
        self._report(trainer, pl_module, "test", clips=self.logger.clips)

    def _report(self, trainer: lightning.Trainer, task: Any, stage: str, *, clips: int) -> None:
        session = self.logger.session
        if session is None or session.run is None or task.results is None:
            return
        session.safely("charts", _log_charts, trainer, task, stage)
        if clips:
            session.safely("the worst mistakes", _log_mistakes, trainer, task, stage, clips)

    def models(self, folder: Path, run_id: str) -> None:
        """Logs the checkpoints best and last, where they are."""
        if (session := self.logger.session) is None:
            return
        for name in MODELS:
            file = folder / f"{name}.ckpt"
            if file.is_file():
                given = (session, file, name, run_id, self.metrics.get(name, {}))
                session.safely(f"the model {name}", _log_model, *given)


def _use_data(run: Any, name: str, found: Mapping[str, Any]) -> None:
    """Logs the data set as an input of the run, also offline, and without waiting for it."""
    artifact = artifacts.data_set(name, found)
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _log_gradients(run: Any, network: nn.Module, step: int) -> None:
    """As `run.watch` does, whose hooks would fail inside the backward pass."""
    found: dict[str, Any] = {
        name: parameter.grad.float().cpu().numpy()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    run.log({**{f"gradients/{n}": wandb.Histogram(g) for n, g in found.items()}, AXIS: step})


def _log_model(
    run: Any, session: Session, file: Path, name: str, run_id: str, metrics: Mapping[str, float]
) -> None:
    session.upload(artifacts.model(file, run_id, metrics), [name])


def _log_charts(run: Any, trainer: lightning.Trainer, task: Any, stage: str) -> None:
    """One row for an evaluation, with the charts of all its outputs."""
    row: dict[str, Any] = {}
    for name, place, names in _outputs(task, stage):
        found = charts(task.results.scores[name], task.results.targets[name], names)
        row.update({f"{place}/{key}": chart for key, chart in found})
    run.log({**row, AXIS: _step(trainer)})


def _log_mistakes(run: Any, trainer: lightning.Trainer, task: Any, stage: str, count: int) -> None:
    """A table of each output's worst mistakes, with the frames that the evaluation took."""
    results = task.results
    for name, place, names in _outputs(task, stage):
        found = worst(results.ids, results.scores[name], results.targets[name], names, count)
        samples = _samples(trainer, stage, [mistake.id for mistake in found])
        with tempfile.TemporaryDirectory() as folder:
            rows: list[list[Any]] = []
            for number, one in enumerate(found):
                video = _video(samples.get(one.id), task, Path(folder) / f"{number:02}.mp4")
                rows.append([*plain([one.id]), video, *one[1:]])
            if rows:  # copied by W&B before the folder goes
                table = wandb.Table(columns=COLUMNS, data=rows)
                run.log({f"{place}/mistakes": table, AXIS: _step(trainer)})


def _outputs(task: Any, stage: str) -> list[tuple[str, str, Sequence[str]]]:
    """Name, place in W&B and classes of what is reported: the whole network's output, else all."""
    classes, heads = task.system.classes, task.system.heads
    names = [SCORES] if SCORES in task.results.scores else list(task.results.scores)
    return [
        (
            name,
            stage if name == task.main else f"{stage}/{name}",
            classes[heads[name]] if isinstance(classes, Mapping) else classes,
        )
        for name in names
    ]


def _samples(trainer: lightning.Trainer, stage: str, ids: Sequence[str]) -> dict[str, Sample]:
    """What the evaluation's loader gave for some ids; read again, which gives the same."""
    loaders = getattr(trainer, f"{stage}_dataloaders")
    clips = getattr(loaders[0] if isinstance(loaders, list) else loaders, "dataset", None)
    if not isinstance(clips, Clips) or not ids:
        return {}
    places = {clips.dataset[index].id: index for index in range(len(clips))}
    return {name: clips[Ask(places[name], 0)] for name in ids if name in places}


@torch.no_grad()
def _video(sample: Sample | None, task: Any, file: Path) -> Any:
    """A sample's first view as a video of W&B, with the network's attention where it has one."""
    if sample is None or not sample.clips:
        return None
    output = task(move_data_to_device(collate([sample]), task.device))
    maps: list[Tensor] = [f.attention for f in output.values() if f.attention is not None]
    shown = film(sample.clips, maps[0][0, 0, :, 0] if maps else None)
    return None if shown is None else wandb.Video(str(write_film(file, shown)), format="mp4")


def _step(trainer: lightning.Trainer) -> int:
    """The place of an evaluation on the axis, as Lightning logs its numbers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped
