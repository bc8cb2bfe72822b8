"""Distributions as they are installed: whose are components, what they lack, how to repair them."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement

from actionkit.registry import OWN, normalise

PREFIX = f"{OWN}."


def copies() -> dict[str, list[Distribution]]:
    """Every distribution by its normalised name; the first of several copies is in use."""
    found: dict[str, list[Distribution]] = {}
    places = set()
    for dist in importlib.metadata.distributions():
        if dist.read_text("METADATA") or dist.read_text("PKG-INFO"):  # else a removal's leftovers
            name = normalise(dist.metadata["Name"])
            place = (name, dist.version, site(dist))
            if place not in places:  # sys.path can hold a folder twice
                found.setdefault(name, []).append(dist)
            places.add(place)
    return found


def site(dist: Distribution) -> Path:
    """The folder a distribution is installed in."""
    return Path(str(dist.locate_file(""))).resolve()


def points(dist: Distribution) -> list[EntryPoint]:
    """A distribution's entry points for actionkit, in groups that exist or not."""
    return [point for point in dist.entry_points if point.group.startswith(PREFIX)]


def concerned() -> dict[str, Distribution]:
    """actionkit, if it is installed, and all distributions that register something with it."""
    first = {name: found[0] for name, found in copies().items()}
    return {name: dist for name, dist in first.items() if name == OWN or points(dist)}


class Unmet(NamedTuple):
    """A requirement that the installed packages do not meet."""

    requirement: Requirement
    installed: str | None  # version

    def __str__(self) -> str:
        name, wanted = self.requirement.name, self.requirement.specifier
        if self.installed is None:
            return f"{name}{wanted} is not installed"
        return f"{name} is {self.installed}, but {wanted} is needed"


def requirements(dist: Distribution) -> list[Requirement]:
    """What a distribution needs on this platform, without its extras."""
    found = []
    for text in dist.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(requirement)
    return found


def version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet(dist: Distribution) -> Iterator[Unmet]:
    """Requirements of a distribution that are missing or installed in another version."""
    for requirement in requirements(dist):
        found = version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield Unmet(requirement, found)


def origin(dist: Distribution) -> dict[str, Any]:
    """Where pip has installed a distribution from (PEP 610); empty for a package index."""
    return json.loads(dist.read_text("direct_url.json") or "{}")


def folder(dist: Distribution) -> Path | None:
    """The local folder that a distribution was installed from."""
    found = origin(dist)
    return Path(url2pathname(urlsplit(found["url"]).path)) if "dir_info" in found else None


def editable(dist: Distribution) -> bool:
    """Whether its source folder is in use itself (`pip install -e`)."""
    return bool(origin(dist).get("dir_info", {}).get("editable"))


def reinstall(dist: Distribution) -> str:
    """The command that installs a distribution again, from where it came."""
    source = folder(dist)
    if source is not None and source.is_dir():
        return f"pip install {'-e ' if editable(dist) else ''}{shlex.quote(str(source))}"
    found = origin(dist)
    if "vcs_info" in found:
        return f"pip install --upgrade {shlex.quote(found['vcs_info']['vcs'] + '+' + found['url'])}"
    return f"pip install --upgrade {dist.metadata['Name']}"
