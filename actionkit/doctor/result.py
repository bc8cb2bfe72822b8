"""What a check has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple


class Result(NamedTuple):
    """One finding: what was looked at, how it stands, and what to type if it is not well."""

    name: str
    state: Literal["ok", "warning", "fault"]
    text: str
    cure: str = ""
    group: str = ""


Check = Callable[[], Iterator[Result]]
"""Looks at one thing; changes nothing and asks no network."""


def ok(name: str, text: str) -> Result:
    """It is well."""
    return Result(name, "ok", text)


def warning(name: str, text: str, cure: str) -> Result:
    """Most runs go well, some will not."""
    return Result(name, "warning", text, cure)


def fault(name: str, text: str, cure: str) -> Result:
    """Something that is installed, or needed, does not work."""
    return Result(name, "fault", text, cure)


def cause(error: BaseException) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
