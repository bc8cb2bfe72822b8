"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Recipe = Annotated[
    str, typer.Argument(help="A recipe: a YAML file, or the name of one that is installed.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values to change, as trainer.max_epochs=3."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
