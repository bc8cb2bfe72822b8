"""What a recipe asks of the trainer: Lightning's options, callbacks, and what cannot be had."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import StrategyRegistry

from actionkit import grammar
from actionkit.contracts import Fits
from actionkit.network import Network
from actionkit.training.averaging import EMA
from actionkit.training.norms import PreciseNorms, SyncNorms, batch_norms
from actionkit.training.plateau import Judge
from actionkit.training.stopping import Stopping
from actionkit.training.watched import Watched

Problem = tuple[tuple[str, ...], str]  # the key in the recipe, and a sentence
OURS = ("sync_batchnorm", "compile", "ema", "precise_bn", "early_stopping", "save_every")


def callbacks(plan: grammar.Plan, metric: str) -> list[Callback]:
    """What a training by this recipe needs beside its checkpoints, in the order of their work.

    `metric` is what decides where the recipe names none: that of the best checkpoint.
    """
    settings, found = plan.trainer, list[Callback]()
    if settings.ema is not None:
        found.append(EMA(settings.ema))
    if settings.precise_bn:
        found.append(PreciseNorms(settings.precise_bn))
    if plan.optimizer.schedule.use == "plateau":
        found.append(Judge(Watched.of(plan.optimizer.schedule.metric or metric)))
    stop = settings.early_stopping
    if stop.patience is not None:
        watched = Watched.of(stop.metric or metric)
        found.append(Stopping(watched, patience=stop.patience, min_delta=stop.min_delta))
    return found


def lightning_options(settings: grammar.Trainer) -> dict[str, Any]:
    """Options of Lightning's Trainer; its `plugins` may be more than these."""
    options = {name: value for name, value in vars(settings).items() if name not in OURS}
    return {**options, "plugins": [SyncNorms()] if settings.sync_batchnorm else []}


def problems(plan: grammar.Plan, network: Network) -> list[Problem]:
    """What cannot be had on this machine, with this network, or together."""
    if plan.trainer.max_epochs is None:
        return []  # no map at all, said already
    return [*_of_devices(plan.trainer), *_of_fsdp(plan.trainer, network), *_of_rest(plan, network)]


def _of_devices(settings: grammar.Trainer) -> Iterator[Problem]:
    on_cpu = _on_cpu(settings)
    if settings.precision == "16-mixed" and on_cpu:
        text = "needs a GPU: a CPU has no half precision; write bf16-mixed or '32'"
        yield ("trainer", "precision"), text
    if settings.sync_batchnorm and on_cpu:
        text = "is for several GPUs: torch does not do it on a CPU; leave it out"
        yield ("trainer", "sync_batchnorm"), text
    known = ["auto", *(n for n in StrategyRegistry if n.startswith(("ddp", "fsdp")))]
    if settings.strategy not in known:
        near = get_close_matches(settings.strategy, known, n=1)
        cure = f"did you mean '{near[0]}'?" if near else f"write one of {', '.join(known)}"
        text = f"'{settings.strategy}' is none whose checkpoints are single files here; {cure}"
        yield ("trainer", "strategy"), text


def _of_fsdp(settings: grammar.Trainer, network: Network) -> Iterator[Problem]:
    """What Lightning's FSDP refuses, or does wrongly."""
    if not settings.strategy.startswith("fsdp"):
        return
    key = ("trainer", "strategy")
    if _on_cpu(settings):
        yield key, "fsdp needs GPUs; write auto"
    elif settings.num_nodes == 1 and _devices(settings) == 1:
        yield key, "fsdp shares weights among several devices, and there is one; write auto"
    if settings.ema is not None:
        yield key, "fsdp holds no whole weights to average; write ddp, or leave trainer.ema out"
    if settings.gradient_clip_val is not None:
        text = "clips no norms of gradients under Lightning; write ddp, or leave "
        yield key, f"fsdp {text}trainer.gradient_clip_val out"
    if any(isinstance(part, Fits) for part in network.modules()):
        yield key, "fsdp holds no whole network to fit parts on; write ddp"


def _of_rest(plan: grammar.Plan, network: Network) -> Iterator[Problem]:
    settings, optimizer = plan.trainer, plan.optimizer
    if settings.ema is not None and settings.ema >= 1:
        yield ("trainer", "ema"), "is a decay: expected less than 1, as 0.999"
    norms = [norm for norm in batch_norms(network) if norm.training]
    if settings.precise_bn and not norms:
        text = "finds no batch norm whose statistics are trained; leave it out"
        yield ("trainer", "precise_bn"), text
    if (optimizer.layer_decay or 0) > 1:
        yield ("optimizer", "layer_decay"), "is a factor per stage: expected 1 or less, as 0.75"
    metrics = {node.use for node in plan.evaluation.metrics} | {"loss"}
    for key, metric in (
        (("trainer", "early_stopping", "metric"), settings.early_stopping.metric),
        (("optimizer", "schedule", "metric"), optimizer.schedule.metric),
    ):
        if metric is not None and metric.rpartition("/")[2] not in metrics:
            known = ", ".join(sorted(metrics))
            yield key, f"'{metric}' is not measured here; write one of {known}"
    if idle := untrained(network, plan.loss):
        names = ", ".join(f"'{name}'" for name in idle)
        text = f"takes no loss of {names}, so what gives these never learns, and several devices "
        yield ("loss",), f"{text}wait for its gradients; add `{idle[0]}: ...`, or freeze it"


def untrained(network: Network, losses: Collection[str]) -> list[str]:
    """Entries of the Output with weights to train that no loss reaches."""
    paths = network.paths()
    reached = {part for name in losses for part in paths.get(name, ())}
    idle = {name: [part for part in path if part not in reached] for name, path in paths.items()}
    return [
        name
        for name, parts in idle.items()
        if any(p.requires_grad for part in parts for p in part.parameters())
    ]


def _on_cpu(settings: grammar.Trainer) -> bool:
    chosen = settings.accelerator
    return chosen == "cpu" or (chosen == "auto" and not torch.accelerator.is_available())


def _devices(settings: grammar.Trainer) -> int | None:
    """How many there are on one machine, where that can be read off."""
    devices = settings.devices
    if devices in ("auto", -1, "-1"):
        return torch.cuda.device_count()
    if isinstance(devices, list):
        return len(devices)
    return devices if isinstance(devices, int) else None
