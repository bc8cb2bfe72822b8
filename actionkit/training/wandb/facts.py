"""What a W&B run can be found by: beside its recipe, its data, machine, size and commit."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

AXIS = "trainer/global_step"


def facts(network: nn.Module, data: Mapping[str, Any]) -> dict[str, Any]:
    """What is added to the recipe; `data` is the data set's fingerprint, if there is one."""
    parameters = list(network.parameters())
    found: dict[str, Any] = {
        "parameters": {
            "all": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
    if data:
        classes = data["classes"]
        several = isinstance(classes, dict)
        counts = {h: len(c) for h, c in classes.items()} if several else len(classes)
        found["data"] = {"splits": data["splits"], "classes": counts}
    if sha := _commit():
        found["git"] = sha
    return found


def _commit() -> str:
    """The commit of the working directory; empty without git."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)  # noqa: S603
        return done.stdout.strip()
    return ""


def define(run: Any, task: Any) -> None:
    """The step is every number's axis; a run is summed up by its best values and its last."""
    run.define_metric(AXIS)
    run.define_metric("*", step_metric=AXIS, step_sync=True)
    for name, metrics in task.system.metrics.items():
        for metric in metrics:
            label = metric if name == task.main else f"{name}/{metric}"
            run.define_metric(f"val/{label}", step_metric=AXIS, summary="max,last")
    losses = list(task.system.losses)
    for name in ["loss", *(f"{n}/loss" for n in losses if len(losses) > 1)]:
        run.define_metric(f"val/{name}", step_metric=AXIS, summary="min,last")


def digest(recipe: Mapping[str, Any]) -> str:
    """The hash that also stands in a run folder's name."""
    text = json.dumps(recipe, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def tags(recipe: Mapping[str, Any]) -> Iterator[str]:
    """The data set, and the backbones by architecture."""
    yield from (node["use"] for node in nodes(recipe.get("data", {}).get("dataset")))
    model = recipe.get("model", {})
    for chain in [*(model.get("streams") or {}).values(), model]:
        for node in [*nodes(chain.get("backbone")), *nodes(chain.get("joint"))]:
            yield str(node.get("arch", node["use"]))


def nodes(value: Any) -> list[dict[str, Any]]:
    """What a slot of a recipe holds: a name, a node, or a list of these."""
    values = value if isinstance(value, list) else [value]
    named = [{"use": v} if isinstance(v, str) else v for v in values]
    return [node for node in named if isinstance(node, dict) and "use" in node]
