"""From a recipe to network, data and task: `blueprint` looks, `build` makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from torch import nn

from actionkit import registry
from actionkit.builder.components import BrokenError, Components
from actionkit.builder.data import Stages, build_datasets, build_stages
from actionkit.builder.network import Built, build_network
from actionkit.builder.system import build_system
from actionkit.contracts import Dataset
from actionkit.data.module import DataModule
from actionkit.grammar import Plan
from actionkit.recipe import Problem, RecipeError, Tree
from actionkit.tasks.recognition import Recognition
from actionkit.training.loggers import CSV
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
    made: dict[str, nn.Module] = field(default_factory=dict)  # by key, behind `build`

    def require(self) -> None:
        """Raises RecipeError with all problems, if there are any."""
        if self.problems:
            raise RecipeError(self.problems)


def blueprint(
    source: str | Path,
    overrides: Iterable[str] = (),
    *,
    data: bool = True,
    datasets: Mapping[str, Dataset] | None = None,
    trained: bool = False,
) -> Blueprint:
    """Builds a recipe on the meta device: no weights, no clip, no GPU; problems are collected.

    Without `data` the dataset is not asked either, and has two unknown classes. Given `datasets`
    stand in the place of the recipe's own. Where a checkpoint follows (`trained`), the weights to
    start from are neither looked for nor loaded.
    """
    own = datasets is None
    tree, plan, problems = read(source, overrides, without="" if own else "data.dataset")
    components = Components(trained=trained)
    found = Blueprint(tree, plan, problems, components, dict(datasets or {}))
    if data and own:
        with suppress(BrokenError):  # the network can be looked at without
            found.datasets = build_datasets(found.components, plan.data)
    with torch.device("meta"), suppress(BrokenError):
        _assemble(found)
    found.problems += found.components.problems
    return found


def build(found: Blueprint) -> tuple[Recognition, DataModule]:
    """The real thing: task with its network and weights, data module.

    Raises RecipeError with all problems.
    """
    found.require()
    plan = found.plan
    components = Components(trained=found.components.trained)
    whole = Blueprint(found.tree, plan, [], components, found.datasets)
    torch.manual_seed(plan.seed)  # initial weights are a function of the seed
    with suppress(BrokenError):
        task = _assemble(whole)
    whole.problems += whole.components.problems
    whole.require()
    stages = whole.stages
    assert stages is not None and stages.sources is not None  # noqa: S101, PT018  no problems
    found.loaded, found.made = whole.components.loaded, whole.components.made
    data = DataModule(
        found.datasets,
        stages.sources,
        stages.train,
        stages.eval,
        batch=plan.data.batch,
        workers=plan.data.workers,
        views_per_item=plan.evaluation.views_per_item,
        balance=plan.data.balance,
        seed=plan.seed,
    )
    return task, data


def build_loggers(found: Blueprint, folder: Path) -> list[Logger]:
    """The loggers of a run in this folder, csv always among them. Raises RecipeError."""
    components = Components()
    try:
        made = [components.make(node, Logger, folder) for node in found.plan.logger]
    except BrokenError as error:
        raise RecipeError(components.problems) from error
    kept = any(isinstance(logger, CSV) for logger in made)
    return made if kept else [CSV(folder), *made]


def _assemble(found: Blueprint) -> Recognition:
    """Everything but the loaders, on torch's default device. Raises BrokenError."""
    components, plan = found.components, found.plan
    dataset = next(iter(found.datasets.values()), None)
    modalities = ("rgb",) if dataset is None else dataset.modalities
    classes = UNKNOWN_CLASSES if dataset is None else dataset.classes
    stages = found.stages = build_stages(components, plan.data, modalities)
    found.built = build_network(components, plan.model, found.tree, stages, classes)
    system = build_system(components, plan, found.tree, found.built, stages, classes, modalities)
    system.recipe = record(found.tree)
    return components.make(plan.task, Recognition, system)


def record(tree: Tree) -> dict[str, Any]:
    """A recipe as it is kept in run folder and checkpoint: plain, with versions, no secrets."""
    owners = {e.distribution: e.version for e in registry.entries()}
    libraries = {name: version(name) for name in ("torch", "lightning", "timm")}
    return {"name": tree.name, "recipe": tree.public, "versions": {**owners, **libraries}}
