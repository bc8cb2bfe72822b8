"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from actionkit.builder import Blueprint

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe: a YAML file, or the name of one that is installed."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Values to change, as trainer.max_epochs=3."),
]
Run = Annotated[Path, typer.Argument(help="The run folder that fit has made.")]
Checkpoint = Annotated[str, typer.Option(help="best, last, or a file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def checked(
    recipe: str, overrides: list[str] | None, *, data: bool = True, trained: bool = False
) -> Blueprint:
    """The recipe on the meta device, right in every respect. Raises RecipeError otherwise.

    What is wrong with YAML and names alone is said before torch is imported.
    """
    from actionkit.validate import read

    read(recipe, overrides or ())
    from actionkit import builder

    found = builder.blueprint(recipe, overrides or (), data=data, trained=trained)
    found.require()
    return found
