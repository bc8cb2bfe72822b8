"""`actionkit list`: what is installed, read from metadata and source alone."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actionkit import registry, schema
from actionkit.cli import describing
from actionkit.cli.arguments import Json


def list_components(
    group: Annotated[str | None, typer.Argument(help="Only this group, as aggregators.")] = None,
    json_: Json = False,
) -> None:
    """Lists components and recipes: name, where from, options, what it does. Imports none."""
    if group is not None:
        require_group(group)
    rows = [
        _row(e) for e in registry.entries() if group in (None, e.group) and e.group != "recipes"
    ]
    if group in (None, "recipes"):
        rows += map(_recipe_row, describing.recipes())
    if json_:
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    for name in registry.GROUPS:
        inside = [row for row in rows if row["group"] == name]
        if inside:
            console.print(_table(name, inside))


def require_group(group: str) -> None:
    """Raises BadParameter, with near names, for what is no group."""
    if group not in registry.GROUPS:
        near = get_close_matches(group, registry.GROUPS, n=1)
        cure = f"Did you mean {near[0]}?" if near else f"There are {', '.join(registry.GROUPS)}."
        raise typer.BadParameter(f"no group '{group}'. {cure}", param_hint="GROUP")


def _row(entry: registry.Entry) -> dict[str, str]:
    try:
        options = [
            p.name if p.required else f"{p.name}={p.default}"
            for p in schema.parameters(entry).values()
        ]
        text = schema.summary(entry)
    except registry.BrokenComponentError as error:
        options, text = [], f"broken: {error}"
    return {
        "group": entry.group,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "options": ", ".join(options),
        "summary": text,
    }


def _recipe_row(recipe: dict[str, str]) -> dict[str, str]:
    return {
        "group": "recipes",
        "name": recipe["name"],
        "distribution": recipe["distribution"],
        "version": "",
        "options": "",
        "summary": recipe["doc"].partition("\n")[0],
    }


def _table(group: str, rows: list[dict[str, str]]) -> Table:
    foreign = any(row["distribution"] != registry.OWN for row in rows)
    view = Table(title=f"\n{group}", title_justify="left", title_style="bold cyan", box=None)
    view.show_header = False
    view.add_column("name", style="bold", no_wrap=True)
    if foreign:
        view.add_column("from")
    view.add_column("what it does, and its options", overflow="fold")
    for row in rows:
        text = row["summary"] + (f"\n[dim]{row['options']}[/]" if row["options"] else "")
        owner = [f"{row['distribution']} {row['version']}".strip()] if foreign else []
        view.add_row(row["name"], *owner, text)
    return view
