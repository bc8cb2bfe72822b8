"""A recipe's text: YAML files, `extends`, overrides and interpolation to one tree with origins.

Nothing here knows what a recipe may say (`grammar.py`) or whether it says it right (`validate.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actionkit import registry, schema

Key = tuple[str | int, ...]
COMMAND_LINE = "command line"
MAX_NODES = 10_000  # aliases can make a small text into a huge tree
TAGS = {f"tag:yaml.org,2002:{t}" for t in ("map", "seq", "str", "int", "float", "bool", "null")}
TAGS |= {
    "tag:yaml.org,2002:merge",
    "tag:yaml.org,2002:timestamp",
}  # plain words can look like dates
INTERPOLATION = re.compile(r"\$\{([^{}]*)\}")
KEY_PATH = re.compile(r"[A-Za-z_][\w.]*")
ENVIRONMENT = re.compile(r"oc\.env:[A-Za-z_]\w*(,[^{}$]*)?")


class Problem(NamedTuple):
    """Something wrong in a recipe: where in the tree, where it was written, what and the cure."""

    key: str
    place: str
    text: str
    static: bool = True  # of YAML, names and overrides alone; False = of options, shapes or data

    def __str__(self) -> str:
        return (
            f"{self.key} ({self.place}): {self.text}" if self.key else f"{self.place}: {self.text}"
        )


class RecipeError(Exception):
    """A recipe that cannot be used, with all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


def dotted(key: Key) -> str:
    """`('model', 'head', 0)` as `model.head.0`."""
    return ".".join(str(part) for part in key)


@dataclass
class Tree:
    """A recipe's values and where each came from."""

    name: str
    values: dict[str, Any]  # interpolation resolved
    origins: dict[Key, str]  # "file:line", or "command line"
    public: dict[str, Any]  # as `values`, but what came from the environment stays `${oc.env:NAME}`
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: Key) -> str:
        """Where the value at `key`, or the nearest one around it, was written."""
        while key not in self.origins and key:
            key = key[:-1]
        return self.origins.get(key, self.name)


def load(recipe: str | Path, overrides: Iterable[str] = ()) -> Tree:
    """Reads a recipe by path or name, its parents, and applies overrides `key.path=value`.

    Raises RecipeError where the text cannot be read; problems that leave a tree to look at are
    collected in `Tree.problems`.
    """
    path = locate(str(recipe))
    values, origins = _read_with_parents(path)
    tree = Tree(path.stem, values, origins, {})
    for override in sorted(overrides, key=lambda o: not o.partition("=")[0].endswith("use")):
        tree.problems += _override(tree, override)
    tree.problems += _check_interpolation(tree)
    if not tree.problems:
        _resolve(tree)
    return tree


# ------------------------------------------------------------------------------------- finding


def recipe_folders() -> dict[str, Path]:
    """Distribution -> folder of recipes: ours (in a wheel inside the package, in a checkout beside
    it) and those that plugins register as `actionkit.recipes`.
    """
    inside = Path(__file__).parent / "recipes"
    folders = {registry.OWN: inside if inside.is_dir() else inside.parent.parent / "recipes"}
    for entry in registry.entries():
        if entry.group == "recipes" and (folder := schema.package_folder(entry.target)):
            folders[entry.distribution] = folder
    return folders


def locate(recipe: str) -> Path:
    """The file of a recipe: a path if it ends in .yaml or holds a slash, else a registered name.

    Raises RecipeError with near names.
    """
    if recipe.endswith((".yaml", ".yml")) or "/" in recipe or os.sep in recipe:
        path = Path(recipe).expanduser()
        if path.is_file():
            return path
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        cure = f"Did you mean {path.parent / near[0]}?" if near else "Look at the path"
        raise RecipeError([Problem("", recipe, f"there is no such file. {cure}")])
    owner, _, name = recipe.rpartition(":")
    owners = [registry.normalise(owner)] if owner else []
    folders = {k: v for k, v in recipe_folders().items() if not owners or k in owners}
    for folder in folders.values():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    names = sorted(p.stem for folder in folders.values() for p in folder.glob("*.yaml"))
    near = get_close_matches(name, names, n=3)
    cure = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(names)}"
    raise RecipeError([Problem("", recipe, f"no recipe goes by this name. {cure}")])


# ------------------------------------------------------------------------------------- reading


def _read_with_parents(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    values, origins = _read(path)
    seen = [path]
    while (parent := values.pop("extends", None)) is not None:
        place = origins[("extends",)]
        if not isinstance(parent, str):
            raise RecipeError([Problem("extends", place, "expected one file or name of a recipe")])
        if len(seen) == 3:
            chain = " -> ".join(p.name for p in seen)
            raise RecipeError([Problem("extends", place, f"more than two hops: {chain}")])
        is_path = parent.endswith((".yaml", ".yml")) or "/" in parent
        try:
            seen.append(locate(str(seen[-1].parent / parent) if is_path else parent))
        except RecipeError as error:
            raise RecipeError([Problem("extends", place, error.problems[0].text)]) from error
        base, base_origins = _read(seen[-1])
        values, origins = merge(base, values), {**base_origins, **origins}
    return values, origins


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    """One file as plain containers, with the line of every key and item."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        origins = dict(_marks(root, (), str(path))) if root else {}
        values = OmegaConf.to_container(OmegaConf.create(text)) if root else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError([Problem("", place, f"not valid YAML: {error.problem}")]) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = str(error).split("\n")[0]
        raise RecipeError([Problem("", str(path), f"cannot be read: {reason}")]) from error
    if not isinstance(values, dict):
        raise RecipeError([Problem("", f"{path}:1", "expected a map with data, model, loss ...")])
    return values, origins  # type: ignore[return-value]


def _marks(node: yaml.Node, key: Key, file: str) -> Iterator[tuple[Key, str]]:
    """(key, place) of every value; refuses tags, so that YAML can name nothing but plain values."""
    pending, count = [(node, key, node.start_mark)], 0
    while pending:
        node, key, mark = pending.pop()
        count += 1
        place = f"{file}:{mark.line + 1}"
        if node.tag not in TAGS or count > MAX_NODES:
            text = (
                f"the tag {node.tag.rpartition('2002:')[2]} is refused; write plain values"
                if node.tag not in TAGS
                else f"more than {MAX_NODES} values"
            )
            raise RecipeError([Problem(dotted(key), place, text)])
        yield key, place
        if isinstance(node, yaml.SequenceNode):
            pending += [(n, (*key, i), n.start_mark) for i, n in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            pending += [(v, (*key, k.value), k.start_mark) for k, v in node.value]


def merge(base: Any, delta: Any) -> Any:
    """`delta` over `base`: maps merge, lists and scalars replace, null removes, and a node whose
    `use` changes replaces the whole node.
    """
    if not isinstance(base, dict) or not isinstance(delta, dict):
        return delta
    if "use" in delta and delta["use"] != base.get("use"):
        return delta
    merged = {k: v for k, v in base.items() if not (k in delta and delta[k] is None)}
    for key, value in delta.items():
        if value is not None or key not in base:
            merged[key] = merge(base.get(key), value)
    return merged


# ----------------------------------------------------------------------------------- overrides


def _override(tree: Tree, text: str) -> Iterator[Problem]:
    """Applies one `key.path=value` to the tree, in place."""
    name, equals, raw = text.partition("=")
    if not equals or not name:
        yield Problem(text, COMMAND_LINE, "expected an override of the form key.path=value")
        return
    *parents, last = name.split(".")
    at: Any = tree.values
    for depth, part in enumerate(parents):
        try:
            at = _step(at, part)
        except LookupError as error:
            yield Problem(name, COMMAND_LINE, f"{'.'.join(parents[:depth]) or 'it'} {error}")
            return
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))["value"]  # type: ignore[index,call-overload]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        yield Problem(name, COMMAND_LINE, f"{raw!r} is not a value: {str(error).splitlines()[0]}")
        return
    key = tuple(int(p) if p.isdigit() else p for p in (*parents, last))
    if isinstance(at, list):
        if not last.isdigit() or int(last) >= len(at):
            yield Problem(name, COMMAND_LINE, f"the list has only places 0 to {len(at) - 1}")
            return
        at[int(last)] = value
    elif value is None:
        at.pop(last, None)
    elif last == "use" and at.get("use") != value:
        at.clear()  # another component: the old one's options mean nothing to it
        at["use"] = value
        key = key[:-1]
    else:
        at[last] = value
    tree.origins = {k: v for k, v in tree.origins.items() if k[: len(key)] != key}
    tree.origins[key] = COMMAND_LINE


def _step(at: Any, part: str) -> Any:
    """The container at one part of an override's path; a bare component name becomes a node."""
    if isinstance(at, list):
        if not part.isdigit() or int(part) >= len(at):
            raise LookupError(f"is a list with places 0 to {len(at) - 1}, not '{part}'")
        index: Any = int(part)
    else:
        index = part
        at.setdefault(part, {})
    if isinstance(at[index], str):
        at[index] = {"use": at[index]}
    if not isinstance(at[index], dict | list):
        raise LookupError(f"has a plain value at '{part}', which has no keys")
    return at[index]


# ------------------------------------------------------------------------------- interpolation


def leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every plain value of a tree with its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for part, item in items:
        if isinstance(item, dict | list):
            yield from leaves(item, (*key, part))
        else:
            yield (*key, part), item


def _check_interpolation(tree: Tree) -> Iterator[Problem]:
    for key, value in leaves(tree.values):
        if not isinstance(value, str) or "${" not in value:
            continue
        inside = INTERPOLATION.findall(value)
        if not inside or "${" in INTERPOLATION.sub("", value):
            yield Problem(dotted(key), tree.place(key), f"{value!r} is not closed, or is nested")
        for text in inside:
            variable = ENVIRONMENT.fullmatch(text)
            if not variable and not KEY_PATH.fullmatch(text):
                sentence = (
                    f"'${{{text}}}' is refused; only ${{key.path}} and ${{oc.env:NAME}} are known"
                )
                yield Problem(dotted(key), tree.place(key), sentence)
            elif variable and not variable[1] and text.split(":")[1] not in os.environ:
                sentence = f"the environment variable {text.split(':')[1]} is not set"
                yield Problem(dotted(key), tree.place(key), sentence)


def _resolve(tree: Tree) -> None:
    """Fills `values` and `public`; what came from the environment is read like a command line."""
    config = OmegaConf.create(tree.values)
    resolved, public = OmegaConf.create(tree.values), OmegaConf.create(tree.values)
    for key, value in list(leaves(tree.values)):
        if not isinstance(value, str) or "${" not in value:
            continue
        try:
            result = OmegaConf.select(config, dotted(key), throw_on_missing=True)
        except OmegaConfBaseException as error:
            text = str(error).splitlines()[0]
            tree.problems.append(Problem(dotted(key), tree.place(key), text))
            continue
        secret = _comes_from_environment(tree.values, value)
        if secret and INTERPOLATION.fullmatch(value) and isinstance(result, str):
            result = OmegaConf.from_dotlist([f"value={result}"])["value"]
        OmegaConf.update(resolved, dotted(key), result)
        if not secret:
            OmegaConf.update(public, dotted(key), result)
    tree.values = OmegaConf.to_container(resolved)  # type: ignore[assignment]
    tree.public = OmegaConf.to_container(public)  # type: ignore[assignment]


def _comes_from_environment(values: dict[str, Any], text: str) -> bool:
    """Whether an interpolation reads the environment, itself or by the keys it names."""
    for inner in INTERPOLATION.findall(text):
        if inner.startswith("oc.env:"):
            return True
        source = OmegaConf.to_container(OmegaConf.create(values))
        for part in inner.split("."):
            source = source.get(part) if isinstance(source, dict) else None
        named = [source] if isinstance(source, str) else [v for _, v in leaves(source or {})]  # type: ignore[arg-type]
        if any(_comes_from_environment(values, v) for v in named if isinstance(v, str)):
            return True
    return False
