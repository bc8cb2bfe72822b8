"""Optimizer and learning-rate schedule, by timm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import timm.optim
import timm.scheduler
from torch import nn
from torch.optim import Optimizer

from actionkit import grammar
from actionkit.contracts import Backbone
from actionkit.training.plateau import Plateau

WARMUP_FROM = 0.01  # share of the rate


def scaled(settings: grammar.Optimizer, batch: int) -> grammar.Optimizer:
    """The settings with the rate for a batch of so many clips a step, over all devices.

    From the batch that the rate was chosen for it goes linearly (arXiv:1706.02677), or with the
    square root, as is usual for adaptive optimizers.
    """
    if settings.lr_for is None:
        return settings
    return dataclasses.replace(settings, lr=settings.lr * _ratio(settings, batch), lr_for=None)


def told_rate(settings: grammar.Optimizer, batch: int) -> str:
    """The rate in words, as `lr 0.01 x 64 / 256 = 0.0025`."""
    if settings.lr_for is None:
        return f"lr {settings.lr:g}"
    share = f"{batch} / {settings.lr_for}"
    factor = f"sqrt({share})" if settings.lr_rule == "sqrt" else share
    return f"lr {settings.lr:g} x {factor} = {scaled(settings, batch).lr:g}"


def _ratio(settings: grammar.Optimizer, batch: int) -> float:
    ratio = batch / (settings.lr_for or batch)
    return math.sqrt(ratio) if settings.lr_rule == "sqrt" else ratio


def parameter_groups(
    module: nn.Module, settings: grammar.Optimizer, factors: Mapping[nn.Module, float]
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay (none on norms and biases).

    `factors` maps a part to the factor on its learning rate; the innermost part counts. It is
    multiplied with that of a backbone's stage (`layer_decay`), and stands in the group's
    `lr_scale`, so that timm scales warm-up and end of a schedule with it.
    """
    scale = dict.fromkeys(module.parameters(), 1.0)
    depth = _stage_factors(module, settings.layer_decay)
    for part in module.modules():  # outer parts come before inner ones
        if part in factors:
            scale.update(dict.fromkeys(part.parameters(), factors[part]))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in (p for p in module.parameters() if p.requires_grad):
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        factor = scale[parameter] * depth.get(parameter, 1.0)
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": p, "lr": settings.lr, "lr_scale": factor, "weight_decay": wd}
        for (factor, wd), p in groups.items()
    ]


def _stage_factors(module: nn.Module, decay: float | None) -> dict[nn.Parameter, float]:
    """Layer-wise decay (arXiv:2106.08254): 1 in a backbone's last stage, less in each before it."""
    found: dict[nn.Parameter, float] = {}
    for part in module.modules():
        if decay is not None and isinstance(part, Backbone):
            for depth, stage in enumerate(reversed(part.stages())):
                found.update(dict.fromkeys(stage.parameters(), decay**depth))
    return found


def make_optimizer(groups: list[dict[str, Any]], settings: grammar.Optimizer) -> Optimizer:
    """The optimizer of that name. Raises ValueError for names that timm does not know."""
    return timm.optim.create_optimizer_v2(
        groups, settings.use, lr=settings.lr, weight_decay=0.0, momentum=settings.momentum
    )


def make_schedule(
    optimizer: Optimizer, settings: grammar.Optimizer, *, epochs: int, steps_per_epoch: int
) -> Any:
    """The schedule as a scheduler of timm, which `step_update` moves once an optimizer step."""
    schedule = settings.schedule
    warmup = schedule.warmup * epochs
    if schedule.use == "plateau":
        return Plateau(
            optimizer,
            decay_rate=schedule.decay_rate,
            patience=schedule.patience,
            least=schedule.min_lr,
            warmup_t=warmup * steps_per_epoch,
            warmup_lr_init=WARMUP_FROM * settings.lr,
        )
    decay = schedule.decay_epochs
    falls = schedule.use in ("cosine", "poly", "tanh")
    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        schedule.use,
        num_epochs=epochs - warmup if falls else epochs,  # type: ignore[arg-type]
        decay_epochs=1 if isinstance(decay, list) else decay,
        decay_milestones=decay if isinstance(decay, list) else [],
        # timm takes the power of `poly` by the same name
        decay_rate=schedule.power if schedule.use == "poly" else schedule.decay_rate,
        min_lr=schedule.min_lr * settings.lr,
        warmup_lr=WARMUP_FROM * settings.lr,
        warmup_epochs=warmup,  # type: ignore[arg-type]
        warmup_prefix=falls,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
