"""All that metadata and source tell about a component, as plain containers. Imports none."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from actionkit import registry, schema
from actionkit.grammar import Plan, Slot
from actionkit.registry import OWN, Entry
from actionkit.values import options

YAML_TYPES = {
    int: "int", float: "number", bool: "true | false", str: "text", Path: "path", list: "list",
    tuple: "list", dict: "map", None: "null", type(None): "null", Any: "anything",
}  # fmt: skip


def component(entry: Entry) -> dict[str, Any]:
    """Everything about one component; `broken` says why its source cannot be read, if it cannot."""
    row: dict[str, Any] = {
        "group": entry.group,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "target": entry.target,
        "file": "",
        "line": 0,
        "doc": "",
        "options": [],
        "places": [place for place, _ in places(entry.group)],
        "yaml": "",
        "note": _note(entry),
        "broken": "",
    }
    try:
        known = list(schema.parameters(entry).values())
        row["file"], row["line"], row["doc"] = schema.source(entry)
    except registry.BrokenComponentError as error:
        return row | {"broken": str(error)}
    said = sections(row["doc"]).get("Args", {})
    own = [
        {
            "name": option.name,
            "type": written_type(option.type),
            "required": option.required,
            "default": _written(option.default),
            "text": said.get(option.name, ""),
        }
        for option in known
    ]
    reserved = _reserved(entry.group, [option.name for option in known])
    return row | {"options": own + reserved, "yaml": _line(entry, own)}


# ---------------------------------------------------------------------- what a recipe may write


def places(group: str) -> list[tuple[str, Slot]]:
    """Where a recipe takes components of a group; NAME stands for any stream."""
    return [(place, slot) for place, slot in _slots(Plan, "") if group in slot.groups]


def _slots(kind: Any, above: str) -> Iterator[tuple[str, Slot]]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        place = f"{above}{name}"
        if get_origin(hint) is Annotated:
            yield from ((place, slot) for slot in get_args(hint)[1:] if isinstance(slot, Slot))
        elif get_origin(hint) is dict:
            inner = get_args(hint)[1]
            yield from _slots(inner, f"{place}.NAME.") if dataclasses.is_dataclass(inner) else ()
        elif dataclasses.is_dataclass(hint):
            yield from _slots(hint, f"{place}.")


KEYS = {
    "weights": "a checkpoint to start from, FILE or FILE#prefix",
    "freeze": "true, or the first so many stages",
    "lr": "factor on the learning rate",
    "weight": "factor of this loss in the sum",
}


def _reserved(group: str, own: list[str]) -> list[dict[str, Any]]:
    """The keys that a node of this group takes beside its own, as options."""
    taken = {name: kind for _, slot in places(group) for name, kind in slot.reserved.items()}
    row = {"required": False, "default": "", "text": ""}
    return [
        row | {"name": name, "type": written_type(kind), "text": KEYS.get(name, "")}
        for name, kind in taken.items()
        if name not in own
    ]


def written_type(kind: Any) -> str:
    """A type as a recipe writes it: `int | null`, `[number, number]`, `mean | max`."""
    members = list(options(kind))
    if len(members) > 1:
        return " | ".join(dict.fromkeys(written_type(member) for member in members))
    inside = get_args(kind)
    if get_origin(kind) is Literal:
        return " | ".join(_yaml(choice) for choice in inside)
    if get_origin(kind) in (list, tuple) and inside:
        items = [written_type(item) for item in inside if item is not ...]
        endless = get_origin(kind) is list or inside[-1] is ...
        return f"[{', '.join(items)}{', ...' if endless else ''}]"
    if get_origin(kind) is dict and inside:
        return f"{{{': '.join(written_type(item) for item in inside)}}}"
    if isinstance(kind, schema.Nested):
        return f"{kind.kind.lower()}, as a node"
    return YAML_TYPES.get(kind, "anything")


def _written(default: str) -> str:
    """A default's source as YAML, where it is a plain value."""
    try:
        return _yaml(ast.literal_eval(default))
    except (ValueError, SyntaxError, TypeError):
        return default


def _yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value))  # tuples are lists
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _line(entry: Entry, own: list[dict[str, Any]]) -> str:
    """A node to paste, with `...` for each option that must be given."""
    required = [option["name"] for option in own if option["required"]]
    if not required:
        return _use(entry)
    return f"{{use: {_use(entry)}, {', '.join(f'{name}: ...' for name in required)}}}"


def _use(entry: Entry) -> str:
    """The name a recipe writes: bare where that is enough."""
    try:
        enough = registry.find(entry.group, entry.name) == entry
    except registry.UnknownComponentError:
        enough = False
    return entry.name if enough else f"{entry.distribution}:{entry.name}"


def _note(entry: Entry) -> str:
    """What to know where several distributions have a component of this name."""
    same = [e.distribution for e in registry.entries() if e[:2] == entry[:2]]
    others = " and ".join(owner for owner in same if owner != entry.distribution)
    if not others:
        return ""
    if entry.distribution == OWN:
        return f"{others} has one of this name, too; the bare name means this one"
    whose = f"{OWN}'s" if OWN in same else "refused"
    return f"{others} has one of this name, too; the bare name is {whose}: write {_use(entry)}"


# -------------------------------------------------------------------------------------- recipes


def recipes() -> list[dict[str, Any]]:
    """Every installed recipe with its comment header."""
    from actionkit.recipe import recipe_folders, recipe_names

    found: list[dict[str, Any]] = []
    for owner, folder in recipe_folders().items():
        for name, path in recipe_names(folder).items():
            taken = any(row["name"] == name for row in found)  # then that is what the name means
            row = {"group": "recipes", "name": name, "distribution": owner}
            use = f"{owner}:{name}" if taken else name
            found.append(row | {"use": use, "file": str(path), "doc": _comment(path)})
    return found


def _comment(path: Path) -> str:
    """The comment a file begins with, up to the first line that is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    header = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return "\n".join(line.lstrip("#").removeprefix(" ") for line in header).strip()


# ----------------------------------------------------------------------------------- docstrings

_HEADING = re.compile(r"^(Args|Raises|Returns|Yields|Attributes):$", re.MULTILINE)
_ITEM = re.compile(r"^ {4}(\S[^:\n]*): +", re.MULTILINE)


def sections(doc: str) -> dict[str, Any]:
    """A docstring (Google's style): "" -> the text before, heading -> {name: what it says}."""
    text, *rest = _HEADING.split(doc)
    found: dict[str, Any] = {"": text.strip()}
    for heading, body in zip(rest[::2], rest[1::2], strict=True):
        _, *items = _ITEM.split(body)
        found[heading] = {
            name: " ".join(what.split()) for name, what in zip(items[::2], items[1::2], strict=True)
        }
    return found


def paragraphs(text: str) -> list[str]:
    """Paragraphs without their line breaks; what is indented or listed keeps its lines."""
    blocks = re.split(r"\n\s*\n", text)
    kept = re.compile(r"^(\s|[-*|+] |\d+\. )", re.MULTILINE)
    return [b if kept.search(b) else " ".join(b.split()) for b in blocks if b.strip()]
