"""The command line. Commands import torch when they run, so that help and lists answer at once."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from actionkit import __version__
from actionkit.cli import (
    bench,
    doctor,
    extracting,
    frames,
    info,
    listing,
    looking,
    predicting,
    training,
    transcoding,
    tuning,
)

app = typer.Typer(
    name="actionkit",
    help="Video action recognition: components as plugins, composed by YAML recipes.\n\n"
    "A recipe is a file (recipes/two_stream.yaml) or a name (two_stream). Any value of it can be "
    "changed behind it: actionkit fit two_stream trainer.max_epochs=3 data.batch=8",
    epilog="Exit codes: 0 done, 1 failed while running, 2 wrong usage or recipe, 3 no room "
    "on the disk or device, 4 too many unreadable clips, 130 interrupted, 143 asked to end.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    """What stands before a command."""
    if version:
        print(f"actionkit {__version__}")
        raise typer.Exit


app.command()(training.fit)
app.command()(training.validate)
app.command("test")(training.evaluate)
app.command()(predicting.predict)
app.command()(looking.check)
app.command()(looking.show)
app.command()(frames.frames)
app.command("list")(listing.list_components)
app.command()(info.info)
app.command()(doctor.doctor)
app.add_typer(bench.bench, name="bench")
app.add_typer(tuning.tune, name="tune")
app.add_typer(extracting.extract, name="extract")
app.command()(transcoding.transcode)


def main() -> None:
    """Runs a command; problems of a recipe become sentences and exit code 2."""
    from actionkit.errors import RunError
    from actionkit.recipe import RecipeError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    try:
        app()
    except RecipeError as error:
        print(str(error), file=sys.stderr)
        count = len(error.problems)
        print(f"\n{count} problem{'s' if count > 1 else ''} in the recipe", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(str(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as error:
        if not _interrupted(error):
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl+C is behind an error; Lightning and typer answer it by exits of their own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
