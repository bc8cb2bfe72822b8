"""Interpolation: `${key.path}` and `${oc.env:NAME}` in a recipe's values, and nothing else.

OmegaConf's own would call any resolver, and answers whole maps with the secrets inside them.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from actionkit.recipe import Key

MAX_VALUES = 100_000  # a few lines that name each other could make a huge tree
BRACES = re.compile(r"\$\{([^{}]*)\}")
KEY_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
ENVIRONMENT = re.compile(r"oc\.env:([A-Za-z_]\w*)(?:,([^{}$]*))?")


def fill(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[tuple[Key, str]]]:
    """Values filled in, the same with `${oc.env:NAME}` left as it is, and what cannot be filled.

    The latter as (key, sentence); the value there stays as it was written.
    """
    filler = _Filler(values)
    own, shown = filler.tree(values, ())
    return own, shown, filler.problems


def parse(text: str) -> Any:
    """A value as OmegaConf reads it from a command line; interpolation stays as it is.

    Raises ValueError with the reason where it is none.
    """
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


class _Filler:
    """Every answer is double: the value, and what may be shown of it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.problems: list[tuple[Key, str]] = []
        self.count = 0

    def tree(self, value: Any, key: Key) -> tuple[Any, Any]:
        """A value of the recipe, and all below it."""
        if isinstance(value, dict | list):
            return _split(value, lambda part, item: self.tree(item, (*key, part)))
        try:
            return self.filled(value, ())
        except (LookupError, RecursionError) as error:
            self.problems.append((key, str(error)))
            return value, value

    def filled(self, value: Any, inside: tuple[str, ...]) -> tuple[Any, Any]:
        """A value; `inside` are the names that led to it. Raises LookupError with a sentence."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise LookupError(f"is too large: more than {MAX_VALUES} values by interpolation")
        if isinstance(value, dict | list):
            return _split(value, lambda _, item: self.filled(item, inside))
        if not isinstance(value, str) or "${" not in value:
            return value, value
        if whole := BRACES.fullmatch(value):
            own, shown = self.name(whole[1], inside)
            return (_read(own) if ENVIRONMENT.fullmatch(whole[1]) else own), shown
        if "${" in BRACES.sub("", value):
            raise LookupError(f"{value!r} is not closed, or is nested; write ${{key.path}}")
        found = {text: self.name(text, inside) for text in BRACES.findall(value)}
        if any(isinstance(own, dict | list) for own, _ in found.values()):
            raise LookupError("a map or a list cannot stand inside a text")
        own, shown = (
            BRACES.sub(lambda match, side=side: str(found[match[1]][side]), value)  # type: ignore[misc]
            for side in (0, 1)
        )
        return own, shown

    def name(self, text: str, inside: tuple[str, ...]) -> tuple[Any, Any]:
        """What `${text}` stands for."""
        if text in inside:
            raise LookupError(f"goes round in a circle: {' -> '.join((*inside, text))}")
        if variable := ENVIRONMENT.fullmatch(text):
            content = os.environ.get(*variable.groups())
            if content is None:
                raise LookupError(f"the environment variable {variable[1]} is not set")
            return content, f"${{{text}}}"
        if not KEY_PATH.fullmatch(text):
            raise LookupError(
                f"'${{{text}}}' is refused; only ${{key.path}} and ${{oc.env:NAME}} are known"
            )
        at: Any = self.values
        try:
            for part in text.split("."):
                at = at[int(part) if isinstance(at, list) else part]
        except (LookupError, TypeError, ValueError):
            raise LookupError(f"'${{{text}}}' names nothing in the recipe") from None
        return self.filled(at, (*inside, text))


def _split(value: Any, both: Any) -> tuple[Any, Any]:
    """A container of pairs as a pair of containers."""
    if isinstance(value, dict):
        pairs = {name: both(name, item) for name, item in value.items()}
        return {k: own for k, (own, _) in pairs.items()}, {k: s for k, (_, s) in pairs.items()}
    items = [both(index, item) for index, item in enumerate(value)]
    return [own for own, _ in items], [shown for _, shown in items]


def _read(text: str) -> Any:
    """A variable's content, read like a command line where it can be, else as it is."""
    try:
        return parse(text)
    except ValueError:
        return text
