"""The data's side of the contracts: from a record to a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from torch import Tensor

from actionkit.contracts.network import Shape

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

    A reader may give something else than frames of a video, and then says what.
    """

    folders: ClassVar[bool] = False  # whether its sources are folders of images, not files
    whole: ClassVar[bool] = False  # whether a record's start and end are those of what it reads
    kind: Kind | None = None  # of its clips; None = that of the modality's name, or rgb

    def source(self, record: Record, modality: str) -> Path:
        """What it reads of a record. Raises KeyError for a modality that the record lacks."""
        return record.sources[modality]

    def out(self, shape: Shape) -> Shape:
        """The shape of its clips; `shape` is what the modality's name lets expect."""
        return shape

    @abstractmethod
    def probe(self, path: Path) -> Info:
        """Raises VideoReadError for what is not a video with at least one frame."""

    @abstractmethod
    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Frames `indices` [N] int64 (any order, repeats, 0 <= i < frames) as uint8 [N, C, H, W].

        The memory may lie in [N, H, W, C] order. Raises VideoReadError if a frame is not reached.
        """

    def stream(self, path: Path, most: int) -> Iterator[Tensor]:
        """All frames in turn, uint8 [N, C, H, W], at most `most` at once, and few in memory.

        Raises VideoReadError, maybe behind some frames.
        """
        frames = self.probe(path).frames
        for start in range(0, frames, most):
            yield self.read(path, np.arange(start, min(start + most, frames)))


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
    mixes: ClassVar[bool] = False  # whether it makes one clip of several, which changes targets

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """The shapes by modality that `apply` leaves. Raises ValueError for what it cannot take."""
        return shapes

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """The random numbers of one sample; without rng (evaluation) the deterministic choice."""
        return {}

    @abstractmethod
    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes all modalities of sample b alike, by draws[b]. Never in place."""

    def mix(self, target: Tensor, draws: list[dict[str, Any]]) -> Tensor:
        """The targets [B, K] float of what `apply` leaves, from those of the clips before it."""
        return target


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
