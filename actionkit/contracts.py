"""The contracts between the parts: all that the author of a component reads.

A network is made of parts; between two parts flows one type, `Features`. Before any tensor exists,
the same places are described by `Shape`. Data go one way: Record -> Reader <- Sampler -> Transforms
= Sample -> Batch -> Transforms on the device -> network -> scores -> Loss.

A component's options are the keyword-only, annotated parameters of its constructor; what comes
before the star (`inp`, `classes`, `split`) is supplied by the builder. A constructor that cannot
work with what it is given raises ValueError with the rest of a sentence that starts with its name:
"takes one vector per step, but gets maps of 7x7; put spatial_pool before it".
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# ------------------------------------------------------------------------------------- network


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


# ---------------------------------------------------------------------------------------- data

Classes = Sequence[str] | Mapping[str, Sequence[str]]
"""Class names, or a map of them by head name where there are several heads."""

Target = int | np.ndarray | dict[str, "int | np.ndarray"]
Kind = Literal["rgb", "gray", "flow", "score", "pose", "audio"]


class Record(NamedTuple):
    """An item of a dataset. Nothing is decoded yet."""

    id: str
    sources: dict[str, Path]  # modality -> file
    target: Target = -1  # class, float [K] or a dict of these by head name; -1 or NaN = no label
    start: float | None = None  # seconds; None = the file's start and end
    end: float | None = None
    events: tuple[tuple[float, float, int], ...] = ()  # (start second, end second, class)
    boxes: tuple[
        tuple[float, float, float, float, float], ...
    ] = ()  # (second, x1, y1, x2, y2), fractions
    group: str = ""  # clips of one source video share it
    origin: str = ""  # "file:line" of the entry, for messages


class Dataset(ABC):
    """A list of records: `__init__(self, split: str, *, ...)`, split `train`, `val` or `test`.

    Picklable, holds no open file.
    """

    modalities: tuple[str, ...] = ("rgb",)  # keys of every record's `sources`
    classes: list[str] | dict[str, list[str]]  # a dict by head name where there are several heads

    def prepare(self) -> None:  # noqa: B027  most datasets have nothing to prepare
        """Makes the files (render, unpack) that are missing; called before records are read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Record: ...


class VideoReadError(Exception):
    """The only exception a Reader raises: a file cannot give the frames asked of it."""

    def __init__(self, path: Path | str, reader: str, reason: str) -> None:
        super().__init__(str(path), reader, reason)  # the arguments, so that it survives pickling
        self.path, self.reader, self.reason = str(path), reader, reason

    def __str__(self) -> str:
        return f"{self.path} ({self.reader}): {self.reason}"


class Info(NamedTuple):
    """What a reader knows of a video before decoding it."""

    frames: int  # as many as an index may name
    fps: float  # the mean rate where it varies
    seconds: float
    height: int  # pixels
    width: int


class Reader(ABC):
    """Decodes frames. Opens a file when it reads, keeps none open; one thread.

    Index i is the i-th frame in the order of presentation. Where a file's frames are not evenly
    spaced (one is more than half a frame off), it is the frame on the screen at i / fps seconds,
    fps being the mean rate: indices evenly spaced are then evenly spaced in seconds. Frames are
    upright, as the file's rotation says.
    """

    folders: ClassVar[bool] = False  # whether its sources are folders of images, not files

    @abstractmethod
    def probe(self, path: Path) -> Info:
        """Raises VideoReadError for what is not a video with at least one frame."""

    @abstractmethod
    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Frames `indices` [N] int64 (any order, repeats, 0 <= i < frames) as uint8 [N, C, H, W].

        The memory may lie in [N, H, W, C] order. Raises VideoReadError if a frame is not reached.
        """


class Sampler(ABC):
    """Which frames of a video make a clip."""

    steps: int | None  # T, None = varies
    views: int | None  # V, None = varies

    @abstractmethod
    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Frame indices int64 [V, T] between record.start and record.end, -1 = padding.

        Without rng (evaluation) the answer is deterministic.
        """


class Clip(NamedTuple):
    """One modality of a sample, or of a batch (then every tensor has B in front)."""

    x: Tensor  # [V, T, C, H, W] uint8, float16 or float32
    mask: Tensor  # [V, T] bool, True = a real step
    times: Tensor  # [V, T] float32 seconds, NaN = padding
    kind: Kind  # how it is mirrored, resized, made float, padded; flow: channels dx, dy in turn


class Transform(ABC):
    """A change of clips. It always sees a batch, [B, V, T, ...]; in a worker one of size 1."""

    runs_on: ClassVar[Literal["sample", "batch", "both"]] = "both"
    copies: int = 1  # clips it makes of one; a batch of evaluation is that much smaller

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """The shapes by modality that `apply` leaves. Raises ValueError for what it cannot take."""
        return shapes

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """The random numbers of one sample; without rng (evaluation) the deterministic choice."""
        return {}

    @abstractmethod
    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes all modalities of sample b alike, by draws[b]. Never in place."""


class Bad(NamedTuple):
    """A clip that could not be read, and why."""

    id: str
    path: str
    origin: str
    reader: str
    reason: str

    def __str__(self) -> str:
        entry = f" [{self.origin}]" if self.origin not in ("", self.path) else ""
        return f"{self.path} ({self.reader}): {self.reason}{entry}"


class Sample(NamedTuple):
    """One clip, ready to be collated; `clips` is empty where it could not be read."""

    clips: dict[str, Clip]
    target: Target
    boxes: Tensor | None  # [V, T, R, 4]
    id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    seed: int
    bad: tuple[Bad, ...] = ()  # what was skipped on the way to this sample


class Batch(NamedTuple):
    """Samples collated, lengths padded to the longest. Unreadable ones are in `bad` only."""

    clips: dict[str, Clip]  # tensors [B, V, T, ...]; empty if no sample could be read
    target: Tensor | dict[str, Tensor]  # [B] int64 or [B, K] float
    boxes: Tensor | None  # [B, V, T, R, 4]
    id: list[str]
    index: Tensor  # type: ignore[assignment]  # [B] int64
    seed: Tensor  # [B] int64, of the draws still to come on the device
    bad: tuple[Bad, ...] = ()
