"""The progress bar of commands that take long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """A progress bar."""

    def __init__(self, progress: Progress, text: str, total: int | None) -> None:
        self._progress, self._task = progress, progress.add_task(text, total=total)

    def expect(self, total: int) -> None:
        """How many ticks there will be."""
        self._progress.update(self._task, total=total)

    def say(self, text: str) -> None:
        """What is being done now."""
        self._progress.update(self._task, description=text)

    def tick(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)

    def print(self, text: str) -> None:
        """A line above the bar, which calls for attention."""
        self._progress.print(text, style="yellow")


@contextmanager
def progress(
    text: str, total: int | None = None, *, counted: bool = True, left: bool = False
) -> Iterator[Bar]:
    """A bar on stderr, so that JSON stays clean; with `counted` it tells how many of how many are
    done, with `left` how long the rest will take.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *([MofNCompleteColumn()] if counted else []),
        TimeElapsedColumn(),
        *([TextColumn("left:"), TimeRemainingColumn()] if left else []),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield Bar(shown, text, total)
