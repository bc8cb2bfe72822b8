"""`actionkit predict`: what a trained run says of videos."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actionkit.cli.arguments import Checkpoint, Json

if TYPE_CHECKING:
    from actionkit.prediction import Prediction


def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint file alone.")],
    videos: Annotated[list[Path], typer.Argument(help="Files, and folders of videos.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show of each video.")] = 3,
    window: Annotated[
        float | None,
        typer.Option(min=0.01, help="Look at a long video in parts of so many seconds."),
    ] = None,
    hop: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds between parts; default half a window.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the scores of all classes, to a .csv or .json file.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe."),
    ] = None,
    checkpoint: Checkpoint = "best",
    json_: Json = False,
) -> None:
    """Names the classes of videos, with their scores, by a trained run.

    actionkit predict runs/two_stream/20261121T065100Z-1a2b3c4d clip.mp4 more_clips/ --top 5

    The data set of the training is not needed. Exit code 1 if no video could be read.
    """
    if out is not None and out.suffix not in (".csv", ".json"):
        raise typer.BadParameter("expected a name that ends in .csv or .json", param_hint="--out")
    from actionkit.training.run_folder import checkpoint_of

    if run.suffix != ".ckpt":
        checkpoint_of(run, checkpoint)  # before torch is imported
    from actionkit.prediction import Predictor

    predictor = Predictor.load(run, checkpoint, change or ())
    found = predictor.predict(videos, window=window, hop=hop, progress=not json_)
    if out is not None:
        _write(out, found)
    if json_:
        print(_json(found))
    else:
        _show(found, top, str(predictor.task.protocol), out)
    if not any(p.scores for p in found):
        raise typer.Exit(1)


def _show(found: list[Prediction], top: int, protocol: str, out: Path | None) -> None:
    timed = any(p.start is not None for p in found)
    view = Table(pad_edge=False, box=None, header_style="dim")
    view.add_column("video", overflow="fold")
    if timed:
        view.add_column("seconds", justify="right", no_wrap=True)
    view.add_column("class", overflow="fold")
    view.add_column("score", justify="right", no_wrap=True)
    if top > 1:
        view.add_column("then", overflow="fold", style="dim")
    for p in found:
        cells = [escape(p.path), *([_seconds(p)] if timed else [])]
        if p.scores:
            (name, score), *others = p.top(top)
            then = ", ".join(f"{name} {score:.3f}" for name, score in others)
            cells += [f"[bold green]{escape(name)}[/]", f"{score:.3f}", escape(then)]
        else:
            cells.append(f"[red]{escape(p.error)}[/]")
        view.add_row(*cells[: len(view.columns)])
    console = Console()
    console.print(view)
    bad = sum(not p.scores for p in found)
    if bad:
        console.print(f"[red]{bad} of {len(found)} could not be read[/]", highlight=False)
    where = f"; all scores are in {out}" if out else ""
    console.print(f"[dim]scores: {protocol}{where}[/]", highlight=False, soft_wrap=True)


def _seconds(prediction: Prediction) -> str:
    if prediction.start is None or prediction.end is None:
        return ""
    return f"{prediction.start:.1f} - {prediction.end:.1f}"


def _write(file: Path, found: list[Prediction]) -> None:
    from actionkit.files import write

    write(file, _csv(found) if file.suffix == ".csv" else _json(found) + "\n")


def _json(found: list[Prediction]) -> str:
    rows: list[dict[str, Any]] = []
    for p in found:
        row = p._asdict()
        del row["outputs"]
        if len(p.outputs) > 1:  # of a network with several streams or heads
            row["outputs"] = p.outputs
        rows.append(row)
    return json.dumps(rows, indent=2)


def _csv(found: list[Prediction]) -> str:
    """A row a video or window: path, seconds, why it could not be read, a score per class."""
    classes = next((list(p.scores) for p in found if p.scores), [])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "start", "end", "error", *classes])
    for p in found:
        scores = [f"{p.scores[c]:.6g}" if p.scores else "" for c in classes]
        writer.writerow([p.path, p.start, p.end, p.error, *scores])
    return text.getvalue()
