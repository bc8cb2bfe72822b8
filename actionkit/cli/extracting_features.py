"""`actionkit extract features`: what a network makes of every clip, computed once and stored."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from actionkit.cli.arguments import Checkpoint, Overrides, checked

if TYPE_CHECKING:
    from actionkit.builder import Blueprint


def features(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN",
            help="A recipe, of which the network starts with its weights; or a trained run's "
            "folder, or a .ckpt file alone.",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The store: a folder to make, or to go on with.")
    ],
    overrides: Overrides = None,
    *,
    at: Annotated[
        str,
        typer.Option(help="The part whose output is stored, as actionkit show names its place."),
    ],
    checkpoint: Checkpoint = "best",
    dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="Of what is stored.")
    ] = "float16",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode; default data.workers.")
    ] = None,
) -> None:
    """Stores what leaves one part of a network, for every clip of a data set.

    actionkit extract features two_stream feats --at streams.rgb.aggregate.0

    The network is in evaluation mode and sees the clips of all splits as the recipe evaluates: the
    same frames every time, nothing random. The views of a clip lie one behind the other along its
    steps; padding is left out. On one device, as trainer.accelerator and precision say.

    Then train on the store as often as you like, without decoding a video or running what stands
    before that part. Its recipe reads the data set by

    reader: {features: {use: stored_features, path: feats}}

    takes all steps by `sampler: full`, and has a stream called features.

    What was killed goes on where it was when it is called again, and ends with the same bytes. Exit
    code 4 if more clips cannot be read than data.max_bad allows; the others are stored by then.
    """
    changes = list(overrides or [])
    if workers is not None:
        changes.append(f"data.workers={workers}")
    found, trained = _recipe(source, checkpoint, changes)
    from actionkit.extraction import features as room

    try:
        place = room.place(found, at)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--at") from error
    weights = None if trained is None else room.Checkpoint(*trained)
    room.extract(found, place, out, Console(), dtype=dtype, checkpoint=weights)


def _recipe(
    source: str, checkpoint: str, changes: list[str]
) -> tuple[Blueprint, tuple[Path, dict[str, Any]] | None]:
    """The recipe, and the checkpoint where there is one. Raises RunError, RecipeError."""
    path = Path(source)
    if path.suffix == ".ckpt":
        from actionkit.training.checkpoints import read

        content = read(path)
        return _of_checkpoint(path, content, changes), (path, content)
    named = path.name == source and not (path / "recipe.yaml").is_file()
    if named or not path.is_dir():
        return checked(source, changes), None
    from actionkit.training.run_folder import checkpoint_of

    file = checkpoint_of(path, checkpoint)  # before torch is imported
    found = checked(str(path / "recipe.yaml"), changes, trained=True)
    from actionkit.training.checkpoints import read

    return found, (file, read(file))


def _of_checkpoint(file: Path, content: dict[str, Any], changes: list[str]) -> Blueprint:
    """The recipe that a checkpoint holds. Raises RunError for one that holds none."""
    import yaml

    from actionkit.errors import RunError

    if "recipe" not in content:
        raise RunError(f"{file} holds no recipe; name its run folder instead")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, f"{content['recipe']['name']}.yaml")
        recipe.write_text(yaml.safe_dump(content["recipe"]["recipe"]), encoding="utf-8")
        return checked(str(recipe), changes, trained=True)
