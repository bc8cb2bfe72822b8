"""What all readers of local files do alike: they know a file, pick its frames, explain errors."""

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
from actionkit.data.readers.decoding import Source
from actionkit.data.readers.table import Table, table


class LocalReader(Reader):
    """A reader of files that PyAV can list; how frames are decoded is its subclass's business."""

    name: ClassVar[str]  # as registered

    def __init__(self, limits: Limits) -> None:
        for name, value in limits._asdict().items():
            if value is not None and value <= 0:
                raise ValueError(f"needs {name} above 0, but got {value}")
        self.limits = limits

    def probe(self, path: Path) -> Info:
        """The packets are listed and the first frame is decoded, once per file and process.

        `frames` is what the header promises, or what the packets hold where it says nothing.
        """
        with self._explained(path):
            return self._table(path).info

    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Frames `indices` [N] as RGB, uint8 [N, 3, H, W] on memory [N, H, W, 3]."""
        with self._explained(path):
            known = self._table(path)
            info = known.info
            if indices.size and not 0 <= indices.min() <= indices.max() < info.frames:
                raise UnreadableError(
                    f"frames {indices.min()} to {indices.max()} were asked for, "
                    f"but it has frames 0 to {info.frames - 1}"
                )
            numbers = known.shown(indices)
            out = np.empty((len(indices), info.height, info.width, 3), np.uint8)
            source = Source(str(path.absolute()), known, self.limits, Deadline(self.limits.timeout))
            for number, image in self._images(source, np.unique(numbers).tolist()):
                out[numbers == number] = image
            return torch.from_numpy(out).permute(0, 3, 1, 2)

    def _table(self, path: Path) -> Table:
        """What is known of a file. Raises UnreadableError for what the reader cannot take."""
        return table(path, self.limits)

    @abstractmethod
    def _images(self, source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, upright RGB, uint8 [H, W, 3]) of every frame, by sorted numbers."""

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
