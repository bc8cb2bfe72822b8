"""Optimizer and learning-rate schedule, by timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm.optim
import timm.scheduler
from torch import nn
from torch.optim import Optimizer

from actionkit import grammar


def parameter_groups(
    module: nn.Module, settings: grammar.Optimizer, factors: Mapping[nn.Module, float]
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay (none on norms and biases).

    `factors` maps a part to the factor on its learning rate; the innermost part counts. It stands
    in the group's `lr_scale`, so that timm scales warm-up and end of a schedule with it.
    """
    scale = dict.fromkeys(module.parameters(), 1.0)
    for part in module.modules():  # outer parts come before inner ones
        if part in factors:
            scale.update(dict.fromkeys(part.parameters(), factors[part]))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in (p for p in module.parameters() if p.requires_grad):
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale[parameter], decay), []).append(parameter)
    return [
        {"params": p, "lr": settings.lr, "lr_scale": factor, "weight_decay": wd}
        for (factor, wd), p in groups.items()
    ]


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
    decay = schedule.decay_epochs
    falls = schedule.use in ("cosine", "poly", "tanh")
    warmup = schedule.warmup * epochs
    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        "multistep" if schedule.use == "constant" else schedule.use,
        num_epochs=epochs - warmup if falls else epochs,  # type: ignore[arg-type]
        decay_epochs=1 if isinstance(decay, list) else decay,
        decay_milestones=decay if isinstance(decay, list) else [],
        decay_rate=schedule.decay_rate,
        min_lr=schedule.min_lr * settings.lr,
        warmup_lr=0.01 * settings.lr,
        warmup_epochs=warmup,  # type: ignore[arg-type]
        warmup_prefix=falls,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
