"""`actionkit tune`: learning rate and batch of a recipe, found by a few steps of its training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actionkit.cli.arguments import Json, Overrides, Recipe, checked
from actionkit.cli.progress import progress

if TYPE_CHECKING:
    from actionkit.builder import Blueprint
    from actionkit.training.tuner import RangeTest, Trial

tune = typer.Typer(
    help="Finds values of a recipe by some steps of its training, of which nothing is kept.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
LINES, LENGTH = 20, 40  # of the curve
NOT_COMPILED = "trainer.compile is left out of these steps"


@tune.command()
def lr(
    recipe: Recipe,
    overrides: Overrides = None,
    steps: Annotated[
        int, typer.Option(min=10, help="Steps from the first rate to the last.")
    ] = 100,
    first: Annotated[float, typer.Option("--from", help="The lowest rate.")] = 1e-6,
    last: Annotated[float, typer.Option("--to", help="The highest rate.")] = 1.0,
    json_: Json = False,
) -> None:
    """Finds a learning rate: trains while it rises, and takes where the loss falls fastest.

    actionkit tune lr two_stream data.batch=32 --to 0.1

    It is a start, not a proof: the test knows neither warm-up nor the end of a training.
    """
    if not 0 < first < last:
        raise typer.BadParameter(f"expected 0 < {first:g} (--from) < {last:g} (--to)")
    found = checked(recipe, overrides)
    from actionkit.training.memory import explained
    from actionkit.training.tuner import range_test

    clips = max(1, found.plan.data.batch // found.plan.trainer.accumulate_grad_batches)
    shapes = found.stages.shapes if found.stages else {}
    with (
        progress("steps with a rising rate", steps) as bar,
        explained(found.plan, shapes, clips),
    ):
        measured = _with(found, range_test, steps=steps, first=first, last=last, tick=bar.tick)
    override = _override(found, measured)
    if json_:
        print(json.dumps(_as_json(measured, override), indent=2))
        return
    _show_rates(found, measured, override, Console(file=sys.stdout))


@tune.command()
def batch(
    recipe: Recipe,
    overrides: Overrides = None,
    most: Annotated[int, typer.Option(min=1, help="The largest batch to try.")] = 1024,
    json_: Json = False,
) -> None:
    """Finds the largest data.batch whose training step fits the memory of one device.

    actionkit tune batch two_stream trainer.precision=bf16-mixed
    """
    found = checked(recipe, overrides)
    from actionkit.training.tuner import largest_batch

    with progress("batches", counted=False) as bar:
        trials = _with(found, largest_batch, most=most, say=lambda n: bar.say(f"data.batch={n}"))
    best = max(trial.batch for trial in trials if trial.fits)
    if json_:
        print(json.dumps(_trials_as_json(trials, best), indent=2))
        return
    _show_trials(found, trials, best, Console(file=sys.stdout))


def _with(found: Blueprint, measure: Callable[..., Any], **options: Any) -> Any:
    """Measures on the real thing; what is said meanwhile goes to stderr, so that JSON stays clean.

    The trainer is the recipe's.
    """
    from actionkit import builder, run

    task, data = builder.build(found)
    data.prepare_data()
    with redirect_stdout(sys.stderr):
        return measure(task, data, found.plan, partial(run.make_trainer, found), **options)


# ---------------------------------------------------------------------------- the learning rate


def _override(found: Blueprint, measured: RangeTest) -> str | None:
    """The line to paste; a rate is known to two digits at best."""
    from actionkit.training.tuner import as_written

    rate, plan = measured.suggestion, found.plan
    if rate is None:
        return None
    return f"optimizer.lr={as_written(rate, plan.optimizer, plan.data.batch):.2g}"


def _as_json(measured: RangeTest, override: str | None) -> dict[str, Any]:
    return {
        "rates": measured.rates,
        "losses": measured.losses,
        "smooth": measured.smooth.tolist(),
        "end": measured.end,
        "suggestion": measured.suggestion,
        "override": override,
    }


def _show_rates(
    found: Blueprint, measured: RangeTest, override: str | None, console: Console
) -> None:
    if measured.losses:
        console.print(_curve(measured, console))
    done = f"{len(measured.losses)} of {measured.wanted} steps, {found.plan.data.batch} clips each"
    _note(f"{done}; {measured.end}", console)
    if found.plan.trainer.compile:
        _note(NOT_COMPILED, console)
    if override is None:
        text = "The loss falls at none of these rates; try a lower --from, or more --steps"
        console.print(Text(text, "bold"), soft_wrap=True)
        return
    text = f"The loss falls fastest at {measured.suggestion:.2g}:"
    console.print(Text(text, "bold"), soft_wrap=True)
    console.print(Text(override), soft_wrap=True)
    if found.plan.optimizer.lr_for is not None:
        from actionkit.training.optimizer import told_rate

        written = replace(found.plan.optimizer, lr=float(override.partition("=")[2]))
        _note(f"with optimizer.lr_for: {told_rate(written, found.plan.data.batch)}", console)


def _curve(measured: RangeTest, console: Console) -> Table:
    """Some of the steps, that of the suggestion among them, with bars from the lowest loss on."""
    smooth, best = measured.smooth, measured.steepest
    count, mark = len(smooth), "█" if console.encoding.startswith("utf") else "#"
    lowest, highest = smooth.min(), smooth[: smooth.argmin() + 1].max()
    shown = {round(i * (count - 1) / (LINES - 1)) for i in range(LINES)}
    view = Table()
    for name in ("rate", "loss"):
        view.add_column(name, justify="right")
    view.add_column("smoothed over its neighbours")
    for at in sorted(shown if best is None else shown | {best}):
        share = (smooth[at] - lowest) / (highest - lowest or 1.0)
        bar = mark * max(1, min(LENGTH, round(LENGTH * share)))
        bar += " and more" if share > 1 + 1 / LENGTH else ""
        chosen = at == best
        cells = (f"{measured.rates[at]:.2g}", f"{smooth[at]:.3f}", bar + " <" * chosen)
        view.add_row(*cells, style="bold" if chosen else None)
    return view


# ------------------------------------------------------------------------------------ the batch


def _trials_as_json(trials: list[Trial], best: int) -> dict[str, Any]:
    rows = [
        {
            "batch": trial.batch,
            "fits": trial.fits,
            "clips/s": trial.speed or None,
            "peak_bytes": trial.peak or None,
        }
        for trial in trials
    ]
    found = {"batch": best, "limit_found": not all(trial.fits for trial in trials)}
    return {**found, "override": f"data.batch={best}", "trials": rows}


def _show_trials(found: Blueprint, trials: list[Trial], best: int, console: Console) -> None:
    from actionkit.training.optimizer import told_rate

    plan, optimizer = found.plan, found.plan.optimizer
    view = Table()
    for name in ("data.batch", "fits", "clips/s", "GB"):
        view.add_column(name, justify="right")
    for t in sorted(trials, key=lambda trial: trial.batch):
        speed, peak = (f"{t.speed:.1f}" if t.speed else ""), f"{t.peak / 1e9:.2f}" if t.peak else ""
        view.add_row(str(t.batch), "yes" if t.fits else "no", speed, peak)
    console.print(view)
    _note("clips/s without their reading, which actionkit bench loader measures", console)
    if plan.trainer.compile:
        _note(NOT_COMPILED, console)
    whole = all(trial.fits for trial in trials)
    text = "All that was tried fits, up to --most or the training split:" if whole else (
        "The largest batch that fits one device:"
    )  # fmt: skip
    console.print(Text(text, "bold"), soft_wrap=True)
    console.print(Text(f"data.batch={best}"), soft_wrap=True)
    _note("data.batch counts the clips of all devices: with several it is that often more", console)
    told = told_rate(replace(optimizer, lr_for=optimizer.lr_for or plan.data.batch), best)
    if optimizer.lr_for is not None:
        _note(f"with optimizer.lr_for the rate goes with it: {told}", console)
    elif best != plan.data.batch:
        _note(
            f"optimizer.lr={optimizer.lr:g} stands for data.batch={plan.data.batch}; with "
            f"optimizer.lr_for={plan.data.batch} it goes with the batch: {told}",
            console,
        )


def _note(text: str, console: Console) -> None:
    console.print(Text(text, "dim"), soft_wrap=True)
