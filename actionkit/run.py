"""A recipe run from end to end: fit, validate and test, in a run folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from actionkit import builder
from actionkit.builder import Blueprint
from actionkit.contracts import Classes
from actionkit.data.module import DataModule
from actionkit.data.preflight import preflight
from actionkit.errors import RunError
from actionkit.evaluation import report
from actionkit.files import write
from actionkit.tasks.recognition import Recognition
from actionkit.training import engine
from actionkit.training.bad_clips import BadClips
from actionkit.training.checkpoints import NAMES, AtomicCheckpointIO, read
from actionkit.training.compiling import compile_backbones
from actionkit.training.finite import FiniteLoss
from actionkit.training.fitting import Fitter
from actionkit.training.memory import explained
from actionkit.training.meters import Meters
from actionkit.training.optimizer import told_rate
from actionkit.training.ranks import join, of_rank_zero
from actionkit.training.resume import Renewed, begin, clips_of
from actionkit.training.run_folder import RunFolder, rank
from actionkit.training.saves import Best, Last
from actionkit.training.signals import Signals

QUIET = (
    ".*does not have many workers.*",
    ".*The number of training batches.*smaller than the logging interval.*",
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*It is recommended to use .self.log.*sync_dist.*",  # all ranks hold the same metrics
    ".*your dataloader is not resumable.*",  # ours is, by asking how far the epoch is
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*Found .* module.* in eval mode at the start of training.*",  # frozen ones are meant to be
)
LOG_EVERY = 10  # steps
STATE = 8  # bytes of a checkpoint for each parameter, with one moment of the optimizer


def fit(
    found: Blueprint,
    console: Console,
    folder: Path | None = None,
    *,
    look: bool = True,
    new: bool = False,
    resume: Path | None = None,
    changes: Sequence[str] = (),
) -> Path:
    """Trains, evaluates the best checkpoint on the validation split, and tells the result.

    An unfinished run of the same recipe goes on, unless a `new` one is asked for; `resume` is a run
    folder, or a checkpoint in one, to go on with, `changes` are keys of the recipe that may have
    changed since. With `look` every file is opened first. Returns the run folder. Raises
    RecipeError, RunError.
    """
    console.quiet = rank() > 0
    join()
    record = builder.record(found.tree)
    start = of_rank_zero(lambda: begin(record, folder, new=new, resume=resume))
    run = start.run
    run.prepare()
    changed = start.require_same(record["recipe"], found.datasets["train"], changes)
    bad = _bad_clips(found, run)
    if look and rank() == 0:
        _look(found, console, bad)
    task, data = builder.build(found)
    task.system.clips = clips_of(found.datasets["train"])
    if found.plan.trainer.compile:
        compile_backbones(task.network)
    metric = task.monitor(found.plan.evaluation.metrics[0].use)
    best, last = (run.checkpoints / f"{name}.ckpt" for name in NAMES)
    saves = [
        Best(best, f"val/{metric}"),
        Last(last, Signals(), every=found.plan.trainer.save_every),
    ]
    loggers = builder.build_loggers(found, run.path)
    brought = [callback for logger in loggers for callback in getattr(logger, "callbacks", ())]
    trainer = make_trainer(
        found,
        [
            Fitter(console, bad, [best, last]),
            *engine.callbacks(found.plan, metric),
            *([Meters()] if loggers else []),
            *brought,
            FiniteLoss(),
            bad,
            *([Renewed()] if changed else []),
            *saves,
        ],
        logger=loggers,
        log_every_n_steps=min(LOG_EVERY, len(data.train_dataloader())),
        default_root_dir=run.path,
    )
    run.require_space(STATE * sum(p.numel() for p in task.network.parameters()))
    run.begin(record)
    console.print(_heading(found, task, data, run), highlight=False, soft_wrap=True)
    for line in [*start.told(changed), *(f"weights  {line}" for line in found.loaded)]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for logger in loggers:
        if start.file is not None and hasattr(logger, "rewind"):
            logger.rewind(start.step)
    shapes = found.stages.shapes if found.stages else {}
    with ExitStack() as ends, run.held(), closing(data):
        for logger in loggers:
            ends.callback(getattr(logger, "close", lambda: None))
        if task.trains:
            clips = max(1, data.batch // trainer.world_size // trainer.accumulate_grad_batches)
            with explained(found.plan, shapes, clips):
                trainer.fit(task, datamodule=data, ckpt_path=start.file, weights_only=True)
        trained = best if task.trains else None
        trainer.validate(task, datamodule=data, ckpt_path=trained, verbose=False, weights_only=True)
    _tell(found, task, run, console, "fit", "val", best)
    return run.path


def evaluate(
    found: Blueprint, console: Console, folder: Path, checkpoint: Path, command: str, split: str
) -> None:
    """Evaluates a checkpoint on a split, and tells the result. Raises RecipeError, RunError."""
    run = RunFolder(folder)
    content = read(checkpoint)
    task, data = builder.build(found)
    restore(task, content, checkpoint)
    if found.plan.trainer.compile:
        compile_backbones(task.network)
    trainer = make_trainer(found, [_bad_clips(found, run, tested=split)], default_root_dir=run.path)
    data.prepare_data()
    data.trainer = trainer
    with closing(data):
        trainer.test(task, data.eval_dataloader(split), verbose=False)
    _tell(found, task, run, console, command, split, checkpoint)


def restore(task: Recognition, content: dict[str, Any], file: Path) -> None:
    """Puts a checkpoint's weights into a task. Raises RunError where they do not fit."""
    classes = content.get("classes", task.system.classes)
    if classes != task.system.classes:
        raise RunError(
            f"{file} was trained on {_count(classes)}, but the data set has "
            f"{_count(task.system.classes)}; evaluate on a data set of the same classes"
        )
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise RunError(f"{file} does not fit the recipe: {error}") from error
    task.on_load_checkpoint(content)
    if task.unfitted:
        parts = ", ".join(map(task.place, task.unfitted))
        raise RunError(
            f"{file} holds {parts} as before it was fitted, which fit does at its end, to the best "
            "checkpoint alone; choose --checkpoint best, or let fit come to its end"
        )


def make_trainer(
    found: Blueprint,
    extra: Sequence[Callback] = (),
    *,
    progress: bool = True,
    **changes: Any,
) -> lightning.Trainer:
    """Lightning's trainer as the recipe says, but for `changes`. Raises RunError."""
    for pattern in QUIET:
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    settings = engine.lightning_options(found.plan.trainer)
    plugins = [*settings.pop("plugins"), AtomicCheckpointIO()]
    settings = {
        **settings,
        # once at least
        "check_val_every_n_epoch": min(settings["check_val_every_n_epoch"], settings["max_epochs"]),
        "logger": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in extra),
        "enable_progress_bar": progress,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # our own order is sharded by rank
        **changes,
    }
    bars = [RichProgressBar(leave=False)] if progress else []
    try:
        return lightning.Trainer(**settings, callbacks=[*extra, *bars], plugins=plugins)
    except (MisconfigurationException, ValueError) as error:  # no such device, for one
        raise RunError(f"trainer: {error}") from error


def _bad_clips(found: Blueprint, run: RunFolder, tested: str = "test") -> BadClips:
    clips = {split: len(dataset) for split, dataset in found.datasets.items()}
    max_bad = found.plan.data.max_bad
    return BadClips(run.path / "bad_clips.jsonl", clips, max_bad=max_bad, tested=tested)


def _look(found: Blueprint, console: Console, bad: BadClips) -> None:
    """Opens every file to train and validate on."""
    assert found.stages is not None and found.stages.sources is not None  # noqa: S101, PT018
    wanted = {split: found.datasets[split] for split in ("train", "val")}
    for look in preflight(wanted, found.stages.sources, console):
        bad.add(look.split, look.bad, print, "unreadable")


def _count(classes: Classes) -> str:
    """How many classes, in words that tell two sets of them apart."""
    if isinstance(classes, Mapping):
        return ", ".join(f"{len(names)} of '{head}'" for head, names in classes.items())
    shown = ", ".join(list(classes)[:3])
    return f"{len(classes)} classes ({shown}{' ...' if len(classes) > 3 else ''})"


def _heading(found: Blueprint, task: Recognition, data: DataModule, run: RunFolder) -> str:
    classes = next(iter(data.datasets.values())).classes
    parameters = sum(p.numel() for p in task.network.parameters())
    trained = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    frozen = f", {trained / 1e6:.2f} M of them trained" if trained < parameters else ""
    fitted = "".join(f", {task.place(part)} fitted" for part in task.behind)
    return (
        f"[bold]{found.tree.values.get('name') or found.tree.name}[/]\n"
        f"data     {len(data.datasets['train'])} clips to train, {len(data.datasets['val'])} to "
        f"validate, {len(classes)} classes, {data.workers} workers\n"
        f"network  {parameters / 1e6:.2f} M parameters{frozen}{fitted}\n"
        f"rate     {told_rate(found.plan.optimizer, found.plan.data.batch)}\n"
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
