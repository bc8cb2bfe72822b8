"""What readers of video files do alike: PyAV lists a file, and an index means one of its frames."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actionkit.contracts import Info
from actionkit.data.readers.container import Deadline
from actionkit.data.readers.decoding import Source
from actionkit.data.readers.local import LocalReader
from actionkit.data.readers.table import Table, table


class VideoReader(LocalReader):
    """A reader of files that PyAV can list; how frames are decoded is its subclass's business.

    `Info.frames` is what the header promises, or what the packets hold where it says nothing.
    """

    def _info(self, path: Path) -> Info:
        return self._table(path).info

    def _frames(
        self, path: Path, wanted: np.ndarray, deadline: Deadline
    ) -> Iterator[tuple[int, np.ndarray]]:
        known = self._table(path)
        numbers = known.shown(wanted)
        source = Source(str(path.absolute()), known, self.limits, deadline)
        for number, image in self._images(source, np.unique(numbers).tolist()):
            for index in wanted[numbers == number].tolist():
                yield index, image

    def _table(self, path: Path) -> Table:
        """What is known of a file. Raises UnreadableError for what the reader cannot take."""
        return table(path, self.limits)

    @abstractmethod
    def _images(self, source: Source, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, upright RGB, uint8 [H, W, 3]) of every frame, by sorted numbers."""
