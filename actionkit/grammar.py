"""What a recipe may say: one dataclass a section, one field a key.

A field annotated with `Slot` takes components; any other takes plain values of its type. A field
without default must be written. Nothing here imports torch.
"""

# ruff: noqa: RUF009  a field declared by `written` is a plain declaration
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from actionkit.registry import Entry

PART_KEYS = {
    "weights": Path,  # a checkpoint of ours or a state dict; FILE or FILE#prefix
    "freeze": bool | int,  # true, or the first N stages
    "freeze_norm": Literal["all", "but_first"],  # batch norms alone: statistics, scale and shift
    "lr": float,  # factor on the optimizer's learning rate
}
LOSS_KEYS = {"weight": float}


class Slot(NamedTuple):
    """A place for components of some groups."""

    groups: tuple[str, ...]
    form: Literal["one", "list", "named"]
    reserved: Mapping[str, Any] = MappingProxyType(
        {}
    )  # keys of the node beside the constructor's own
    alone: str = ""  # the name of a single node where a map of named ones may stand
    empty: bool = False  # whether that map may be empty


@dataclass
class Node:
    """A component named in a recipe, with its options as the constructor takes them."""

    key: str  # its place in the tree, model.head.0
    place: str  # file:line
    use: str
    entry: Entry | None = None  # None: nothing is registered by this name
    options: dict[str, Any] = field(default_factory=dict)  # Make[...] options hold lists of Node
    reserved: dict[str, Any] = field(default_factory=dict)
    broken: bool = False  # it cannot be made, and why has been said


def written(value: Any) -> Any:
    """The default of a field, as it would be written in YAML."""
    return field(default=None, metadata={"written": value})


def at_least(least: float, default: Any) -> Any:
    """The default of a number that may not be smaller than `least`."""
    return field(default=default, metadata={"least": least})


Aggregators = Annotated[list[Node], Slot(("aggregators",), "list", PART_KEYS)]
Backbones = Annotated[list[Node], Slot(("backbones",), "list", PART_KEYS)]
Heads = Annotated[dict[str, Node], Slot(("heads",), "named", PART_KEYS, empty=True)]
Transforms = Annotated[list[Node], Slot(("transforms",), "list")]


@dataclass(kw_only=True)
class Pipeline:
    """From a video to what the network takes: frames, transforms in the workers, on the device."""

    sampler: Annotated[Node, Slot(("samplers",), "one")]
    per_sample: Transforms = written([])
    per_batch: Transforms = written([])


@dataclass(kw_only=True)
class Data:
    """Which clips, and how they are read."""

    dataset: Annotated[Node, Slot(("datasets",), "one")]
    train: Pipeline
    eval: Pipeline  # validation, test and prediction alike
    reader: Annotated[dict[str, Node], Slot(("readers",), "named")] = written("pyav")
    batch: int = at_least(1, 16)  # clips per optimizer step, over all devices
    workers: int | Literal["auto"] = at_least(0, "auto")
    max_bad: float = at_least(0, 0.01)  # share of unreadable clips beyond which a run stops
    balance: float = at_least(0, 0.0)  # 0: each clip once an epoch; 1: each class equally often


@dataclass(kw_only=True)
class Stream:
    """A chain of parts over one modality."""

    takes: str | None = None  # the modality; None = the stream's own name
    before: Aggregators = written([])
    backbone: Backbones = written([])
    aggregate: Aggregators = written([])
    head: Heads = written({})
    then: Aggregators = written([])


@dataclass(kw_only=True)
class Model:
    """Streams, what joins them, and the chain behind."""

    streams: dict[str, Stream]
    joint: Annotated[Node | None, Slot(("backbones",), "one", PART_KEYS)] = None
    fusion: Annotated[Node | None, Slot(("fusions",), "one", PART_KEYS)] = None
    backbone: Backbones = written([])
    aggregate: Aggregators = written([])
    head: Heads = written({})
    then: Aggregators = written([])


@dataclass(kw_only=True)
class Evaluation:
    """From a network's scores to one score a video, and its metrics. Never trained through."""

    steps: Annotated[Node, Slot(("aggregators",), "one")] = written("mean")
    views: Literal["mean", "vote"] = "mean"
    of: Literal["probabilities", "logits"] = "probabilities"
    views_per_item: int = at_least(1, 10)
    metrics: Annotated[list[Node], Slot(("metrics",), "list")] = written(
        ["top1", "top5", "mean_class_accuracy"]
    )


@dataclass(kw_only=True)
class Schedule:
    """How the learning rate goes, by timm's schedulers."""

    use: Literal["constant", "cosine", "step", "multistep", "poly", "tanh", "plateau"] = "constant"
    warmup: float = 0.0  # share of the training in which the rate rises from 1 % of itself
    min_lr: float = at_least(0, 0.0)  # share of the rate that cosine, poly, tanh, plateau end at
    decay_epochs: float | list[int] = 30  # step: every so many epochs; multistep: at these
    decay_rate: float = at_least(0, 0.1)  # step, multistep, plateau: what remains at each fall
    power: float = at_least(0, 1.0)  # poly: 1 is a straight line
    patience: int = at_least(0, 10)  # plateau: validations without a gain that are borne
    metric: str | None = None  # plateau: a metric of the evaluation, or loss; None = the first


@dataclass(kw_only=True)
class Optimizer:
    """An optimizer of timm's or torch's, by name (adamw, sgd, lamb ...)."""

    use: str = "adamw"
    lr: float = at_least(0, 1e-3)
    lr_for: int | None = at_least(1, None)  # the batch `lr` was chosen for; None = data.batch
    lr_rule: Literal["linear", "sqrt"] = "linear"  # how the rate goes from there with the batch
    layer_decay: float | None = at_least(
        0, None
    )  # factor from a backbone's stage to the one before
    weight_decay: float = at_least(0, 0.0)  # none on norms and biases
    momentum: float = 0.9
    schedule: Schedule = written({})


@dataclass(kw_only=True)
class EarlyStopping:
    """When a training ends before its last epoch."""

    patience: int | None = at_least(1, None)  # validations without a gain; None = never
    metric: str | None = None  # a metric of the evaluation, or loss; None = the first
    min_delta: float = at_least(0, 0.0)  # what counts as a gain is more than this


@dataclass(kw_only=True)
class Trainer:
    """Lightning's Trainer, by its own names; from `compile` on, what it leaves to callbacks."""

    max_epochs: int = at_least(1, 10)
    precision: Literal["32", "16-mixed", "bf16-mixed"] = "32"
    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    strategy: str = "auto"  # ddp, fsdp ...; auto is ddp where there are several devices
    sync_batchnorm: bool = False  # batch norms take their statistics over all devices
    num_nodes: int = at_least(1, 1)
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = at_least(1, 1)
    check_val_every_n_epoch: int = at_least(1, 1)
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    deterministic: bool = False
    compile: bool = False  # backbones by torch.compile
    ema: float | None = at_least(0, None)  # decay of the average weights to evaluate, as 0.999
    precise_bn: int = at_least(0, 0)  # batches for batch norms' statistics at each validation
    early_stopping: EarlyStopping = written({})
    save_every: int = at_least(1, 1000)  # steps between two writings of last.ckpt


@dataclass(kw_only=True)
class Plan:
    """A whole recipe, checked."""

    data: Data
    model: Model
    name: str | None = None
    seed: int = 0
    loss: Annotated[dict[str, Node], Slot(("losses",), "named", LOSS_KEYS, "scores")] = written(
        "cross_entropy"
    )
    evaluation: Evaluation = written({})
    optimizer: Optimizer = written({})
    trainer: Trainer = written({})
    logger: Annotated[list[Node], Slot(("loggers",), "list")] = written("csv")
    task: Annotated[Node, Slot(("tasks",), "one")] = written("recognition")
