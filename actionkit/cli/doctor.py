"""`actionkit doctor`: whether this installation can train, and what to type where it cannot."""

from __future__ import annotations

import json
import sys
from collections import Counter

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actionkit.cli.arguments import Json
from actionkit.doctor.result import Result

CURABLE = ("fault", "warning")
NAMES = 20  # columns of a result's name; the same in every group, so that all texts are aligned
MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "bold red")}


def doctor(json_: Json = False) -> None:
    """Looks at machine, packages, plugins, readers and devices; says what to type for each fault.

    Takes some seconds and changes nothing. Exit code 1 if there is a fault.
    """
    from actionkit.doctor import CHECKS, examine

    # named, since stdout is another while a check runs; what JSON readers get holds no progress
    console = Console(file=sys.stderr if json_ else sys.stdout)
    found: list[Result] = []
    with console.status("") as status:
        for group in CHECKS:
            status.update(f"looking at {group} ...")
            results = list(examine(group))
            found += results
            if not json_ and results:
                console.print(_table(group, results))
    if json_:
        print(json.dumps([{"group": r.group, **r._asdict()} for r in found], indent=2))
    else:
        _print_cures(found, console)
    if any(result.state == "fault" for result in found):
        raise typer.Exit(1)


def _table(group: str, results: list[Result]) -> Table:
    view = Table(title=group, title_justify="left", title_style="bold cyan", box=None)
    view.show_header = False
    view.add_column("mark", no_wrap=True)
    view.add_column("name", width=NAMES, overflow="fold")
    view.add_column("text", overflow="fold")
    for result in results:
        mark, colour = MARKS[result.state]
        style = "dim" if result.state == "ok" else ""
        view.add_row(Text(mark, colour), Text(result.name, style), Text(result.text, style))
    return view


def _print_cures(found: list[Result], console: Console) -> None:
    """How many of each there are; then what to type, faults first, a line each to be copied."""
    count: Counter[str] = Counter(result.state for result in found)
    words = [f"{count[state]} {state}{'' if count[state] == 1 else 's'}" for state in CURABLE]
    console.print(Text(f"\n{count['ok']} ok, {', '.join(words)}", "bold"))
    for state in CURABLE:
        mark, colour = MARKS[state]
        cures = [(result.name, result.cure) for result in found if result.state == state]
        for name, cure in dict.fromkeys(cures):  # several faults can have one cure
            line = Text.assemble((mark, colour), f" {name}: ", (cure, "bold"))
            console.print(line, soft_wrap=True)
