"""From a recipe to network, data and task: `blueprint` looks, `build` makes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from actionkit import registry
from actionkit.builder.components import BrokenError, Components
from actionkit.builder.data import Stages, build_data, build_datasets, build_stages
from actionkit.builder.network import Built, build_network
from actionkit.builder.system import build_system
from actionkit.contracts import Dataset
from actionkit.data.module import DataModule
from actionkit.grammar import Plan
from actionkit.recipe import Problem, RecipeError, Tree
from actionkit.tasks.recognition import System
from actionkit.validate import read

UNKNOWN_CLASSES = ("a", "b")  # stand for a dataset's where there is none to ask


@dataclass
class Blueprint:
    """A recipe as built on the meta device: all that is wrong, and what could be derived."""

    tree: Tree
    plan: Plan
    problems: list[Problem]
    components: Components
    datasets: dict[str, Dataset] = field(default_factory=dict)
    built: Built | None = None
    stages: Stages | None = None
    loaded: list[str] = field(default_factory=list)  # what `weights` took, in words

    def require(self) -> None:
        """Raises RecipeError with all problems, if there are any."""
        if self.problems:
            raise RecipeError(self.problems)


def blueprint(source: str | Path, overrides: Iterable[str] = (), *, data: bool = True) -> Blueprint:
    """Builds a recipe on the meta device: no weights, no clip, no GPU; problems are collected.

    Without `data` the dataset is not asked either, and has two unknown classes.
    """
    tree, plan, problems = read(source, overrides)
    found = Blueprint(tree, plan, problems, Components())
    if data:
        with suppress(BrokenError):  # the network can be looked at without
            found.datasets = build_datasets(found.components, plan.data)
    with torch.device("meta"), suppress(BrokenError):
        _assemble(found)
    found.problems += found.components.problems
    return found


def build(found: Blueprint) -> tuple[System, DataModule]:
    """The real thing: network with weights, data module. Raises RecipeError with all problems."""
    found.require()
    plan, components = found.plan, Components()
    whole = Blueprint(found.tree, plan, [], components, found.datasets)
    torch.manual_seed(plan.seed)  # initial weights are a function of the seed
    try:
        system, stages = _assemble(whole)
        data = build_data(
            components,
            plan.data,
            found.datasets,
            stages,
            views_per_item=plan.evaluation.views_per_item,
            seed=plan.seed,
        )
    except BrokenError as error:
        raise RecipeError(components.problems) from error
    if components.problems:
        raise RecipeError(components.problems)
    found.loaded = components.loaded
    return system, data


def _assemble(found: Blueprint) -> tuple[System, Stages]:
    """Everything but the loaders, on torch's default device."""
    components, plan = found.components, found.plan
    dataset = found.datasets.get("train")
    modalities = dataset.modalities if dataset else ("rgb",)
    classes = dataset.classes if dataset else UNKNOWN_CLASSES
    stages = found.stages = build_stages(components, plan.data, modalities)
    found.built = build_network(components, plan.model, found.tree, stages, classes)
    system = build_system(components, plan, found.tree, found.built, stages, classes)
    system.recipe = record(found.tree)
    return system, stages


def record(tree: Tree) -> dict[str, Any]:
    """A recipe as it is kept in run folder and checkpoint: plain, with versions, no secrets."""
    owners = {e.distribution: e.version for e in registry.entries()}
    libraries = {name: version(name) for name in ("torch", "lightning", "timm")}
    return {"name": tree.name, "recipe": tree.public, "versions": {**owners, **libraries}}
