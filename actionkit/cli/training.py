"""`actionkit fit`, `validate` and `test`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from actionkit.cli.arguments import Checkpoint, Overrides, Recipe, Run, checked

Split = Literal["train", "val", "test"]


def fit(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="The run folder; default runs/NAME/TIME-HASH.")
    ] = None,
    look: Annotated[
        bool, typer.Option("--look/--no-look", help="Open every file before training starts.")
    ] = True,
    new: Annotated[
        bool, typer.Option("--new", help="Start a new run, even if one of this recipe is begun.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this run folder, or from this checkpoint in one."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--override-on-resume", metavar="KEY", help="A key that may differ in what is resumed."
        ),
    ] = None,
) -> None:
    """Trains a recipe and evaluates its best checkpoint.

    actionkit fit recipes/two_stream.yaml trainer.max_epochs=3

    Killed or interrupted, call the same again: the run goes on as if nothing had happened. SIGTERM
    and SIGUSR1 end it behind the step with a checkpoint and exit code 143.

    actionkit fit two_stream trainer.max_epochs=9 --resume runs/two_stream/20261121T065100Z-1a2b3c4d
    """
    found = checked(recipe, overrides)
    from actionkit import run as runs

    runs.fit(found, Console(), run, look=look, new=new, resume=resume, changes=change or ())


def validate(run: Run, overrides: Overrides = None, checkpoint: Checkpoint = "best") -> None:
    """Evaluates a trained run on the validation split, as fit does at its end.

    actionkit validate runs/two_stream/20261121T065100Z-1a2b3c4d --checkpoint last
    """
    _evaluate(run, overrides, checkpoint, "validate", "val")


def evaluate(
    run: Run,
    overrides: Overrides = None,
    split: Annotated[Split, typer.Option(help="The part of the data set.")] = "test",
    checkpoint: Checkpoint = "best",
) -> None:
    """Evaluates a trained run on a split, with the recipe's own evaluation.

    actionkit test runs/two_stream/20261121T065100Z-1a2b3c4d data.dataset.root=/data/other
    """
    _evaluate(run, overrides, checkpoint, "test", split)


def _evaluate(
    run: Path, overrides: list[str] | None, checkpoint: str, command: str, split: Split
) -> None:
    from actionkit.training.run_folder import checkpoint_of

    file = checkpoint_of(run, checkpoint)  # before torch is imported
    found = checked(str(run / "recipe.yaml"), overrides, trained=True)
    from actionkit import run as runs

    runs.evaluate(found, Console(), run, file, command, split)
