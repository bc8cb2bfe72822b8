"""`actionkit bench`: speed as ratios, measured fairly, and what to do about it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actionkit.cli.arguments import Json, Overrides, Recipe, checked
from actionkit.cli.progress import progress

if TYPE_CHECKING:
    from actionkit.bench.advice import Measured
    from actionkit.bench.clock import Comparison, Row
    from actionkit.bench.parts import Worker

bench = typer.Typer(
    help="Measures speed, as ratios: readers, loader, flow, augmentation, parts, a recipe's steps."
    "\n\n"
    "All variants run in turn in every round, behind a warm-up; medians of processor time on one "
    "thread are compared, and what differs by less than 15 % is equal (=).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Rounds = Annotated[int, typer.Option(min=1, help="How often every variant is measured.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps that are measured.")]
Batches = Annotated[int, typer.Option(min=2, help="Batches taken from a loader, and 1 a worker.")]
Videos = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[VIDEO]...", help="Videos; by default four are written and removed again."
    ),
]


@bench.command()
def decode(videos: Videos = None, rounds: Rounds = 5, json_: Json = False) -> None:
    """Compares the readers: first whether their frames are right, then how fast they come.

    A reader's frames must be those of its own reading from first to last, and those that pyav
    means; one whose are not is WRONG and not timed. The limit is FFmpeg decoding, without skips,
    what the frames need.
    """
    from actionkit.bench import decode as room
    from actionkit.bench.clock import one_thread
    from actionkit.contracts import VideoReadError
    from actionkit.errors import RunError

    tested, notes = room.readers()
    found: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder, progress("writing videos") as bar, one_thread():
        paths = list(videos or room.write_videos(Path(folder)))
        bar.expect(room.measurements(tested, len(paths), rounds))
        for path in paths:
            bar.say(path.name)
            try:
                found += room.decode(path, tested, rounds, bar.tick)
            except VideoReadError as error:
                raise RunError(str(error)) from error
    _show(found, json_, notes)


@bench.command()
def loader(
    recipe: Recipe,
    overrides: Overrides = None,
    batches: Batches = 8,
    rounds: Rounds = 5,
    json_: Json = False,
) -> None:
    """Measures a recipe's training loader by its number of workers, and what a worker does.

    actionkit bench loader two_stream data.batch=32
    """
    found = checked(recipe, overrides)
    from actionkit import builder
    from actionkit.bench import loader as room
    from actionkit.bench import parts
    from actionkit.bench.clock import one_thread
    from actionkit.bench.recipe import CLIPS

    _, data = builder.build(found)
    data.prepare_data()
    names = parts.names_of(found.plan.data.train.per_sample)
    with progress("one worker's work") as bar, one_thread():
        bar.expect((rounds + 1) * (1 + len(room.counts())))
        worker = parts.worker(data, names, CLIPS, rounds, tick=bar.tick)
        bar.say("loaders")
        speed = room.compare_workers(data, rounds, batches, tick=bar.tick)
    if json_:
        print(json.dumps({**speed.as_json(), "worker": worker.as_json()}, indent=2))
        return
    _show([speed], False, [])
    _show_worker(worker, Console())


@bench.command()
def flow(rounds: Rounds = 5, json_: Json = False) -> None:
    """Compares the methods of optical flow: time of a pair, and error against a known warp."""
    from actionkit.bench import flow as room
    from actionkit.bench.clock import one_thread

    tested, _ = room.methods()
    with progress("flow") as bar, one_thread():
        bar.expect(len(room.SIZES) * len(tested) * (rounds + 1))
        found = room.flow(rounds, bar.tick)
    _show(found, json_, [])


@bench.command()
def augment(rounds: Rounds = 5, json_: Json = False) -> None:
    """Compares orders and libraries of augmentation on a clip of 16 frames, on the CPU."""
    from actionkit.bench import augment as room
    from actionkit.bench.clock import one_thread

    with progress("augmentation") as bar, one_thread():
        bar.expect(room.MEASUREMENTS * (rounds + 1))
        found = room.augment(rounds, bar.tick)
    _show(found, json_, [])


@bench.command()
def model(rounds: Rounds = 5, json_: Json = False) -> None:
    """Compares recurrent parts and the temporal shift with the plain way of writing them.

    Each runs forward and backward, on one core.
    """
    from actionkit.bench import model as room
    from actionkit.bench.clock import one_thread

    with progress("parts that look at time") as bar, one_thread():
        bar.expect(room.MEASUREMENTS * (rounds + 1))
        found = room.model(rounds, bar.tick)
    _show(found, json_, [])


@bench.command("recipe")
def recipe_(
    recipe: Recipe,
    overrides: Overrides = None,
    steps: Steps = 20,
    rounds: Rounds = 5,
    json_: Json = False,
) -> None:
    """Trains some steps of a recipe, and says where their time goes, what binds, and what to do.

    actionkit bench recipe two_stream data.workers=2 --steps 50
    """
    found = checked(recipe, overrides)
    from actionkit.bench.recipe import measure

    with progress("a worker's work, then training steps") as bar:
        measured = measure(found, rounds, steps, tick=bar.tick, expect=bar.expect)
    if json_:
        print(json.dumps(measured.as_json(), indent=2))
        return
    _show_recipe(measured, Console())


# --------------------------------------------------------------------------------------- tables


def _show(found: Sequence[Comparison], as_json: bool, notes: Iterable[str]) -> None:
    """A table for each group of comparisons, or each without one; then verdicts and notes."""
    notes = list(notes)
    if as_json:
        print(json.dumps({"comparisons": [c.as_json() for c in found], "notes": notes}, indent=2))
        return
    console = Console(file=sys.stdout)
    for key, several in groupby(found, lambda c: c.group or c.title):
        members = list(several)
        _print_table(key, members, console)
        for member in members:
            name = f"{member.title}: " if member.group else ""
            console.print(Text.assemble((name, "dim"), member.verdict), soft_wrap=True)
        for note in dict.fromkeys(note for member in members for note in member.notes):
            console.print(Text(note, "dim"), soft_wrap=True)
        console.print()
    for note in notes:
        console.print(Text(note, "dim"), soft_wrap=True)


def _print_table(title: str, members: list[Comparison], console: Console) -> None:
    facts = list(dict.fromkeys(key for c in members for row in c.rows for key in row.facts))
    numbers = ("CPU ms", "wall ms", "ratio", *facts)
    console.print(Text(title, "bold"), soft_wrap=True)
    view = _table("variant", *numbers)
    for member in members:
        if member.group:
            view.add_section()
            view.add_row(Text(member.title, "bold"))
        for row in member.rows:
            first = next((r for r in member.rows if r.ratio is not None), None)
            cells = [_number(row.cpu), _number(row.wall), _ratio(row, first)]
            view.add_row(row.name, *cells, *(_number(row.facts.get(key)) for key in facts))
    console.print(view)


def _ratio(row: Row, first: Row | None) -> str:
    from actionkit.bench.clock import in_words

    if row.ratio is None:
        return ""
    return "1" if row is first else in_words(row.ratio)


def _show_worker(worker: Worker, console: Console) -> None:
    console.print(Text("one worker's clip, by itself", "bold"))
    view = _table("part", "CPU ms", "wall ms", "share")
    for part in worker.shares:
        view.add_row(part.name, _number(part.cpu), _number(part.wall), f"{part.share:.0%}")
    view.add_section()
    view.add_row("a clip", _number(worker.cpu), _number(worker.wall), "")
    first = worker.first
    view.add_row(f"{first.name} at a file", _number(first.cpu), _number(first.wall), "once")
    console.print(view)
    kinds = ", ".join(f"{name} {kind}" for name, kind in worker.types.items())
    text = f"{worker.bytes / 1e6:.3f} MB a clip go to the device ({kinds})"
    console.print(Text(text, "dim"), soft_wrap=True)


def _show_recipe(m: Measured, console: Console) -> None:
    from actionkit.bench.advice import advise

    seconds = m.step.wall
    title = f"a step of {m.batch} clips: {1e3 * seconds:.1f} ms, {m.batch / seconds:.1f} clips/s"
    count = f"{m.workers} worker{'' if m.workers == 1 else 's'}"
    console.print(Text(f"{title}; {m.name}, {count}", "bold"), soft_wrap=True)
    view = _table("part", "wall ms", "share")
    for name, spent in m.parts.items():
        view.add_row(name, _number(1e3 * spent.wall), f"{m.share(name):.0%}")
    console.print(view)
    _show_worker(m.worker, console)
    first, *others = advise(m)
    console.print(Text(first, "bold"), soft_wrap=True)
    for text in others:
        console.print(Text(f"- {text}"), soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    view = Table()
    view.add_column(first, overflow="fold")
    for name in others:
        view.add_column(name, justify="right")
    return view


def _number(value: Any) -> str:
    """A value as a cell: numbers with three digits that count, a share of the limit too."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
