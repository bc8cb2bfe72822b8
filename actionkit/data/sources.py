"""Which reader reads which modality of a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from actionkit.contracts import Info, Reader, Record, VideoReadError


class Source(NamedTuple):
    """One modality of a record: what is read, and by whom."""

    reader: Reader
    path: Path


class Sources:
    """The readers of a data set: one for all modalities its records have, or one for each that is
    to be read.
    """

    def __init__(self, readers: Reader | Mapping[str, Reader]) -> None:
        self.readers = dict(readers) if isinstance(readers, Mapping) else readers

    def of(self, record: Record) -> dict[str, Source]:
        """What is read of a record, by modality. Raises VideoReadError where it lists none."""
        readers = self.readers
        if not isinstance(readers, dict):
            readers = dict.fromkeys(record.sources, readers)
        try:
            return {m: Source(r, r.source(record, m)) for m, r in readers.items()}
        except KeyError as error:
            listed = ", ".join(record.sources)
            reason = f"its record has no {error} to read, only {listed}"
            raise VideoReadError(record.id, "data.reader", reason) from None

    def each(self, change: Callable[[Reader], Any]) -> Sources:
        """The same with every reader changed."""
        if isinstance(self.readers, dict):
            return Sources({m: change(reader) for m, reader in self.readers.items()})
        return Sources(change(self.readers))

    @property
    def folders(self) -> bool:
        """Whether videos are folders of images."""
        readers = self.readers.values() if isinstance(self.readers, dict) else [self.readers]
        return any(reader.folders for reader in readers)

    def timeline(self, record: Record) -> tuple[Info, Record]:
        """What a sampler is told: which indices every modality has, and the record whose start and
        end still count. Raises VideoReadError.
        """
        sources = self.of(record).values()
        infos = [source.reader.probe(source.path) for source in sources]
        first, frames = infos[0], min(info.frames for info in infos)
        if frames < first.frames:
            first = first._replace(frames=frames, seconds=frames / first.fps)
        if all(source.reader.whole for source in sources):
            record = record._replace(start=None, end=None)
        return first, record
