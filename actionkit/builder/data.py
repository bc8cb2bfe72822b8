"""Datasets, pipelines and the shapes of what they end with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from actionkit.builder.components import BrokenError, Components
from actionkit.contracts import Dataset, Reader, Sampler, Shape, Transform
from actionkit.data.module import Stage
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
    """Reader and pipelines, and the shapes behind them, None where the two disagree."""

    reader: Reader | None  # None: it is broken, and why has been said
    train: Stage
    eval: Stage
    shapes: dict[str, Shape]
    sure: bool  # False: something was broken, and the shapes are the best guess


def build_stages(components: Components, data: Data, modalities: Sequence[str]) -> Stages:
    """Reader and the pipelines `train` and `eval`; notes what is wrong with any, and goes on."""
    reader = None
    with suppress(BrokenError):
        reader = components.make(data.reader, Reader)
    train, train_shapes, train_sure = _stage(components, data.train, modalities)
    evaluation, eval_shapes, eval_sure = _stage(components, data.eval, modalities)
    shapes = {m: _agreed(train_shapes[m], s) for m, s in eval_shapes.items() if m in train_shapes}
    if train_sure != eval_sure:  # the sound one knows better
        shapes = train_shapes if train_sure else eval_shapes
    return Stages(reader, train, evaluation, shapes, train_sure and eval_sure)


def _stage(
    components: Components, pipeline: Pipeline, modalities: Sequence[str]
) -> tuple[Stage, dict[str, Shape], bool]:
    stage, sure = Stage(None), True  # type: ignore[arg-type]  # a broken sampler leaves it empty
    try:
        stage.sampler = components.make(pipeline.sampler, Sampler)
    except BrokenError:
        sure = False
    steps = stage.sampler.steps if sure else None
    shapes = {m: Shape(steps, CHANNELS.get(m, 3), None, None) for m in modalities}
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
