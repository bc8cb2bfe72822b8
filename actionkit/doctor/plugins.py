"""Components of all distributions: importable, readable, unique, made for this actionkit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import Distribution
from itertools import groupby

from actionkit import registry, schema
from actionkit.doctor import installed
from actionkit.doctor.result import Result, cause, fault, ok, warning
from actionkit.registry import GROUPS, OWN, Entry, normalise


def components() -> Iterator[Result]:
    """Every component can be imported and its options can be read, distribution by distribution."""
    dists = installed.concerned()
    for owner, group in groupby(registry.entries(), lambda entry: entry.distribution):
        entries = list(group)
        broken: dict[str, list[str]] = {}
        for entry in entries:
            if reason := _broken(entry):
                broken.setdefault(reason, []).append(entry.name)
        for reason, names in broken.items():
            yield fault(owner, f"{', '.join(names)}: {reason}", _repair(dists[owner]))
        if not broken:
            count = f"{len(entries)} component{'' if len(entries) == 1 else 's'}"
            yield ok(owner, f"{entries[0].version}, {count}; all are importable and readable")


def _broken(entry: Entry) -> str:
    """Why a component cannot be used; empty if it can."""
    if entry.group == "recipes":
        found = schema.package_folder(entry.target)
        return "" if found and found.is_dir() else f"there is no package {entry.target}"
    try:
        registry.load(entry)
        schema.parameters(entry)
    except registry.BrokenComponentError as error:
        return cause(error.__cause__ or error)
    return ""


def _repair(dist: Distribution) -> str:
    again = installed.reinstall(dist)
    name = dist.metadata["Name"]
    return again if normalise(name) == OWN else f"{again}, or: pip uninstall {name}"


def names() -> Iterator[Result]:
    """Names that several distributions give: ours win, others must be written in full."""
    by_name = sorted(registry.entries(), key=lambda entry: entry[:2])
    for (group, name), same in groupby(by_name, lambda entry: entry[:2]):
        owners = [entry.distribution for entry in same]
        others = [owner for owner in owners if owner != OWN]
        if group == "recipes" or len(owners) == 1:
            continue
        full = " or ".join(f"'{owner}:{name}'" for owner in others)
        whose = f"the bare name is {OWN}'s" if OWN in owners else "the bare name is refused"
        text = f"{registry.singular(group)} of {' and '.join(owners)}; {whose}"
        yield warning(name, text, f"write {full} in recipes")


def groups() -> Iterator[Result]:
    """Entry points that actionkit does not see: an unknown group, or a name no recipe can use."""
    for owner, dist in installed.concerned().items():
        for point in installed.points(dist):
            group = point.group.removeprefix(installed.PREFIX)
            if group not in GROUPS:
                near = get_close_matches(group, GROUPS, n=1, cutoff=0.5)
                cure = (
                    f"actionkit.{near[0]}" if near else f"one of actionkit.{{{','.join(GROUPS)}}}"
                )
                text = f"{point.name} is registered in {point.group}, which is no group"
                yield warning(owner, text, f"its author should write {cure}")
            elif not re.fullmatch(r"[a-z][a-z0-9_]*", point.name):
                text = f"{point.group} {point.name!r} is no name: lower case, digits, underscores"
                yield warning(owner, text, "its author should rename it")


def needs() -> Iterator[Result]:
    """What plugins need, this version of actionkit above all."""
    for owner, dist in installed.concerned().items():
        for lack in installed.unmet(dist) if owner != OWN else ():
            name, wanted = lack.requirement.name, lack.requirement.specifier
            cure = f"pip install '{name}{wanted}'"
            if normalise(name) == OWN and installed.folder(dist) is None:
                cure = f"pip install --upgrade {owner}, or: {cure}"
            yield fault(owner, f"{dist.version}: {lack}", cure)
