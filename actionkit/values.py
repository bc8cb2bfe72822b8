"""Whether a value read from YAML is what an option's type asks for."""

from __future__ import annotations

import types
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from actionkit.schema import Nested


class MisfitError(ValueError):
    """A value is not of the type an option asks for; says what was expected and what came."""


def options(kind: Any) -> Iterator[Any]:
    """The members of a union, or the type itself."""
    if get_origin(kind) in (Union, types.UnionType):
        yield from get_args(kind)
    else:
        yield kind


def nested(kind: Any) -> Nested | None:
    """The `Make[...]` in a type, if there is one."""
    return next((k for k in options(kind) if isinstance(k, Nested)), None)


def fit(value: Any, kind: Any) -> Any:
    """The value as a constructor gets it: lists become tuples, text becomes a Path, where asked.

    Raises MisfitError with what was expected and what came.
    """
    for member in options(kind):
        converted = _fit(value, member)
        if converted is not _NO:
            return converted
    raise MisfitError(f"expected {_words(kind)}, got {_shown(value)}{_hint(value, kind)}")


_NO = object()


def _fit(value: Any, kind: Any) -> Any:
    origin, inside = get_origin(kind) or kind, get_args(kind)
    if kind is Any or isinstance(kind, Nested):
        return value
    if kind is None or kind is type(None):
        return value if value is None else _NO
    if origin is Literal:
        return value if any(value == x and type(value) is type(x) for x in inside) else _NO
    if kind is float:
        return float(value) if type(value) in (int, float) else _NO
    if kind is Path:
        return Path(value).expanduser() if isinstance(value, str) and value else _NO
    if origin in (list, tuple):
        return _fit_sequence(value, origin, inside)
    if origin is dict:
        return _fit_mapping(value, inside)
    return value if type(value) is kind else _NO  # type(), since True is an int


def _fit_sequence(value: Any, origin: type, inside: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _NO
    if origin is tuple and inside and inside[-1] is not ...:
        if len(value) != len(inside):
            return _NO
        kinds = inside
    else:
        kinds = (inside[0] if inside else Any,) * len(value)
    try:
        return origin(fit(v, k) for v, k in zip(value, kinds, strict=True))
    except MisfitError:
        return _NO


def _fit_mapping(value: Any, inside: tuple[Any, ...]) -> Any:
    if not isinstance(value, dict):
        return _NO
    try:
        return {fit(k, inside[0]): fit(v, inside[1]) for k, v in value.items()} if inside else value
    except MisfitError:
        return _NO


WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    Path: "a path", list: "a list", tuple: "a list", dict: "a map", None: "null",
    type(None): "null", Any: "anything",
}  # fmt: skip


def _words(kind: Any) -> str:
    members, inside, origin = list(options(kind)), get_args(kind), get_origin(kind)
    if len(members) > 1:
        return " or ".join(_words(member) for member in members)
    if origin is Literal:
        return (" or " if len(inside) < 3 else ", ").join(repr(x) for x in inside)
    if origin is dict and inside:
        return f"a map to {_plural(inside[1])}"
    if origin in (list, tuple) and inside:
        if origin is tuple and inside[-1] is not ...:
            if len(set(inside)) > 1:
                return f"a list of {', '.join(_words(kind) for kind in inside)}"
            return f"a list of {len(inside)} {_plural(inside[0])}"
        return f"a list of {_plural(inside[0])}"
    return WORDS.get(kind, f"a {getattr(kind, 'kind', kind)}")


def _plural(kind: Any) -> str:
    return (
        _words(kind).removeprefix("a ") + "s" if kind in (int, float, str, Path) else _words(kind)
    )


def _shown(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}[value] if _is_word(value) else repr(value)


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _hint(value: Any, kind: Any) -> str:
    """A cure where one can be guessed: a near choice, or a text that YAML has turned into more."""
    choices = [x for k in options(kind) if get_origin(k) is Literal for x in get_args(k)]
    near = get_close_matches(str(value), [str(c) for c in choices], n=1)
    if near:
        return f". Did you mean '{near[0]}'?"
    if isinstance(value, bool) and (str in options(kind) or choices):
        return "; YAML reads the bare words on, off, yes and no as true and false: put it in quotes"
    if isinstance(value, int | float) and str in options(kind):
        return "; put it in quotes to have a text"
    return ""
