"""Datasets, pipelines and the shapes of what they end with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from actionkit.builder.components import BrokenError, Components
from actionkit.contracts import Dataset, Reader, Record, Sampler, Shape, Transform
from actionkit.data.module import Stage
from actionkit.data.sources import Sources
from actionkit.grammar import Data, Node, Pipeline

SPLITS = ("train", "val", "test")
CHANNELS = {"gray": 1, "flow": 2}  # of a modality as it is read; all others have 3


def build_datasets(components: Components, data: Data) -> dict[str, Dataset]:
    """The splits. Raises BrokenError, having noted why."""
    datasets = {split: components.make(data.dataset, Dataset, split) for split in SPLITS}
    for split in ("train", "val"):
        if len(datasets[split]) == 0:
            components.note(data.dataset, f"'{data.dataset.use}' has no clip in '{split}'")
            raise BrokenError
    return datasets


@dataclass
class Stages:
    """Readers and pipelines, and the shapes behind them, None where the two disagree."""

    sources: Sources | None  # None: a reader is broken, and why has been said
    train: Stage
    eval: Stage
    shapes: dict[str, Shape]
    sure: bool  # False: something was broken, and the shapes are the best guess


def build_stages(components: Components, data: Data, modalities: Sequence[str]) -> Stages:
    """Readers and the pipelines `train` and `eval`; notes what is wrong with any, and goes on."""
    sources, read = _sources(components, data, modalities)
    known = sources is not None
    train, train_shapes, train_sure = _stage(components, data.train, read, known)
    evaluation, eval_shapes, eval_sure = _stage(components, data.eval, read, known)
    shapes = {m: _agreed(train_shapes[m], s) for m, s in eval_shapes.items() if m in train_shapes}
    if train_sure != eval_sure:  # the sound one knows better
        shapes = train_shapes if train_sure else eval_shapes
    return Stages(sources, train, evaluation, shapes, train_sure and eval_sure)


def _sources(
    components: Components, data: Data, modalities: Sequence[str]
) -> tuple[Sources | None, dict[str, Shape]]:
    """The readers, and the shape of every modality that is read; notes what is wrong with any."""
    shapes = {m: _by_name(m) for m in (modalities if "" in data.reader else data.reader)}
    readers: dict[str, Reader] = {}
    for modality, node in data.reader.items():
        with suppress(BrokenError):
            reader = components.make(node, Reader)
            _require_source(components, node, reader, modality, modalities)
            readers[modality] = reader
            for name in [modality] if modality else shapes:
                shapes[name] = reader.out(shapes[name])
    if not readers or len(readers) < len(data.reader):
        return None, shapes
    if len({reader.whole for reader in readers.values()}) > 1:
        odd = next(data.reader[name] for name, reader in readers.items() if reader.whole)
        text = f"'{odd.use}' counts other steps than a video; read no videos beside it"
        components.note(odd, text)
        return None, shapes
    return Sources(readers.get("", readers)), shapes


def _by_name(modality: str) -> Shape:
    return Shape(None, CHANNELS.get(modality, 3), None, None)


def _require_source(
    components: Components, node: Node, reader: Reader, modality: str, known: Sequence[str]
) -> None:
    """Notes a modality that a reader wants of the records, and they lack. Raises BrokenError."""
    if not modality:
        return
    try:
        reader.source(Record("", {name: Path(name) for name in known}), modality)
    except KeyError:
        text = f"the records have no '{modality}' to read, but {', '.join(known)}"
        components.note(node, f"{text}; '{node.use}' cannot make one of these")
        raise BrokenError from None


def _stage(
    components: Components, pipeline: Pipeline, read: dict[str, Shape], sure: bool
) -> tuple[Stage, dict[str, Shape], bool]:
    stage = Stage(None)  # type: ignore[arg-type]  # a broken sampler leaves it empty
    try:
        stage.sampler = components.make(pipeline.sampler, Sampler)
    except BrokenError:
        sure = False
    steps = getattr(stage.sampler, "steps", None)
    shapes = {m: shape._replace(steps=steps) for m, shape in read.items()}
    places: tuple[tuple[str, list[Node], list[Transform]], ...] = (
        ("sample", pipeline.per_sample, stage.per_sample),
        ("batch", pipeline.per_batch, stage.per_batch),
    )
    for place, nodes, made in places:
        for node in nodes:
            try:
                transform = components.make(node, Transform)
                made.append(transform)
                shapes = _behind(components, node, transform, place, shapes, sure)
            except BrokenError:
                sure = False
        if place == "sample" and sure:
            sure = _fixed_size(components, pipeline, shapes)
    return stage, shapes, sure


def _behind(
    components: Components,
    node: Node,
    transform: Transform,
    place: str,
    shapes: dict[str, Shape],
    sure: bool,
) -> dict[str, Shape]:
    if transform.runs_on not in (place, "both"):
        components.note(node, f"'{node.use}' cannot run here; put it in per_{transform.runs_on}")
        raise BrokenError
    try:
        return transform.out(shapes)
    except ValueError as error:
        if sure:  # otherwise it may be right about a shape that is wrong
            components.note(node, f"'{node.use}' {error}")
        raise BrokenError from error


def _fixed_size(components: Components, pipeline: Pipeline, shapes: dict[str, Shape]) -> bool:
    """Whether all clips leave the workers in one size, which a batch needs."""
    for modality, shape in shapes.items():
        if shape.height is None or shape.width is None:
            node = pipeline.per_sample[-1] if pipeline.per_sample else pipeline.sampler
            text = f"{modality} leaves the workers in the size of its file, which a batch cannot"
            components.note(node, f"{text}; end per_sample with crop_resize")
            return False
    return True


def _agreed(train: Shape, evaluation: Shape) -> Shape:
    return Shape(*(a if a == b else None for a, b in zip(train, evaluation, strict=True)))
