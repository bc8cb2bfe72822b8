"""A recipe's text: YAML files, `extends`, overrides and interpolation to one tree with origins.

Nothing here knows what a recipe may say (`grammar.py`) or whether it says it right (`validate.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError

from actionkit import registry, schema
from actionkit.interpolation import fill, parse

Key = tuple[str | int, ...]
COMMAND_LINE = "command line"
SUFFIXES = (".yaml", ".yml")
MAX_NODES = 10_000  # aliases can make a small text into a huge tree
MAX_DEPTH = 100
TAGS = {
    f"tag:yaml.org,2002:{name}"  # plain words can look like dates, and `<<` merges
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge", "timestamp")
}


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
        return _nearest(self.origins, key, self.name)


def _nearest(origins: dict[Key, str], key: Key, default: str) -> str:
    while key not in origins and key:
        key = key[:-1]
    return origins.get(key, default)


def load(recipe: str | Path, overrides: Iterable[str] = ()) -> Tree:
    """Reads a recipe by path or name, its parents, and applies overrides `key.path=value`.

    Raises RecipeError where the text cannot be read; problems that leave a tree to look at are
    collected in `Tree.problems`.
    """
    path = locate(str(recipe))
    values, origins = _read_with_parents(path)
    tree = Tree(path.stem, values, origins, {})
    for override in sorted(overrides, key=_rank):
        tree.problems += _override(tree, override)
    tree.values, tree.public, unfilled = fill(tree.values)
    tree.problems += [Problem(dotted(key), tree.place(key), text) for key, text in unfilled]
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


def recipe_names(folder: Path) -> dict[str, Path]:
    """The recipes in a folder and below, by name; what `sweeps` holds calls recipes."""
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    return {name: path for name, path in names.items() if not name.startswith("sweeps/")}


def locate(recipe: str) -> Path:
    """The file of a recipe: by name (`lrcn`, `ucf101/lrcn`, `their-dist:name`) or by path.

    Raises RecipeError with near names.
    """
    owner, _, name = recipe.rpartition(":")
    owners = [registry.normalise(owner)] if owner else []
    named: dict[str, Path] = {}
    for distribution, folder in recipe_folders().items():
        if not owners or distribution in owners:
            named = {**recipe_names(folder), **named}
    if not recipe.endswith(SUFFIXES) and name in named:
        return named[name]
    near = get_close_matches(name, named, n=3)
    if recipe.endswith(SUFFIXES) or "/" in recipe or os.sep in recipe:
        path = Path(recipe).expanduser()
        if path.is_file():
            return path
        beside = get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        near = [str(path.parent / beside[0])] if beside else near
        what = "this is a folder, not a file" if path.is_dir() else "there is no such file"
        cure = "Look at the path"
    else:
        what = "no recipe goes by this name"
        cure = f"There are: {', '.join(sorted(named))}"
    cure = f"Did you mean {' or '.join(near)}?" if near else cure
    raise RecipeError([Problem("", recipe, f"{what}. {cure}")])


# ------------------------------------------------------------------------------------- reading


def _read_with_parents(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    values, origins = _read(path)
    seen = [path]
    while (parent := values.pop("extends", None)) is not None:
        place = origins.pop(("extends",))
        if not isinstance(parent, str):
            raise RecipeError([Problem("extends", place, "expected one file or name of a recipe")])
        if len(seen) == 3:
            chain = " -> ".join(p.name for p in seen)
            raise RecipeError([Problem("extends", place, f"more than two hops: {chain}")])
        try:
            is_path = parent.endswith(SUFFIXES)
            seen.append(locate(str(seen[-1].parent / parent) if is_path else parent))
        except RecipeError as error:
            raise RecipeError([Problem("extends", place, error.problems[0].text)]) from error
        base, base_origins = _read(seen[-1])
        for key in _replaced(base, values):
            _forget(base_origins, key)
        values, origins = merge(base, values), {**base_origins, **origins}
    return values, origins


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    """One file as plain containers, with the line of every key and item."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None or root.tag.endswith(":null"):
            return {}, {(): f"{path}:1"}
        if not isinstance(root, yaml.MappingNode):
            text = "expected a map with data, model, loss ..."
            raise RecipeError([Problem("", f"{path}:{root.start_mark.line + 1}", text)])
        origins = dict(_marks(root, str(path)))
        return OmegaConf.to_container(OmegaConf.create(text)), origins  # type: ignore[return-value]
    except OSError as error:
        place, reason = str(path), f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        place, reason = f"{path}:{line}", "is not UTF-8 text; save it as UTF-8"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = f"not valid YAML: {error.problem}"
    except GrammarParseError as error:
        key = error.full_key or ""
        place = _nearest(origins, tuple(key.split(".")), str(path))
        reason = f"{key} is not closed; only ${{key.path}} and ${{oc.env:NAME}} are known"
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        first, *_ = str(error).split("\n")
        place, reason = f"{path}:1", f"not valid YAML: {first}"
    raise RecipeError([Problem("", place, reason)])


def _marks(root: yaml.MappingNode, file: str) -> Iterator[tuple[Key, str]]:
    """(key, place) of every value; refuses tags, so that YAML can name nothing but plain values."""
    pending: list[tuple[yaml.Node, Key, yaml.Mark]] = [(root, (), root.start_mark)]
    count = 0
    while pending:
        node, key, mark = pending.pop()
        count += 1
        place = f"{file}:{mark.line + 1}"
        if node.tag not in TAGS:
            tag = node.tag.rpartition("2002:")[2]
            raise RecipeError(
                [Problem(dotted(key), place, f"the tag {tag} is refused; write plain values")]
            )
        if count > MAX_NODES or len(key) > MAX_DEPTH:
            text = f"is too large: more than {MAX_NODES} values, or {MAX_DEPTH} inside one another"
            raise RecipeError([Problem("", place, text)])
        yield key, place
        if isinstance(node, yaml.SequenceNode):
            pending += [(n, (*key, i), n.start_mark) for i, n in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if isinstance(name, yaml.ScalarNode):  # OmegaConf refuses other keys
                    pending.append((value, (*key, name.value), name.start_mark))


def merge(base: Any, delta: Any) -> Any:
    """`delta` over `base`: maps merge, lists and scalars replace, null removes, and a node whose
    `use` changes replaces the whole node.
    """
    if not _merges(base, delta):
        return delta
    merged = {k: v for k, v in base.items() if not (k in delta and delta[k] is None)}
    for key, value in delta.items():
        if value is not None or key not in base:
            merged[key] = merge(base.get(key), value)
    return merged


def _merges(base: Any, delta: Any) -> bool:
    if not isinstance(base, dict) or not isinstance(delta, dict):
        return False
    return "use" not in delta or delta["use"] == base.get("use")


def _replaced(base: Any, delta: Any, key: Key = ()) -> Iterator[Key]:
    """Where `merge` takes nothing of `base`."""
    if not _merges(base, delta):
        yield key
        return
    for name in base.keys() & delta.keys():
        yield from _replaced(base[name], delta[name], (*key, name))


def _forget(origins: dict[Key, str], key: Key) -> None:
    """Drops where the values at and below a key came from, since they are gone."""
    for other in [k for k in origins if k[: len(key)] == key]:
        del origins[other]


# ----------------------------------------------------------------------------------- overrides


def _rank(override: str) -> tuple[bool, int]:
    """Overrides of `use` come first, outer ones before inner: they clear what a node had."""
    *parents, last = override.partition("=")[0].split(".")
    return last != "use", len(parents) if last == "use" else 0


def _override(tree: Tree, text: str) -> Iterator[Problem]:
    """Applies one `key.path=value` to the tree, in place."""
    name, equals, raw = text.partition("=")
    if not equals or not all(name.split(".")):
        yield Problem(text, COMMAND_LINE, "expected an override of the form key.path=value")
        return
    try:
        value = parse(raw)
    except ValueError as error:
        yield Problem(name, COMMAND_LINE, f"{raw!r} is not a value: {error}")
        return
    try:
        at, key = _descend(tree, name.split("."))
    except LookupError as error:
        yield Problem(name, COMMAND_LINE, str(error))
        return
    last: Any = key[-1]
    if isinstance(at, dict) and value is None:
        at.pop(last, None)
    elif isinstance(at, dict) and last == "use" and at.get("use") != value:
        at.clear()  # another component: the old one's options mean nothing to it
        at["use"] = value
        key = key[:-1]
    else:
        at[last] = value
    _forget(tree.origins, key)
    tree.origins[key] = COMMAND_LINE


def _descend(tree: Tree, parts: list[str]) -> tuple[Any, Key]:
    """The container that holds the last part, made where there is none, and the whole key.

    A bare component name on the way becomes a node. Raises LookupError with a sentence.
    """
    at: Any = tree.values
    key: Key = ()
    for part in parts[:-1]:
        index = _index(at, part)
        key = (*key, index)
        if isinstance(at, dict) and at.get(index) is None:
            at[index] = {}
            tree.origins[key] = COMMAND_LINE
        elif isinstance(at[index], str) and "${" in at[index]:
            cure = "change that, or replace it as a whole"
            raise LookupError(f"'{dotted(key)}' is written as {at[index]}; {cure}")
        elif isinstance(at[index], str):
            at[index] = {"use": at[index]}
        at = at[index]
        if not isinstance(at, dict | list):
            raise LookupError(f"there is a plain value at '{dotted(key)}', which has no keys")
    return at, (*key, _index(at, parts[-1]))


def _index(at: Any, part: str | int) -> Any:
    """A part of a key as its container knows it. Raises LookupError for a list without it."""
    if isinstance(at, dict):
        return next((name for name in at if str(name) == part), part)
    if not str(part).isdigit() or int(part) >= len(at):
        places = f"the places 0 to {len(at) - 1}" if at else "no place"
        raise LookupError(f"the list has {places}, not '{part}'; write the whole list")
    return int(part)


def leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every plain value of a tree with its key; a list of plain values counts as one."""
    plain = isinstance(value, list) and not any(isinstance(v, dict | list) for v in value)
    if plain or not isinstance(value, dict | list):
        yield key, value
        return
    for part, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(item, (*key, part))
