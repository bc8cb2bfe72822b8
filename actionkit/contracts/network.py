"""The network's side of the contracts: what flows between parts, and what each kind of part is."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Shape(NamedTuple):
    """Size of one clip's features at a point of the network: 1 = pooled, None = varies."""

    steps: int | None
    channels: int | None
    height: int | None
    width: int | None

    def require_channels(self) -> int:
        """The number of channels. Raises ValueError where it varies."""
        if self.channels is None:
            raise ValueError("needs a fixed number of channels, but it varies here")
        return self.channels

    def require_vectors(self) -> int:
        """The channels of one vector per step. Raises ValueError for maps."""
        if self.height != 1 or self.width != 1:
            raise ValueError(
                f"takes one vector per step, but gets maps of {self.height or '?'}x"
                f"{self.width or '?'}; put spatial_pool before it"
            )
        return self.require_channels()


class Features(NamedTuple):
    """What flows between parts. Fields a part does not use are handed on unchanged (`_replace`)."""

    x: Tensor  # [B, T, C, H, W] float; pooled axes keep size 1
    mask: Tensor  # [B, T] bool, True = a real step
    attention: Tensor | None = None  # [B, Ta, 1, Ha, Wa]
    boxes: Tensor | None = None  # [B, T, R, 4] x1, y1, x2, y2 as fractions of the frame, NaN = none
    penalty: Tensor | None = None  # 0-dim, added to the loss; parts add to it
    log_prob: Tensor | None = None  # [B, T] log-probability of discrete choices
    extra: dict[str, Tensor] | None = None  # anything else; 0-dim entries are logged

    @staticmethod
    def merge(inputs: Mapping[str, Features]) -> Features:
        """Where a fusion starts: x and mask of the first stream, penalties and log_probs summed,
        `extra` of all with the stream's name as prefix.
        """
        first = next(iter(inputs.values()))
        penalties = [f.penalty for f in inputs.values() if f.penalty is not None]
        log_probs = [f.log_prob for f in inputs.values() if f.log_prob is not None]
        extra = {
            f"{name}/{key}": v for name, f in inputs.items() for key, v in (f.extra or {}).items()
        }
        return first._replace(
            attention=next((f.attention for f in inputs.values() if f.attention is not None), None),
            boxes=next((f.boxes for f in inputs.values() if f.boxes is not None), None),
            penalty=torch.stack(penalties).sum() if penalties else None,
            log_prob=functools.reduce(torch.add, log_probs) if log_probs else None,
            extra=extra or None,
        )


pytree._register_namedtuple(
    Features, serialized_type_name="actionkit.Features"
)  # torch.export asks for it
torch.serialization.add_safe_globals([Features])  # so that what it saved loads as weights only

Output = dict[str, Features]
"""What a network returns: `scores`, and the scores of every stream with a head and of every named
head, views restored: x [B, V, T', K, 1, 1], mask [B, V, T']."""


def pack(features: Features) -> Tensor:
    """The real steps of a batch in one axis, [N, C, H, W]; a view where every step is real.

    So networks over single frames, and their batch norms, never see padding. An exported network
    runs on all steps: in evaluation they do not touch each other.
    """
    if torch.compiler.is_exporting() or bool(features.mask.all()):
        return features.x.flatten(0, 1)
    return features.x[features.mask]


def unpack(x: Tensor, features: Features) -> Features:
    """Puts packed results [N, C, H, W] back at their steps, zeros at the padded ones."""
    batch, steps = features.mask.shape
    if x.shape[0] == batch * steps:
        return features._replace(x=x.unflatten(0, (batch, steps)))
    full = x.new_zeros(batch, steps, *x.shape[1:])
    full[features.mask] = x
    return features._replace(x=full)


class Part(nn.Module, ABC):
    """A piece of network: `__init__(self, inp: Shape, *, ...)` sets `self.out`; works on meta.

    The value at a real step depends on no padding, neither its content nor its amount, in training
    as in evaluation. No part changes its input in place.
    """

    out: Shape

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """Maps features of the input shape to features of shape `out`."""


class Aggregator(Part):
    """Any part that is neither backbone nor head: pooling, recurrence, attention, encodings."""


class Backbone(Part):
    """Frames or clips to maps."""

    def stages(self) -> list[nn.Module]:
        """The blocks from the input on, for the recipe's `freeze: N`, which freezes the first N."""
        return list(self.children())


class Head(Part):
    """Features to logits [B, T, K, 1, 1], neither softmax nor loss inside.

    `__init__(self, inp: Shape, classes: Sequence[str], *, ...)`.
    """


class Fusion(nn.Module, ABC):
    """Several streams to one; starts from `Features.merge`. A fusion of scores gives logits.

    `__init__(self, inp: dict[str, Shape], *, ...)` sets `self.out`, refuses what cannot be fused.
    """

    out: Shape

    @abstractmethod
    def forward(self, inputs: dict[str, Features]) -> Features:
        """Maps each stream's features to the fused ones."""


class Joint(nn.Module, ABC):
    """A backbone over several streams.

    `__init__(self, inp: dict[str, Shape], *, ...)` sets `self.out`, one Shape for each name it
    returns; the names may differ from those it took.
    """

    out: dict[str, Shape]

    @abstractmethod
    def forward(self, inputs: dict[str, Features]) -> dict[str, Features]:
        """Maps the streams' features to those of the names in `out`."""

    def stages(self) -> list[nn.Module]:
        """As of a Backbone, for `freeze: N`."""
        return list(self.children())


class Fitting(NamedTuple):
    """A batch to fit on: what the part is given in evaluation, and what is known of its clips."""

    features: Features | dict[str, Features]  # a dict for fusions
    target: Tensor | dict[str, Tensor]  # [B] int64 or [B, K] float; -1 or NaN = no label
    group: list[str]  # [B] clips of one source video share it; no two sides of a split should


class Fits(ABC):
    """Stands beside Part or Fusion in the bases of what learns without gradients.

    What is fitted lies in buffers whose sizes are known at build time, so that it is saved with the
    rest. It has no parameters.
    """

    fits: ClassVar[Literal["before", "after"]]  # the training by gradients

    @abstractmethod
    def fit_from(self, batches: Iterable[Fitting]) -> str:
        """Learns from the training clips; `batches` can be gone through as often as is wanted.

        Says in a few words what was found. Raises ValueError for what nothing can be learnt from.
        """


class Loss(nn.Module, ABC):
    """A loss over scores, which also knows how its logits become probabilities."""

    @abstractmethod
    def forward(self, scores: Features, target: Tensor, mask: Tensor) -> Tensor:
        """The mean over the steps that count, a 0-dim tensor (0 if none does).

        scores.x [B, V, T, K, 1, 1] logits; target [B] int64 or [B, K] float; mask [B, V, T] bool,
        True = a real step of a clip with a label.
        """

    @abstractmethod
    def probabilities(self, scores: Features) -> Tensor:
        """[B, V, T, K], from the logits scores.x [B, V, T, K, 1, 1]."""


class Metric(ABC):
    """A number for one split: `__init__(self, classes: Sequence[str], *, ...)`."""

    @abstractmethod
    def __call__(self, scores: Tensor, target: Tensor) -> float:
        """The metric of scores [N, K] float, one row a video, and target [N] int64 or [N, K] float.

        Every row has a label.
        """


T_co = TypeVar("T_co", covariant=True)


class Make(Generic[T_co]):
    """A component inside a component.

    A parameter annotated `Make[Part]` is written in the recipe as a node or a list of nodes, and
    arrives as this; calling it with what the builder would supply (`make(inp)`) builds it.
    """

    def __init__(self, build: Callable[..., T_co]) -> None:
        self._build = build

    def __call__(self, *supplied: Any) -> T_co:
        """Builds the component."""
        return self._build(*supplied)
