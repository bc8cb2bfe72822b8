"""A recipe's tree against the grammar and the components' signatures: all problems at once.

No component is imported. The walk goes on past a broken node, so that one look shows everything.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from actionkit import recipe, registry, schema
from actionkit.grammar import Node, Plan, Slot
from actionkit.recipe import Key, Problem, RecipeError, Tree, dotted
from actionkit.values import MisfitError, fit, nested

NAME = re.compile(r"[a-z][a-z0-9_]*")
NESTED_GROUPS = {
    "Part": ("backbones", "aggregators"), "Backbone": ("backbones",), "Head": ("heads",),
    "Aggregator": ("aggregators",), "Fusion": ("fusions",), "Loss": ("losses",),
    "Dataset": ("datasets",), "Transform": ("transforms",), "Sampler": ("samplers",),
    "Reader": ("readers",), "Metric": ("metrics",),
}  # fmt: skip
T = TypeVar("T")
_NOTHING = object()


def read(
    source: str | Path, overrides: Iterable[str] = (), *, without: str = ""
) -> tuple[Tree, Plan, list[Problem]]:
    """A recipe by path or name, and what is wrong with its text, but for the place `without`.

    Raises RecipeError at once where everything wrong is a matter of YAML and names.
    """
    tree = recipe.load(source, overrides)
    plan, problems = validate(tree)
    if without:
        problems = [p for p in problems if not f"{p.key}.".startswith(f"{without}.")]
    if problems and all(problem.static for problem in problems):
        raise RecipeError(problems)
    return tree, plan, problems


def validate(tree: Tree) -> tuple[Plan, list[Problem]]:
    """The tree as a Plan, and everything that is wrong with it."""
    walk = _Walk(tree)
    plan = walk.section(tree.values, Plan, ())
    said = {problem.key for problem in tree.problems}
    return plan, tree.problems + [problem for problem in walk.problems if problem.key not in said]


class _Walk:
    """Reads values by the fields of the grammar's dataclasses, noting problems on the way."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.problems: list[Problem] = []

    def problem(self, key: Key, text: str, static: bool = True) -> None:
        self.problems.append(Problem(dotted(key), self.tree.place(key), text, static))

    # ------------------------------------------------------------------------------- sections

    def section(self, value: Any, kind: type[T], key: Key) -> T:
        """A dataclass of the grammar from a map; null counts as not written."""
        fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        if not isinstance(value, dict):
            self.problem(key, f"expected a map with {', '.join(fields)}")
            return _blank(kind)
        hints = get_type_hints(kind, include_extras=True)
        meant = [self.unknown((*key, n), n, list(fields)) for n in value if n not in fields]
        found = {}
        for name, rule in fields.items():
            hint, given = hints[name], value.get(name)
            if given is None:
                given = rule.metadata.get("written", rule.default)
                if name in meant and get_origin(hint) is Annotated:
                    given = dataclasses.MISSING  # written under a wrong name
                elif name not in meant and given is dataclasses.MISSING:
                    self.problem(key, f"'{name}' is missing here; add `{name}: ...`")
            blank = given is dataclasses.MISSING
            found[name] = (
                _blank(hint) if blank else self.field(given, hint, (*key, name), rule.default)
            )
            self.least(found[name], rule.metadata.get("least"), (*key, name))
        return kind(**found)

    def least(self, value: Any, least: float | None, key: Key) -> None:
        if least is not None and isinstance(value, int | float) and value < least:
            self.problem(key, f"expected {least} or more, got {value}", static=False)

    def unknown(self, key: Key, name: Any, known: list[str], of: str = "") -> str:
        """Notes an unknown name; gives the known one that was probably meant, or nothing."""
        near = get_close_matches(str(name), known, n=1)
        cure = f"Did you mean '{near[0]}'?" if near else f"Known are: {', '.join(known) or 'none'}"
        what = f"option '{name}' of '{of}'" if of else f"key '{name}'"
        self.problem(key, f"unknown {what}. {cure}", static=not of)
        return near[0] if near else ""

    def field(self, value: Any, hint: Any, key: Key, default: Any = None) -> Any:
        """One value by its annotation: components, a section, a map of sections, or plain."""
        if get_origin(hint) is Annotated:
            return self.slot(value, get_args(hint)[1], key)
        if dataclasses.is_dataclass(hint):
            return self.section(value, hint, key)  # type: ignore[arg-type]
        if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]):
            return self.sections(value, get_args(hint)[1], key)
        return self.plain(value, hint, key, default)

    def sections(self, value: Any, kind: Any, key: Key) -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            self.problem(key, "expected a map of names, at least one")
            return {}
        self.names(value, key)
        return {name: self.section(v, kind, (*key, name)) for name, v in value.items()}

    def plain(self, value: Any, hint: Any, key: Key, default: Any) -> Any:
        """The value as its type has it; the default if it does not fit, or was never filled in."""
        if any(f"{p.key}.".startswith(f"{dotted(key)}.") for p in self.tree.problems):
            return default
        try:
            return fit(value, hint)
        except MisfitError as error:
            self.problem(key, str(error), static=False)
            return default

    def names(self, value: dict[Any, Any], key: Key) -> None:
        for name in value:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                self.problem((*key, name), f"'{name}' is no name; write a text of a-z, 0-9 and _")

    # ----------------------------------------------------------------------------- components

    def slot(self, value: Any, slot: Slot, key: Key) -> Any:
        if slot.form == "one":
            return None if value is None else self.node(value, slot, key)
        if slot.form == "list":
            if isinstance(value, list):
                return [self.node(v, slot, (*key, i)) for i, v in enumerate(value)]
            return [self.node(value, slot, key)]
        if isinstance(value, dict) and "use" not in value:
            if not value and not slot.empty:
                self.problem(key, "expected at least one; leave it out to have the default")
            self.names(value, key)
            return {name: self.node(v, slot, (*key, name)) for name, v in value.items()}
        return {slot.alone: self.node(value, slot, key)}

    def node(self, value: Any, slot: Slot, key: Key) -> Node:
        """One component: a bare name, or a map with `use` and its options."""
        if isinstance(value, str):
            value = {"use": value}
        kind = " or ".join(registry.singular(group) for group in slot.groups)
        result = Node(dotted(key), self.tree.place(key), "?", broken=True)
        if not isinstance(value, dict) or not isinstance(value.get("use"), str):
            self.problem(key, f"expected the name of a {kind}, or a map with 'use: NAME'")
            return result
        result.use = value["use"]
        try:
            result.entry = registry.find(slot.groups, result.use)
            known = schema.parameters(result.entry)
        except (registry.UnknownComponentError, registry.BrokenComponentError) as error:
            self.problem((*key, "use") if (*key, "use") in self.tree.origins else key, str(error))
            return result
        self.options(result, value, slot, known, key)
        result.broken = any(p.required and p.name not in result.options for p in known.values())
        return result

    def options(
        self,
        node: Node,
        value: dict[str, Any],
        slot: Slot,
        known: dict[str, schema.Parameter],
        key: Key,
    ) -> None:
        """Fills a node's options and reserved keys from what is written and fits."""
        meant = {"use"}
        for name, given in value.items():
            if name in known:
                self.option(node.options, name, given, known[name].type, (*key, name))
            elif name in slot.reserved:
                self.option(node.reserved, name, given, slot.reserved[name], (*key, name))
            elif name != "use":
                names = [*known, *slot.reserved]
                meant.add(self.unknown((*key, name), name, names, node.use))
        for name, parameter in known.items():
            if parameter.required and name not in value and name not in meant:
                text = f"'{node.use}' needs the option '{name}'"
                self.problem(key, f"{text}; add `{name}: ...`", static=False)

    def option(self, into: dict[str, Any], name: str, value: Any, kind: Any, key: Key) -> None:
        inner = nested(kind)
        if inner is None or value is None:
            found = self.plain(value, kind, key, _NOTHING)
        else:
            found = self.slot(value, Slot(NESTED_GROUPS.get(inner.kind, ()), "list"), key)
        if found is not _NOTHING:
            into[name] = found


def _blank(hint: Any) -> Any:
    """What stands for a value that is missing, misnamed or no map, so that the walk can go on."""
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return hint(**{name: _blank(inner) for name, inner in hints.items()})  # type: ignore[operator]
    origin = get_origin(hint)
    if origin is Annotated:
        slot, unknown = get_args(hint)[1], Node("", "", "?", broken=True)
        return {"one": unknown, "list": [unknown], "named": {slot.alone: unknown}}[slot.form]
    return {} if origin is dict else None
