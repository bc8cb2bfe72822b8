"""Small recipes, written as files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from actionkit.recipe import RecipeError, load

SIZE, STEPS = 48, 3

PIPELINE = {
    "sampler": {"use": "segments", "count": STEPS},
    "per_sample": [{"use": "crop_resize", "size": SIZE}],
    "per_batch": ["normalize"],
}
STREAM = {
    "takes": "rgb",
    "backbone": {"use": "timm", "arch": "test_resnet"},
    "aggregate": ["spatial_pool", "mean"],
    "head": "linear",
}
TWO_STREAMS = {
    "data": {"dataset": {"use": "probes"}, "train": PIPELINE, "eval": PIPELINE},
    "model": {"streams": {"one": STREAM, "two": STREAM}, "fusion": "average"},
    "loss": {"scores": "cross_entropy", "one": {"use": "cross_entropy", "weight": 0.5}},
}


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with values set, or with None removed, at dotted keys."""
    values = json.loads(json.dumps(values))  # what occurs twice becomes two
    for key, value in changes.items():
        *parents, last = key.split(".")
        at: Any = values
        for part in parents:
            at = at[int(part) if isinstance(at, list) else part]
        if value is None:
            del at[last]
        else:
            at[int(last) if isinstance(at, list) else last] = value
    return values


def write(folder: Path, values: dict[str, Any] | str, name: str = "recipe.yaml") -> Path:
    """A recipe's file; text is written as it is."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    text = values if isinstance(values, str) else _Plain.text(values)
    file.write_text(text, encoding="utf-8")
    return file


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice out twice, since an alias has only one line."""

    @classmethod
    def text(cls, values: dict[str, Any]) -> str:
        return yaml.dump(values, Dumper=cls, sort_keys=False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """What is wrong with a recipe's text, the folder left out of places."""
    try:
        found = load(write(folder, text), overrides).problems
    except RecipeError as error:
        found = error.problems
    return [str(p).replace(f"{folder}{os.sep}", "") for p in found]
