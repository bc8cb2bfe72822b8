"""`actionkit check` and `actionkit show`: a recipe looked at without training it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actionkit.cli.arguments import Json, Overrides, Recipe, checked

if TYPE_CHECKING:
    from actionkit.builder import Blueprint
    from actionkit.contracts import Shape

NoData = Annotated[
    bool, typer.Option("--no-data", help="Do not look at the data set; classes are unknown.")
]


def check(recipe: Recipe, overrides: Overrides = None, no_data: NoData = False) -> None:
    """Checks a recipe: all mistakes at once, each with its place and a cure; then every file.

    Nothing is trained and no weights are loaded. Exit code 2 if anything is wrong with the recipe,
    4 if more files cannot be read than data.max_bad allows.
    """
    found = checked(recipe, overrides, data=not no_data)
    console = Console()
    console.print(f"[green]{recipe} is right[/]: {_summary(found)}", highlight=False)
    if not no_data:
        _check_files(found, console)


def show(
    recipe: Recipe,
    overrides: Overrides = None,
    no_data: NoData = False,
    origins: Annotated[
        bool, typer.Option("--origins", help="Show every value and where it was written.")
    ] = False,
    json_: Json = False,
) -> None:
    """Shows a recipe's chain: every part with the shape behind it and its parameters."""
    if origins:
        from actionkit.validate import read

        tree, _, problems = read(recipe, overrides or ())
        if problems:
            from actionkit.recipe import RecipeError

            raise RecipeError(problems)
        _show_origins(tree, json_)
        return
    found = checked(recipe, overrides, data=not no_data)
    rows = _rows(found)
    if json_:
        print(json.dumps({"parts": rows, "parameters": _total(found)}, indent=2))
        return
    view = Table(title=_summary(found), title_justify="left")
    view.add_column("place", overflow="fold")
    view.add_column("part", overflow="fold")
    view.add_column("T x C x H x W", no_wrap=True)
    view.add_column("parameters", justify="right", no_wrap=True)
    for row in rows:
        count = row["parameters"]
        place = row["place"].removeprefix("model.")
        view.add_row(place, row["part"], _written(row["out"]), f"{count:,}" if count else "")
    view.add_section()
    view.add_row("", "", "", f"{_total(found):,}", style="bold")
    Console().print(view)


def _rows(found: Blueprint) -> list[dict[str, Any]]:
    """Modalities as the network gets them, then its parts, joints with a row a stream."""
    assert found.stages is not None  # noqa: S101  the blueprint has no problems
    rows = [
        {"place": f"data.{name}", "part": "", "out": list(shape), "parameters": 0}
        for name, shape in found.stages.shapes.items()
    ]
    streams = list(found.plan.model.streams)
    parts = found.components.rows
    if found.plan.model.joint is None:  # built front by front, but read stream by stream
        parts = sorted(parts, key=lambda row: _turn(row.key, streams))
    for row in parts:
        shapes: dict[str, Shape] = row.out if isinstance(row.out, dict) else {"": row.out}  # type: ignore[dict-item]
        for name, shape in shapes.items():
            place = f"{row.key} -> {name}" if name else row.key
            count = row.parameters if name in ("", next(iter(shapes))) else 0
            rows.append({"place": place, "part": row.use, "out": list(shape), "parameters": count})
    return rows


def _turn(key: str, streams: list[str]) -> int:
    """The place of a part's stream; what stands behind the streams comes last."""
    head, _, rest = key.partition("streams.")
    return streams.index(rest.partition(".")[0]) if rest and head == "model." else len(streams)


def _written(shape: list[int | None]) -> str:
    """A shape as people write it; ? = varies."""
    return " x ".join("?" if size is None else str(size) for size in shape)


def _total(found: Blueprint) -> int:
    assert found.built is not None  # noqa: S101  the blueprint has no problems
    return sum(p.numel() for p in found.built.network.parameters())


def _summary(found: Blueprint) -> str:
    name = found.tree.values.get("name") or found.tree.name
    streams = ", ".join(found.plan.model.streams)
    return f"{name}: streams {streams}; {_total(found) / 1e6:.2f} M parameters"


def _show_origins(tree: Any, as_json: bool) -> None:
    from actionkit.recipe import dotted, leaves

    lines = [(dotted(key), value, tree.place(key)) for key, value in leaves(tree.public)]
    if as_json:
        print(json.dumps([{"key": k, "value": v, "origin": o} for k, v, o in lines], indent=2))
        return
    view = Table(box=None, pad_edge=False, header_style="dim")
    view.add_column("key", overflow="fold")
    view.add_column("value", overflow="fold")
    view.add_column("written in", style="dim", no_wrap=True)
    for key, value, origin in lines:
        view.add_row(key, str(value), origin.rpartition("/")[2])
    Console().print(view)


def _check_files(found: Blueprint, console: Console) -> None:
    """Opens every file of every split, and names those that cannot be read.

    Raises TooManyBadClipsError where they are more than data.max_bad allows.
    """
    from actionkit.data.preflight import preflight
    from actionkit.errors import TooManyBadClipsError

    assert found.stages is not None and found.stages.sources is not None  # noqa: S101, PT018
    too_many = []
    for look in preflight(found.datasets, found.stages.sources, console):
        if not look.same_as:
            for bad in look.bad:
                console.print(f"  unreadable: {bad}", highlight=False, soft_wrap=True, markup=False)
        console.print(str(look), highlight=False, soft_wrap=True)
        if len(look.bad) > found.plan.data.max_bad * look.clips:
            too_many.append(look.split)
    if too_many:
        raise TooManyBadClipsError(
            f"more clips of {' and '.join(too_many)} cannot be read than data.max_bad allows (a "
            f"share of {found.plan.data.max_bad:g}); repair them, take them out, or raise it"
        )
