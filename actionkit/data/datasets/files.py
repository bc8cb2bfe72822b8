"""Videos without labels, as prediction takes them: files and folders, whole or in windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from actionkit.contracts import Classes, Dataset, Record, VideoReadError
from actionkit.data.datasets.folder import SUFFIXES
from actionkit.data.sources import Sources
from actionkit.errors import RunError


class Files(Dataset):
    """Records as they are given; classes and modalities are those of a trained network."""

    def __init__(
        self, records: Iterable[Record], classes: Classes, modalities: Sequence[str]
    ) -> None:
        self.records = list(records)
        self.classes = classes  # type: ignore[assignment]  # lists, from a checkpoint
        self.modalities = tuple(modalities)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def find_videos(paths: Iterable[Path | str], *, folders: bool = False) -> list[Path]:
    """The files, and in the place of a folder all videos below it, each once.

    Where videos are `folders` of images, they are the innermost folders. Raises RunError for a
    folder without a video. A file that does not exist is met when it is read.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        videos = _innermost(path) if folders else _files(path)
        if not videos:
            raise RunError(f"{path} holds no file named {', '.join(f'*{s}' for s in SUFFIXES)}")
        found.update(dict.fromkeys(videos))
    return list(found)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _innermost(folder: Path) -> list[Path]:
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    return [found for path in inner for found in _innermost(path)] or [folder]


def whole(path: Path, modality: str = "rgb") -> Record:
    """A whole file as one record."""
    return Record(id=str(path), sources={modality: path}, origin=str(path))


def in_windows(record: Record, sources: Sources, seconds: float, hop: float) -> list[Record]:
    """Windows of so many seconds of a file, one every `hop` seconds, the last at its end.

    The id tells the seconds as a media fragment (`#t=2,6`). A file that cannot be opened, or is no
    longer than a window, stays whole.
    """
    try:
        info, _ = sources.timeline(record)
    except VideoReadError:
        return [record]
    if info.seconds <= seconds:
        return [record]
    last = info.seconds - seconds
    starts = [hop * i for i in range(int(last / hop) + 1)]
    if last - starts[-1] > 0.5 / info.fps:  # more than half a frame is left
        starts.append(last)
    return [
        record._replace(id=f"{record.id}#t={s:.6g},{s + seconds:.6g}", start=s, end=s + seconds)
        for s in starts
    ]
