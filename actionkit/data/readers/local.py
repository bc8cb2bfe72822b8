"""What all readers of local videos do alike: they pick the frames asked for, and explain errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Info, Reader, VideoReadError
from actionkit.data.readers.container import Deadline, Limits, UnreadableError


class LocalReader(Reader):
    """A reader of what lies on a disk; what a video is there is its subclass's business."""

    name: ClassVar[str]  # as registered

    def __init__(self, limits: Limits) -> None:
        for name, value in limits._asdict().items():
            if value is not None and value <= 0:
                raise ValueError(f"needs {name} above 0, but got {value}")
        self.limits = limits

    def probe(self, path: Path) -> Info:
        """Looks at a video and decodes its first frame, once per video and process."""
        with self._explained(path):
            return self._info(path)

    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Frames `indices` [N] as RGB, uint8 [N, 3, H, W] on memory [N, H, W, 3]."""
        with self._explained(path):
            info = self._info(path)
            if indices.size and not 0 <= indices.min() <= indices.max() < info.frames:
                raise UnreadableError(
                    f"frames {indices.min()} to {indices.max()} were asked for, "
                    f"but it has frames 0 to {info.frames - 1}"
                )
            out = np.empty((len(indices), info.height, info.width, 3), np.uint8)
            deadline = Deadline(self.limits.timeout)
            for index, image in self._frames(path, np.unique(indices), deadline):
                out[indices == index] = image
            return torch.from_numpy(out).permute(0, 3, 1, 2)

    def stream(self, path: Path, most: int) -> Iterator[Tensor]:
        """All frames in turn as RGB, uint8 [N, 3, H, W], each decoded once, `most` at a time."""
        with self._explained(path):
            info, deadline = self._info(path), Deadline(self.limits.timeout)
            images = self._frames(path, np.arange(info.frames), deadline)
            for start in range(0, info.frames, most):
                count = min(most, info.frames - start)
                part = np.empty((count, info.height, info.width, 3), np.uint8)
                for row, (_, image) in zip(part, images, strict=False):
                    row[:] = image
                yield torch.from_numpy(part).permute(0, 3, 1, 2)
                deadline.renew()

    @abstractmethod
    def _info(self, path: Path) -> Info:
        """What is known of a video. Raises UnreadableError for what the reader cannot take."""

    @abstractmethod
    def _frames(
        self, path: Path, wanted: np.ndarray, deadline: Deadline
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, upright RGB, uint8 [H, W, 3]) of all indices [N], which are sorted."""

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """Turns whatever goes wrong into a VideoReadError."""
        try:
            yield
        except UnreadableError as error:
            raise VideoReadError(path, self.name, str(error)) from error.__cause__
        except OSError as error:
            reason = f"it cannot be opened ({error.strerror or error})"
            raise VideoReadError(path, self.name, reason) from error
        except Exception as error:  # a broken file may raise anything
            raise VideoReadError(path, self.name, str(error) or type(error).__name__) from error
