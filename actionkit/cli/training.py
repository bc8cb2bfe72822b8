"""`actionkit fit` and `actionkit test`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from actionkit.cli.arguments import Overrides, Recipe, checked


def fit(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="The run folder; default runs/NAME/TIME-HASH.")
    ] = None,
) -> None:
    """Trains a recipe and evaluates its best checkpoint.

    actionkit fit recipes/two_stream.yaml trainer.max_epochs=3
    """
    found = checked(recipe, overrides)
    from actionkit import run as runs

    runs.fit(found, Console(), run)


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder that fit has made.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    checkpoint: Annotated[str, typer.Option(help="best, last, or a file")] = "best",
) -> None:
    """Evaluates a trained run on a split, with the recipe's own evaluation.

    actionkit test runs/two_stream/20261121T065100Z-1a2b3c4d --split val
    """
    file = Path(checkpoint)
    if checkpoint in ("best", "last"):
        file = run / "checkpoints" / f"{checkpoint}.ckpt"
    if not (run / "recipe.yaml").is_file():
        raise typer.BadParameter(f"{run} is no run folder: it holds no recipe.yaml")
    if not file.is_file():
        raise typer.BadParameter(f"there is no checkpoint {file}", param_hint="--checkpoint")
    if split not in ("train", "val", "test"):
        raise typer.BadParameter("expected train, val or test", param_hint="--split")
    found = checked(str(run / "recipe.yaml"), overrides)
    from actionkit import run as runs

    runs.test(found, Console(), run, file, split)
