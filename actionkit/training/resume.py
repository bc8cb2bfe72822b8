"""A run that goes on: from which checkpoint, and whether the recipe is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning

from actionkit.contracts import Classes, Dataset
from actionkit.differences import Difference, differences
from actionkit.errors import NoRunError, RunError
from actionkit.training.checkpoints import newest_whole, read, verify
from actionkit.training.run_folder import RunFolder

# What may change while a run goes on: by itself, never, and everything else if it is asked for.
FREE = (
    "name", "logger", "evaluation", "data.workers", "data.max_bad", "trainer.max_epochs",
    "trainer.accelerator", "trainer.check_val_every_n_epoch", "trainer.limit_val_batches",
    "trainer.save_every", "trainer.early_stopping",
)  # fmt: skip
NEVER = (
    "model", "task", "optimizer.use", "optimizer.layer_decay", "data.batch", "trainer.ema",
    "trainer.accumulate_grad_batches",
)  # fmt: skip


class ChangedRecipeError(RunError):
    """A run cannot go on with another recipe."""

    exit_code = 2


def require_same(
    content: Mapping[str, Any],
    recipe: Mapping[str, Any],
    dataset: Dataset,
    allowed: Sequence[str] = (),
) -> list[Difference]:
    """What has changed since a checkpoint was written, all of it harmless or asked for.

    `recipe` is plain, `dataset` are the clips to train on, `allowed` are the keys of
    `--override-on-resume`. Raises ChangedRecipeError, showing every change that forbids to go on.
    """
    found = differences(content["recipe"]["recipe"], recipe)
    never = [d for d in found if _below(d.key, NEVER)]
    others = [d for d in found if d not in never and not _below(d.key, (*FREE, *allowed))]
    classes = _plain(dataset.classes)
    if content.get("classes", classes) != classes:
        never.append(Difference("classes", _count(content["classes"]), _count(classes)))
    now = clips_of(dataset)
    if content.get("clips", now) != now:
        never.append(Difference("clips to train on", content["clips"], now))
    if not (never or others):
        return found
    lines = [
        *(f"  {_told(d)}: it cannot change in a run; start another one (--new)" for d in never),
        *(f"  {_told(d)}: if that is meant, --override-on-resume {d.key}" for d in others),
    ]
    raise ChangedRecipeError("the run cannot go on, since its recipe was\n" + "\n".join(lines))


def clips_of(dataset: Dataset) -> str:
    """How many clips, and a digest of their ids and targets, in their order."""
    digest = hashlib.sha256()
    for record in map(dataset.__getitem__, range(len(dataset))):
        digest.update(repr((record.id, record.start, record.end, record.target)).encode())
    return f"{len(dataset)} clips {digest.hexdigest()[:8]}"


def told(changes: Iterable[Difference]) -> str:
    """Changes as one line."""
    return "; ".join(map(_told, changes))


@dataclass
class Start:
    """Where a run begins: at its start, or at a checkpoint."""

    run: RunFolder
    file: Path | None = None
    step: int = 0
    epoch: int = 0
    skipped: Sequence[str] = ()  # sentences about newer checkpoints that are broken
    again: bool = False  # a run had begun here, but not written a checkpoint

    def require_same(
        self, recipe: Mapping[str, Any], dataset: Dataset, allowed: Sequence[str]
    ) -> list[Difference]:
        """What has changed since the checkpoint was written. Raises ChangedRecipeError."""
        return require_same(read(self.file), recipe, dataset, allowed) if self.file else []

    def told(self, changes: Sequence[Difference]) -> list[str]:
        """What is to be said of it."""
        lines = [f"skipped  {text}" for text in self.skipped]
        if self.file is not None:
            lines.append(f"goes on  at step {self.step} (epoch {self.epoch}), from {self.file}")
        elif self.again:
            lines.append("goes on  from its start: it was ended before its first checkpoint")
        return lines + ([f"changed  {told(changes)}"] if changes else [])


def begin(record: dict[str, Any], folder: Path | None, *, new: bool, resume: Path | None) -> Start:
    """Where this run begins. Raises RunError, where nothing is left to go on from too."""
    file = None
    if resume is None:
        run = RunFolder.choose(record, folder, new=new)
    else:
        place, file = find_checkpoint(resume)
        run = RunFolder(place)
    if file is not None:
        verify(file)
        skipped: list[str] = []
    elif run.checkpoints.is_dir() and (resume is not None or run.unfinished):
        file, skipped = newest_whole(run.checkpoints)
        if file is None and skipped:
            raise RunError(
                f"{run.path} cannot go on: {'; '.join(skipped)}. Write --new to start another run"
            )
    else:
        return Start(run)
    if file is None:
        if resume is not None:
            raise NoRunError(f"{resume} cannot be resumed: it holds no checkpoint")
        return Start(run, again=run.unfinished)
    content = read(file)
    return Start(run, file, content["global_step"], content["epoch"], skipped)


class Renewed(lightning.Callback):
    """Gives the optimizer of a run that goes on the recipe's settings, which have changed."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Takes learning rate, weight decay and schedule from the recipe."""
        fresh = pl_module.configure_optimizers()
        optimizer, config = trainer.optimizers[0], trainer.lr_scheduler_configs[0]
        for group, new in zip(optimizer.param_groups, fresh["optimizer"].param_groups, strict=True):
            group.update({name: value for name, value in new.items() if name != "params"})
        scheduler: Any = fresh["lr_scheduler"]["scheduler"]
        scheduler.optimizer = optimizer
        scheduler.step_update(trainer.global_step)
        config.scheduler = scheduler


def find_checkpoint(path: Path) -> tuple[Path, Path | None]:
    """For `--resume`: the run folder, and the checkpoint if one was given.

    `path` is a run folder or a checkpoint in one. Raises NoRunError.
    """
    folder = path.parent.parent if path.suffix == ".ckpt" else path
    if path.suffix == ".ckpt" and not path.is_file():
        raise NoRunError(f"there is no checkpoint {path}")
    if not (folder / "recipe.yaml").is_file():
        raise NoRunError(
            f"{path} cannot be resumed: {folder} is no run folder, since it holds no recipe.yaml"
        )
    return folder, path if path.suffix == ".ckpt" else None


def _below(key: str, parents: Iterable[str]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def _told(d: Difference) -> str:
    return f"{d.key} was {d.there}, is {d.wanted}"


def _plain(classes: Classes) -> Any:
    if isinstance(classes, Mapping):
        return {head: list(names) for head, names in classes.items()}
    return list(classes)


def _count(classes: Any) -> str:
    if isinstance(classes, dict):
        return ", ".join(f"{len(names)} of '{head}'" for head, names in classes.items())
    return f"{len(classes)} classes ({', '.join(classes[:3])}{' ...' if len(classes) > 3 else ''})"
