"""A recipe run from end to end: fit and test, in a run folder."""

from __future__ import annotations

import logging
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from actionkit import builder
from actionkit.builder import Blueprint
from actionkit.data.module import DataModule
from actionkit.errors import RunError
from actionkit.evaluation import report
from actionkit.tasks.recognition import Recognition
from actionkit.training.bad_clips import BadClips
from actionkit.training.run_folder import RunFolder, rank, write

QUIET = (
    ".*does not have many workers.*",
    ".*The number of training batches.*smaller than the logging interval.*",
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*It is recommended to use .self.log.*sync_dist.*",  # all ranks hold the same metrics
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*Found .* module.* in eval mode at the start of training.*",  # frozen ones are meant to be
)
LOG_EVERY = 10  # steps


def fit(found: Blueprint, console: Console, folder: Path | None = None) -> Path:
    """Trains, evaluates the best checkpoint on the validation split, and tells the result.

    Returns the run folder. Raises RecipeError, RunError.
    """
    console.quiet = rank() > 0
    task, data = builder.build(found)
    record = task.system.recipe
    run = RunFolder.choose(record, folder)
    best, last = checkpoints(run.checkpoints, found.plan.evaluation.metrics[0].use)
    steps = len(data.train_dataloader())
    trainer = _trainer(found, run, [best, last, BadClips()], log_every=min(LOG_EVERY, steps))
    run.begin(record)
    console.print(_heading(found, task, data, run), highlight=False, soft_wrap=True)
    for line in found.loaded:
        console.print(f"weights  {line}", highlight=False, soft_wrap=True)
    with closing(data):
        trainer.fit(task, datamodule=data, weights_only=True)
        trainer.validate(
            task, datamodule=data, ckpt_path=best.best_model_path, verbose=False, weights_only=True
        )
    _tell(found, task, run, console, "fit", "val", Path(best.best_model_path))
    return run.path


def test(found: Blueprint, console: Console, folder: Path, checkpoint: Path, split: str) -> None:
    """Evaluates a checkpoint on a split, and tells the result. Raises RecipeError, RunError."""
    _verify(checkpoint)
    task, data = builder.build(found)
    run = RunFolder(folder)
    trainer = _trainer(found, run, [BadClips()])
    data.prepare_data()
    data.trainer = trainer
    loader = data.eval_dataloader(split)
    with closing(data):
        trainer.test(task, loader, ckpt_path=checkpoint, verbose=False, weights_only=True)
    _tell(found, task, run, console, "test", split, checkpoint)


def checkpoints(folder: Path, metric: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Writers of `best.ckpt`, by a metric of the validation split, and of `last.ckpt`.

    Lightning's own `save_last` only writes where the best changes.
    """
    best = ModelCheckpoint(
        folder, "best", monitor=f"val/{metric}", mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return best, last


def _verify(checkpoint: Path) -> None:
    """Raises RunError for a file that is no checkpoint, or holds more than plain data."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"{checkpoint} cannot be loaded with weights_only=True: {reason}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise RunError(f"{checkpoint} is no checkpoint of a run: it holds no state_dict")


def _trainer(
    found: Blueprint, run: RunFolder, callbacks: list[Any], *, log_every: int | None = None
) -> lightning.Trainer:
    """Lightning's trainer; it logs every so many steps, or not at all. Raises RunError."""
    for pattern in QUIET:
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    loggers = builder.build_loggers(found, run.path) if log_every else False
    settings = vars(found.plan.trainer)
    every = min(settings["check_val_every_n_epoch"], settings["max_epochs"])  # once at least
    try:
        return lightning.Trainer(
            **{**settings, "check_val_every_n_epoch": every},
            default_root_dir=run.path,
            callbacks=[*callbacks, RichProgressBar(leave=False)],
            logger=loggers,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our own order is sharded by rank
            log_every_n_steps=log_every,
        )
    except (MisconfigurationException, ValueError) as error:  # no such device, for one
        raise RunError(f"trainer: {error}") from error


def _heading(found: Blueprint, task: Recognition, data: DataModule, run: RunFolder) -> str:
    classes = next(iter(data.datasets.values())).classes
    parameters = sum(p.numel() for p in task.network.parameters())
    trained = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    frozen = f", {trained / 1e6:.2f} M of them trained" if trained < parameters else ""
    return (
        f"[bold]{found.tree.values.get('name') or found.tree.name}[/]\n"
        f"data     {len(data.datasets['train'])} clips to train, {len(data.datasets['val'])} to "
        f"validate, {len(classes)} classes, {data.workers} workers\n"
        f"network  {parameters / 1e6:.2f} M parameters{frozen}\n"
        f"run      {run.path}"
    )


def _tell(
    found: Blueprint,
    task: Recognition,
    run: RunFolder,
    console: Console,
    command: str,
    split: str,
    checkpoint: Path,
) -> None:
    """Table, results.json and predictions of an evaluation; rank 0 only."""
    results = task.results
    if results is None or task.global_rank != 0:
        return
    classes = found.datasets[split].classes
    csv = report.predictions(results, classes, task.system.heads)
    write(run.path / f"predictions-{split}.csv", csv)
    run.add_results(
        command,
        report.as_json(
            results,
            split=split,
            protocol=str(task.protocol),
            checkpoint=_relative(checkpoint, run.path),
            versions=task.system.recipe["versions"],
        ),
    )
    console.print(report.table(results, f"{split}: {report.coverage(results)}"))
    console.print(f"[dim]{checkpoint.stem}.ckpt; scores: {task.protocol}[/]", highlight=False)
    console.print(f"[dim]{run.path / 'results.json'}[/]", highlight=False, soft_wrap=True)


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
