"""Installations that have gone stale: metadata are written when pip runs, code goes on changing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import actionkit
from actionkit.doctor import installed
from actionkit.doctor.result import Result, fault, ok, warning
from actionkit.registry import OWN, normalise

Points = dict[tuple[str, str], str]  # (group, name) -> "module:Class"


def editables() -> Iterator[Result]:
    """Editable installs: their source is there, and registers what the metadata say."""
    toml = _toml()
    for name, (dist, *_) in installed.copies().items():
        source = installed.folder(dist) if installed.editable(dist) else None
        if source is None:
            continue
        ours = name == OWN or bool(installed.points(dist))
        file = source / "pyproject.toml"
        if not file.is_file():
            if ours and not source.is_dir():
                text = f"installed from {source}, which does not exist any more"
                yield fault(name, text, f"pip install -e /its/new/place, or: pip uninstall {name}")
        elif toml is None:
            if ours:
                text = f"Python 3.10 cannot read {file}; it was not compared"
                yield warning(name, text, "pip install tomli")
        else:
            with file.open("rb") as stream:
                project = toml.load(stream).get("project", {})
            if ours or _written(project):
                yield _compared(name, dist, source, project)


def _toml() -> ModuleType | None:
    """Python's TOML reader, which came with 3.11, or the library it was made from."""
    found = next((n for n in ("tomllib", "tomli") if importlib.util.find_spec(n)), None)
    return importlib.import_module(found) if found else None


def _written(project: dict[str, Any]) -> Points:
    """The components that a pyproject.toml registers."""
    return {
        (group, name): target
        for group, points in project.get("entry-points", {}).items()
        if group.startswith(installed.PREFIX)
        for name, target in points.items()
    }


def _compared(name: str, dist: Distribution, source: Path, project: dict[str, Any]) -> Result:
    """Whether pyproject.toml and the metadata of an editable install say the same."""
    dynamic = project.get("dynamic", ())
    known = {(point.group, point.name): point.value for point in installed.points(dist)}
    written = known if "entry-points" in dynamic else _written(project)
    version = project.get("version", dist.version)
    changed = [key for key in known.keys() & written.keys() if known[key] != written[key]]
    different = {
        "not installed": written.keys() - known.keys(),
        "not in pyproject.toml": known.keys() - written.keys(),
        "moved": changed,
    }
    text = "; ".join(f"{what}: {_listed(keys)}" for what, keys in different.items() if keys)
    cure = installed.reinstall(dist)
    if text:
        return fault(name, f"pyproject.toml has changed since it was installed; {text}", cure)
    if version != dist.version:
        text = f"installed as {dist.version}, but its source is {version}"
        return warning(name, text, cure)
    return ok(name, f"{dist.version}, editable, from {source}")


def _listed(keys: Any) -> str:
    """Components, group by group: aggregators fc, lstm, heads linear."""
    parts, last = [], ""
    for group, name in sorted(keys):
        short = group.removeprefix(installed.PREFIX)
        parts.append(name if short == last else f"{short} {name}")
        last = short
    return ", ".join(parts)


def copies() -> Iterator[Result]:
    """Several copies of one distribution on sys.path: metadata of one, code of another."""
    all_copies = installed.copies()
    own = all_copies.get(OWN, [])
    wanted = {normalise(need.name) for dist in own[:1] for need in installed.requirements(dist)}
    for name, found in all_copies.items():
        ours = name == OWN or name in wanted or any(installed.points(dist) for dist in found)
        if ours and len(found) > 1:
            first, *rest = (f"{dist.version} in {installed.site(dist)}" for dist in found)
            cure = (
                f"pip uninstall {name} (until none is left), then: {installed.reinstall(found[0])}"
            )
            yield warning(name, f"{first} hides {', '.join(rest)}", cure)


def code_in_use() -> Iterator[Result]:
    """The imported actionkit is the installed one, not another folder of that name."""
    dist = installed.concerned().get(OWN)
    if dist is None:
        return
    here = Path(str(actionkit.__file__)).resolve().parent.parent
    source = installed.folder(dist) if installed.editable(dist) else installed.site(dist)
    if source is not None and not here.is_relative_to(source.resolve()):
        text = f"the code in use is {here}, but what is installed is {source}"
        cure = f"pip install -e {here}, or start from another folder, or: unset PYTHONPATH"
        yield warning(OWN, text, cure)
