"""`actionkit info`: all about one component, read from metadata and source without importing it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actionkit import registry
from actionkit.cli import describing
from actionkit.cli.arguments import Json
from actionkit.cli.listing import require_group

WIDTH = 100  # columns beyond which text is hard to read
Name = Annotated[
    list[str], typer.Argument(metavar="[GROUP] NAME", help="lstm, aggregators lstm, DIST:lstm")
]


def info(name: Name, json_: Json = False) -> None:
    """Shows all about a component or a recipe: what it does, its options, a line to paste.

    actionkit info lstm
    """
    group, owner, bare = _parsed(name)
    wanted = [e for e in registry.entries() if e.name == bare and e.group != "recipes"]
    recipes = describing.recipes()
    rows = [*map(describing.component, wanted), *(r for r in recipes if r["name"] == bare)]
    rows = [r for r in rows if group in ("", r["group"]) and owner in ("", r["distribution"])]
    if not rows:
        names = {e.name for e in registry.entries() if e.group != "recipes"}
        near = get_close_matches(bare, sorted(names | {r["name"] for r in recipes}), n=3)
        cure = f"Did you mean {' or '.join(near)}? " if near else ""
        text = f"nothing goes by '{'/'.join(name)}'. {cure}`actionkit list` shows all names."
        raise typer.BadParameter(text, param_hint="NAME")
    if json_:
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    console.width = min(console.width, WIDTH)
    for row in rows:
        (_print_recipe if row["group"] == "recipes" else _print)(row, console)


def _parsed(name: list[str]) -> tuple[str, str, str]:
    """Group, distribution and bare name of `GROUP/DIST:NAME` or `GROUP DIST:NAME`.

    Recipes can have a slash in their names.
    """
    group, slash, last = "/".join(name).partition("/")
    if not slash or (len(name) == 1 and group not in registry.GROUPS):
        group, last = "", "/".join(name)
    if group:
        require_group(group)
    owner, _, bare = last.rpartition(":")
    return group, registry.normalise(owner), bare


def _print(row: dict[str, Any], console: Console) -> None:
    what = f", {registry.singular(row['group'])} of {row['distribution']} {row['version']}"
    console.print(Text.assemble((row["name"], "bold cyan"), what))
    place = f"\n{row['file']}:{row['line']}" if row["file"] else ""
    console.print(Text(f"{row['target']}{place}", "dim"), soft_wrap=True)
    if row["note"]:
        console.print(Text(f"\n{row['note']}", "yellow"))
    if row["broken"]:
        console.print(Text(f"\nbroken: {row['broken']}\n", "red"))
        return
    said = describing.sections(row["doc"])
    for paragraph in describing.paragraphs(said.pop("")):
        console.print(Text(f"\n{paragraph}"))
    shown = [option["name"] for option in row["options"]]
    for heading, items in said.items():
        lines = [(name, text) for name, text in items.items() if name not in shown]
        if lines:
            console.print(_table(heading.replace("Args", "Takes"), [], lines))
    if shown:
        heads = ["option", "type", "default", "what it is"]
        rows = [(o["name"], o["type"], _default(o), o["text"]) for o in row["options"]]
        console.print(_table("Options", heads, rows))
    places = Text(", ".join(row["places"]) or "no place yet", "dim")
    console.print(Text.assemble("\nIn a recipe, at ", places, ":"))
    console.print(Text(f"  {row['yaml']}\n", "bold green"), soft_wrap=True)


def _default(option: dict[str, Any]) -> str:
    return "required" if option["required"] else option["default"]


def _table(title: str, heads: list[str], lines: Iterable[tuple[str, ...]]) -> Table:
    view = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None)
    view.show_header = bool(heads)
    view.header_style = "dim"
    for number, head in enumerate(heads or ["", ""]):
        view.add_column(head, style="" if number else "bold", no_wrap=not number, overflow="fold")
    for line in lines:
        view.add_row(*map(Text, line))
    return view


def _print_recipe(row: dict[str, Any], console: Console) -> None:
    head = Text.assemble((row["name"], "bold cyan"), f", recipe of {row['distribution']}")
    console.print(head)
    console.print(Text(row["file"], "dim"), soft_wrap=True)
    for paragraph in describing.paragraphs(row["doc"]):
        console.print(Text(f"\n{paragraph}"))
    console.print("\nIts chain, part by part:")
    console.print(Text(f"  actionkit show {row['use']}\n", "bold green"), soft_wrap=True)
