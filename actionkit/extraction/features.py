"""What leaves one part of a network, computed once for every clip of a data set, and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import numpy as np
import torch
from rich.console import Console
from torch import nn

from actionkit import builder
from actionkit.builder import Blueprint
from actionkit.contracts import Batch, Dataset, Features, Record
from actionkit.data.datasets.files import Files
from actionkit.data.order import InTurn
from actionkit.data.stores.features import KIND, Line, Writer
from actionkit.data.stores.folder import Failure, Store
from actionkit.errors import RunError, TooManyBadClipsError
from actionkit.files import megabytes, remove_unfinished
from actionkit.network import reach
from actionkit.prediction import Batches
from actionkit.run import make_trainer, restore
from actionkit.tasks.recognition import Recognition

EVERY = "all"  # the split of all clips
ARROW = " -> "  # between a joint's key and one of its streams, as `actionkit show` writes it
SHOWN = 5  # bad clips in the sentence that ends a command


class Checkpoint(NamedTuple):
    """Trained weights: a checkpoint's file and what is in it."""

    file: Path
    content: dict[str, Any]


def place(found: Blueprint, at: str) -> str:
    """The key of the part that is meant, as `actionkit show` prints it.

    Raises ValueError with the rest of a sentence.
    """
    keys = places(found)
    wanted = at if at.startswith("model.") else f"model.{at}"
    for key in (wanted, wanted.removesuffix(".0")):
        if key in keys:
            return key
    if f"{wanted}.0" in keys and f"{wanted}.1" not in keys:
        return f"{wanted}.0"
    near = get_close_matches(wanted, keys, n=1)
    cure = f"Did you mean '{near[0]}'? " if near else ""
    raise ValueError(f"the network has no place '{at}'. {cure}Known are {', '.join(keys)}")


def places(found: Blueprint) -> list[str]:
    """The keys of all parts of which one thing leaves, once a batch."""
    rows = found.components.rows
    keys = [row.key for row in rows]
    result: list[str] = []
    for row in rows:
        inner = any(row.key.startswith(f"{key}.") for key in keys)  # run as its outer part likes
        if inner or keys.count(row.key) > 1:  # or built for each of several heads
            continue
        names = [f"{ARROW}{name}" for name in row.out] if isinstance(row.out, dict) else [""]
        result += [f"{row.key}{name}" for name in names]
    return result


def extract(
    found: Blueprint,
    at: str,
    out: Path,
    console: Console,
    *,
    dtype: str = "float16",
    checkpoint: Checkpoint | None = None,
) -> Store:
    """Stores what leaves the part `at` (a key of `places`) for the clips of all splits.

    The network is in evaluation mode, behind the recipe's evaluation pipeline, on one device. What
    a killed process has begun goes on where it was. Raises RecipeError; RunError for a store made
    with other settings, or features that cannot be stored; TooManyBadClipsError, when all others
    are stored, for more unreadable clips than the recipe allows.
    """
    task, data = builder.build(found)
    for line in found.loaded:
        console.print(f"weights  {line}", highlight=False, soft_wrap=True)
    if checkpoint is not None:
        restore(task, checkpoint.content, checkpoint.file)
    data.prepare_data()
    records = unique(found.datasets)
    if out.is_dir():
        remove_unfinished(out)
    settings = {**_settings(found, task, records), "at": at, "dtype": dtype}
    store = Store.begin(out, KIND, settings, Path())
    with closing(data):
        if store.complete:
            console.print(f"{out} is complete already", highlight=False, soft_wrap=True)
        else:
            dataset = next(iter(found.datasets.values()))
            data.datasets[EVERY] = Files(records, dataset.classes, dataset.modalities)
            writer = Writer(out, dtype)
            _fill(found, at, task, data.eval_dataloader(EVERY), records, writer, console)
            if not writer.steps:
                _require_budget(found, writer.failures, out)
                raise TooManyBadClipsError(f"no clip could be read:{_list(writer.failures)}")
            writer.finish()
            store.finish(writer.failures)
            text = f"{len(records) - len(store.failures)} clips, {writer.steps} steps"
            size = megabytes(sum(file.stat().st_size for file in out.iterdir()))
            console.print(f"{out}: {text}, {size}", highlight=False, soft_wrap=True)
    _require_budget(found, store.failures, out)
    return store


def unique(datasets: Mapping[str, Dataset]) -> list[Record]:
    """The clips of all splits, each once. Raises RunError for one id of two clips."""
    found: dict[str, Record] = {}
    for record in _records(datasets):
        twin = found.setdefault(record.id, record)
        if _what(twin) != _what(record):
            raise RunError(
                f"two clips have the id '{record.id}', by which features are found again: "
                f"{_source(twin)} and {_source(record)}; give them ids of their own"
            )
    return list(found.values())


def _records(datasets: Mapping[str, Dataset]) -> Iterator[Record]:
    for dataset in datasets.values():
        yield from (dataset[i] for i in range(len(dataset)))


def _what(record: Record) -> list[Any]:
    """Which clip it is: of two records alike the same features are computed."""
    sources = {name: str(path) for name, path in record.sources.items()}
    return [record.id, sources, record.start, record.end]


def _source(record: Record) -> str:
    part = "" if record.start is None and record.end is None else f" {record.start}-{record.end} s"
    return f"{next(iter(record.sources.values()))}{part}"


def _settings(found: Blueprint, task: Recognition, records: Sequence[Record]) -> dict[str, Any]:
    """What decides the numbers. The batch does too: sums are rounded otherwise in another one."""
    values, plan = found.tree.public, found.plan
    data = {name: values["data"].get(name) for name in ("dataset", "reader", "eval")}
    clips = hashlib.sha256(json.dumps([_what(record) for record in records]).encode())
    return {
        "data": {**data, "batch": plan.data.batch},
        "model": values["model"],
        "evaluation": {"views_per_item": plan.evaluation.views_per_item},
        "trainer": {"precision": plan.trainer.precision},
        "clips": f"{len(records)} (sha256 {clips.hexdigest()[:16]})",
        "weights": f"sha256 {_digest(task.network)[:16]}",
    }


def _digest(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------- the network


def _fill(
    found: Blueprint,
    at: str,
    task: Recognition,
    loader: Any,
    records: Sequence[Record],
    writer: Writer,
    console: Console,
) -> None:
    """Computes the batches that the store lacks. Raises RunError."""
    order: InTurn = loader.batch_sampler
    done = len(writer.lines)
    for asks, line in zip(order.batches, writer.lines, strict=False):
        if sorted(records[ask.index].id for ask in asks) != sorted(_ids(line)):
            raise RunError(
                f"the files have changed since {writer.folder} was begun: what comes in one batch "
                "is not what came then; remove that folder and extract again"
            )
    if done:
        text = f"{writer.folder}: {done} of {len(order)} batches are there already"
        console.print(text, highlight=False, soft_wrap=True)
    del order.batches[:done]
    if order.batches:
        key, _, name = at.partition(ARROW)
        extraction = Extraction(task, found.made[key], name, writer, console)
        trainer = make_trainer(found, devices=1, num_nodes=1, strategy="auto")
        trainer.predict(extraction, Batches(loader), return_predictions=False)


def _ids(line: Line) -> list[str]:
    return [name for name, _ in line.pieces] + [failure.name for failure in line.failures]


class Extraction(lightning.LightningModule):
    """Runs a task's network as far as one part, and stores what leaves that, batch by batch."""

    def __init__(
        self, task: Recognition, part: nn.Module, name: str, writer: Writer, console: Console
    ) -> None:
        super().__init__()
        self.task, self.name = task, name  # name: of a joint's stream
        self.writer, self.console = writer, console
        self.part = part

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """Adds a batch to the store. Returns its ids."""
        for bad in batch.bad:
            self.console.print(f"unreadable, left out: {bad}", highlight=False, soft_wrap=True)
        failures = [Failure(b.id, f"{b.path} ({b.reader}): {b.reason}") for b in batch.bad]
        pieces = list(self._pieces(batch)) if batch.clips else []
        self.writer.append(pieces, failures)
        return batch.id

    def _pieces(self, batch: Batch) -> Iterator[tuple[str, np.ndarray]]:
        """Features [T, C, H, W] of each clip's real steps, its views one behind the other."""
        features, dtype = self._leaving(batch), self.writer.dtype
        rows = (len(batch.id), -1)  # the views of a clip are neighbours
        x, mask = features.x.unflatten(0, rows), features.mask.unflatten(0, rows)
        x, mask = x.to(getattr(torch, dtype.name)).cpu(), mask.cpu()
        for name, clip, real in zip(batch.id, x, mask, strict=True):
            kept = clip[real]
            if not bool(kept.isfinite().all()):
                raise RunError(
                    f"{name} has features that {dtype.name} cannot hold, or that are no numbers; "
                    "extract with --dtype float32, or with trainer.precision=32"
                )
            yield name, kept.numpy()

    def _leaving(self, batch: Batch) -> Features:
        """What leaves the part: x [B*V, T, C, H, W] and mask [B*V, T]."""
        left = reach(self.part, lambda: self.task(batch), through=True)
        return left[self.name] if isinstance(left, dict) else left


# -------------------------------------------------------------------------------------- bad clips


def _require_budget(found: Blueprint, failures: Sequence[Failure], out: Path) -> None:
    """Raises TooManyBadClipsError for more unreadable clips than the recipe allows."""
    reasons, allowed = {failure.name: failure for failure in failures}, found.plan.data.max_bad
    said = []
    for split, dataset in found.datasets.items():
        bad = [reasons[r.id] for r in _records({split: dataset}) if r.id in reasons]
        if len(bad) > allowed * len(dataset):
            text = f"{len(bad)} of {len(dataset)} clips of '{split}' could not be read"
            said.append(f"{text}, and data.max_bad allows a share of {allowed:g}:{_list(bad)}\n")
    if said:
        raise TooManyBadClipsError(
            f"{''.join(said)}All others are stored in {out}. Repair these, remove {out} and "
            "extract again; or take them out of the data set, or raise data.max_bad"
        )


def _list(failures: Sequence[Failure]) -> str:
    shown = "".join(f"\n  {failure.reason}" for failure in failures[:SHOWN])
    more = f"\n  and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
    return shown + more
