"""What stands around a network: losses, evaluation, metrics, optimizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import timm.optim
import torch
from torch import nn

from actionkit.builder.components import BrokenError, Components
from actionkit.builder.data import Stages
from actionkit.builder.network import Built
from actionkit.contracts import Aggregator, Classes, Features, Loss, Metric, Shape
from actionkit.evaluation.protocol import Protocol
from actionkit.grammar import Evaluation, Node, Optimizer, Plan
from actionkit.network import SCORES, freeze_beyond
from actionkit.recipe import Key, Problem, Tree, dotted
from actionkit.tasks.recognition import System
from actionkit.training.engine import problems
from actionkit.training.optimizer import make_optimizer, parameter_groups, scaled


def build_system(
    components: Components,
    plan: Plan,
    tree: Tree,
    built: Built,
    stages: Stages,
    classes: Classes,
    modalities: Sequence[str],
) -> System:
    """All that a task needs. Raises BrokenError, having noted everything that is wrong."""
    before = len(components.problems)
    mixed = any(transform.mixes for transform in stages.train.per_batch)
    losses = _losses(components, plan.loss, built, mixed)
    _leave_to_fits(components, plan.loss, built)
    protocol = _protocol(components, plan.evaluation, classes)
    metrics = _metrics(components, plan.evaluation, built, classes)
    _check_optimizer(components, plan.optimizer, tree, built)
    for key, text in problems(plan, built.network):
        problem = Problem(dotted(key), tree.place(key), text, static=False)
        components.problems.append(problem)
    if len(components.problems) > before or protocol is None:
        raise BrokenError
    return System(
        network=built.network,
        losses=losses,
        weights={name: node.reserved.get("weight", 1.0) for name, node in plan.loss.items()},
        heads=built.heads,
        protocol=protocol,
        metrics=metrics,
        train_transforms=stages.train.per_batch,
        eval_transforms=stages.eval.per_batch,
        optimizer=scaled(plan.optimizer, plan.data.batch),
        rate_factors=components.rate_factors,
        keys={part: key for key, part in components.made.items()},
        seed=plan.seed,
        classes=classes,
        modalities=modalities,
    )


def _losses(
    components: Components, nodes: dict[str, Node], built: Built, mixed: bool
) -> dict[str, Loss]:
    losses = {}
    for name, node in nodes.items():
        if name not in built.heads:
            known = list(built.heads)
            near = get_close_matches(name, known, n=1) or known
            text = f"the network gives no scores '{name}'; write one of {', '.join(near)}"
            components.note(node, text)
            continue
        try:
            losses[name] = components.make(node, Loss)
        except BrokenError:
            continue
        if mixed and not _takes_shares(losses[name]):
            text = f"'{node.use}' takes no shares of classes, which transforms that mix clips give"
            components.note(node, f"{text}; use cross_entropy, or leave these out")
    return losses


def _takes_shares(loss: Loss) -> bool:
    """Whether it takes targets [B, K] float; only tried on a real device."""
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    if mask.is_meta:
        return True
    features = Features(torch.zeros(1, 1, 1, 2, 1, 1), mask, log_prob=torch.zeros(1, 1, 1))
    try:
        copy.deepcopy(loss)(features, torch.full((1, 2), 0.5), mask)  # what it learns is forgotten
    except (ValueError, RuntimeError, IndexError, TypeError):
        return False
    return True


def _leave_to_fits(components: Components, losses: dict[str, Node], built: Built) -> None:
    """Freezes what no loss teaches, as none does behind a part that is fitted after the training.

    Notes a head that is left without any way to learn.
    """
    network = built.network
    late, paths = network.late(), network.paths()
    if not late:
        return
    heads = {name: path[-1] for name, path in paths.items() if name not in late}
    trainable = [name for name, head in heads.items() if _trainable(head)]
    freeze_beyond(network, [name for name in losses if name in heads])
    for name in trainable:
        if not _trainable(heads[name]):
            text = (
                f"'{name}' learns nothing, since every loss stands behind a part that is fitted "
                f"after the training; write a loss on '{name}', or freeze its head"
            )
            components.note(next(iter(losses.values())), text)


def _trainable(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())


def _protocol(components: Components, evaluation: Evaluation, classes: Classes) -> Protocol | None:
    several = isinstance(classes, Mapping)
    shape = Shape(None, None if several else len(classes), 1, 1)
    try:
        steps = components.make(evaluation.steps, Aggregator, shape)
    except BrokenError:
        return None
    if steps.out.steps != 1:
        text = f"'{evaluation.steps.use}' leaves several steps, where one score a view is wanted"
        components.note(evaluation.steps, text)
        return None
    return Protocol(steps, evaluation.views, evaluation.of)


def _metrics(
    components: Components, evaluation: Evaluation, built: Built, classes: Classes
) -> dict[str, dict[str, Metric]]:
    heads, network = built.heads, built.network
    if SCORES in heads and network.fusion is None and network.tail is None:
        heads = {SCORES: heads[SCORES]}  # the only stream's scores are the network's
    metrics: dict[str, dict[str, Metric]] = {SCORES: {}} if SCORES in heads else {}
    for name, head in heads.items():
        names = classes[head] if isinstance(classes, Mapping) else classes
        metrics.setdefault(name, {})
        for node in evaluation.metrics:
            try:
                metrics[name][node.use] = components.make(node, Metric, names)
            except BrokenError:
                continue
    return metrics


def _check_optimizer(components: Components, settings: Optimizer, tree: Tree, built: Built) -> None:
    known = [str(name) for name in timm.optim.list_optimizers()]
    text = ""
    key: Key = ("optimizer", "use")
    if settings.use is None or settings.lr is None:
        return  # wrong values, said already
    if settings.use not in known:
        near = get_close_matches(settings.use, known, n=3)
        cure = (
            f"Did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"Known are {', '.join(known)}"
        )
        text = f"there is no optimizer '{settings.use}'. {cure}"
    elif not 0 <= (settings.schedule.warmup or 0) < 1:
        text = "is a share of the training: expected 0 or more and less than 1"
        key = ("optimizer", "schedule", "warmup")
    elif not _trainable(built.network):
        if not built.network.fits():
            text, key = "everything is frozen: nothing is left to train", ("model",)
    else:
        try:
            groups = parameter_groups(built.network, settings, components.rate_factors)
            make_optimizer(groups, settings)
        except Exception as error:
            text = f"'{settings.use}' cannot be made: {error}"
    if text:
        problem = Problem(dotted(key), tree.place(key), text, static=False)
        components.problems.append(problem)
