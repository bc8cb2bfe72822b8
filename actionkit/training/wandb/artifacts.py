"""A run's data and models as W&B keeps them, so that a result leads back to what made it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import wandb

from actionkit.contracts import Dataset
from actionkit.training.wandb.charts import plain


def fingerprint(datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """Sizes and a hash of the ids of every split, and the classes. No file is opened."""
    classes = next(iter(datasets.values())).classes
    return {
        "splits": {split: _split(dataset) for split, dataset in datasets.items()},
        "classes": (
            {head: plain(names) for head, names in classes.items()}
            if isinstance(classes, Mapping)
            else plain(classes)
        ),
    }


def _split(dataset: Dataset) -> dict[str, Any]:
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(dataset[index].id.encode("utf-8", "surrogateescape") + b"\n")
    return {"clips": len(dataset), "ids": digest.hexdigest()[:16]}


def data_set(name: str, found: Mapping[str, Any]) -> Any:
    """A data set's fingerprint as an artifact, which changes when the data do."""
    sizes = {split: entry["clips"] for split, entry in found["splits"].items()}
    artifact = wandb.Artifact(_allowed(name), "dataset", metadata={"clips": sizes})
    with artifact.new_file("manifest.json", encoding="utf-8") as file:
        json.dump(found, file, indent=2)
    return artifact


def model(file: Path, run_id: str, metrics: Mapping[str, float]) -> Any:
    """A checkpoint as an artifact. It is not copied, so it has to stay until it is uploaded."""
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    metadata = {
        "recipe": content.get("recipe", {}).get("name", ""),
        "epoch": content.get("epoch"),
        "step": content.get("global_step"),
        **metrics,
    }
    artifact = wandb.Artifact(_allowed(f"model-{run_id}"), "model", metadata=metadata)
    artifact.add_file(str(file), name="model.ckpt", skip_cache=True, policy="immutable")
    return artifact


def _allowed(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)
