"""What options a component takes, read from its source without importing it.

The keyword-only, annotated parameters of the constructor are the schema. Reading them from the
source keeps a recipe's check free of torch and of every plugin's import.
"""

from __future__ import annotations

import ast
import functools
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

from actionkit.registry import BrokenComponentError, Entry

UNREADABLE = (LookupError, SyntaxError, ValueError, ImportError)  # what reading a source can raise


class Nested(NamedTuple):
    """The type of a parameter annotated `Make[kind]`: a node, or a list of nodes, of that kind."""

    kind: str

    def __call__(self) -> None:
        """Never called: Python 3.10 takes nothing into a Union that could not be."""


class Parameter(NamedTuple):
    """One option of a component."""

    name: str
    type: Any
    required: bool
    default: str = ""  # as written in the source


@functools.cache
def parameters(entry: Entry) -> dict[str, Parameter]:
    """The options of a component by name. Raises BrokenComponentError where they cannot be read."""
    module, _, name = entry.target.partition(":")
    try:
        arguments = _constructor(module, name)
        options = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        return {option.arg: _parameter(option, default) for option, default in options}
    except UNREADABLE as error:
        raise BrokenComponentError(
            f"'{entry.name}' comes from {entry.distribution} {entry.version}, but the source of "
            f"{entry.target} cannot be read: {error}"
        ) from error


def _parameter(option: ast.arg, default: ast.expr | None) -> Parameter:
    kind = Any if option.annotation is None else _type(option.annotation)
    return Parameter(option.arg, kind, default is None, ast.unparse(default) if default else "")


def summary(entry: Entry) -> str:
    """First line of a component's docstring, read without importing it; empty if there is none."""
    try:
        return source(entry)[2].partition("\n")[0]
    except UNREADABLE:
        return ""


def source(entry: Entry) -> tuple[str, int, str]:
    """File, line and docstring of a component whose options can be read."""
    module, _, name = entry.target.partition(":")
    node = _classes(module)[name]
    return str(_spec(module).origin), node.lineno, ast.get_docstring(node) or ""


def _constructor(module: str, name: str) -> ast.arguments:
    """The arguments of `name.__init__`, its own or of the nearest base class in the same module."""
    classes = _classes(module)
    if name not in classes:
        raise LookupError(f"{module} defines no class {name}; register the module that does")
    pending = [name]
    while pending:
        node = classes.pop(pending.pop(0))
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return item.args
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        pending += [base for base in bases if base in classes and base not in pending]
    return ast.arguments([], [], None, [], [], None, [])


def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {n.name: n for n in ast.parse(_text(module)).body if isinstance(n, ast.ClassDef)}


def package_folder(module: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    try:
        locations = _spec(module).submodule_search_locations
    except LookupError:
        return None
    return Path(next(iter(locations))) if locations else None


@functools.cache
def _text(module: str) -> str:
    text = getattr(_spec(module).loader, "get_source", lambda _: None)(module)
    if text is None:
        raise LookupError(f"{module} has no Python source")
    return text


def _spec(module: str) -> ModuleSpec:
    """Where a module is. Its packages are looked up one by one, since find_spec imports them."""
    path, spec, parts = None, None, module.split(".")
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        spec = next((s for f in finders if (s := f.find_spec(name, path)) is not None), None)
        if spec is None:
            raise LookupError(f"no module named {name}")
        path = spec.submodule_search_locations
    assert spec is not None  # noqa: S101  split() gives at least one part
    return spec


SIMPLE: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Path": Path}
SEQUENCES = {"list": list, "List": list, "Sequence": list, "tuple": tuple, "Tuple": tuple}
MAPPINGS = ("dict", "Dict", "Mapping")


def _type(node: ast.expr) -> Any:
    """An annotation as a typing object; what is not understood counts as Any."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _type(ast.parse(node.value, mode="eval").body)
        return None
    if isinstance(node, ast.BinOp):
        return Union[_type(node.left), _type(node.right)]  # noqa: UP007  built at run time
    if isinstance(node, ast.Subscript):
        return _generic(_last_name(node.value), node.slice)
    name = _last_name(node)
    return SEQUENCES.get(name) or SIMPLE.get(name, dict if name in MAPPINGS else Any)


def _generic(name: str, inner: ast.expr) -> Any:
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return Literal[tuple(ast.literal_eval(item) for item in items)]
    if name == "Make":
        return Nested(_last_name(inner))
    inside = [... if isinstance(i, ast.Constant) and i.value is ... else _type(i) for i in items]
    if name in ("Optional", "Union"):
        members = [*inside, None] if name == "Optional" else inside
        return Union[tuple(members)]  # noqa: UP007  built at run time
    if name in SEQUENCES:
        return types.GenericAlias(SEQUENCES[name], tuple(inside))
    return types.GenericAlias(dict, tuple(inside)) if name in MAPPINGS else Any


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
