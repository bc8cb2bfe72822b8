"""Checkpoints that a kill, a full disk or a damaged file cannot spoil."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from actionkit.errors import NoRoomError, RunError
from actionkit.files import free_bytes, megabytes, replacing

NAMES = ("best", "last")
PLAIN = (str, int, float, bool, type(None), torch.Tensor, torch.nn.Parameter)  # most of them


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint beside its place, reads it back, and only then puts it there.

    Lightning's own writes in the folder for temporary files, and moves: across file systems that
    is a copy, which a kill cuts short. It also keeps silent where it may not write.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Puts a checkpoint in its place; on any error what was there before stays.

        Raises NoRoomError where it cannot be written, RunError where it holds more than plain data.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options")
        path = Path(path)
        content = _as_bytes(checkpoint, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(content)
                file.flush()
                _read_back(Path(file.name), path, checkpoint)
        except OSError as error:
            kept = "; the file before it is kept" if path.exists() else ""
            raise NoRoomError(
                f"{path} cannot be written: {error.strerror or error}; it takes "
                f"{megabytes(len(content))} and {megabytes(free_bytes(path.parent))} are free"
                f"{kept}. Free space, or choose another --run"
            ) from error

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """The content of a checkpoint, read with `weights_only=True` whatever is asked.

        Raises RunError for a file that is damaged, or holds more than plain data.
        """
        return _load(Path(path), map_location)


def verify(path: Path) -> None:
    """Raises RunError for a file that is no checkpoint, is damaged, or holds more than plain data.

    Every byte is read, for torch does not see that some have changed.
    """
    _require_zip(path)
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except Exception as error:
        raise RunError(f"{path} is damaged: {_first_line(error)}") from error
    if damaged is not None:
        raise RunError(f"{path} is damaged: the check sum of its part {damaged} is wrong")
    content = _load(path, mmap=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise RunError(f"{path} is no checkpoint of a run: it holds no state_dict")


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a folder that is whole, and a sentence for each newer one."""
    broken: list[str] = []
    files = folder.glob("*.ckpt")
    for path in sorted(files, key=lambda file: file.lstat().st_mtime_ns, reverse=True):
        try:
            verify(path)
        except RunError as error:
            broken.append(str(error))
        else:
            return path, broken
    return None, broken


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, verified.

    Raises RunError; where a run's best or last is broken, it names one beside it that is whole.
    """
    try:
        verify(path)
    except RunError as error:
        whole = newest_whole(path.parent)[0] if path.stem in NAMES else None
        if whole is None:
            raise
        choice = whole.stem if whole.stem in NAMES else whole
        raise RunError(f"{error}; {whole.name} is whole: choose --checkpoint {choice}") from error
    return _load(path)


def _as_bytes(checkpoint: Any, path: Path) -> memoryview:
    """A checkpoint as torch writes it. Raises RunError for entries that cannot be written."""
    buffer = io.BytesIO()
    try:
        torch.save(checkpoint, buffer)
    except Exception:
        _require_plain(checkpoint, path)
        raise
    return buffer.getbuffer()


def _read_back(file: Path, path: Path, checkpoint: Any) -> None:
    """Raises RunError where a file just written does not load; `path` is where it shall lie."""
    try:
        _load(file, mmap=True)
    except RunError:
        _require_plain(checkpoint, path)
        raise


def _require_plain(checkpoint: Any, path: Path) -> None:
    """Raises RunError for the first entry that would not load with `weights_only=True`."""
    for key, value in _not_plain(checkpoint, ""):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise RunError(
            f"{path} is not written, since it could not be loaded safely: its entry {key} is no "
            f"plain data but a {kind}; keep only numbers, text, lists, dicts and tensors there, "
            "such as float(x), str(path) or dict(settings)"
        )


def _not_plain(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Key and value of the innermost entries that do not load with `weights_only=True`."""
    if type(value) in (dict, OrderedDict):
        for name, inner in value.items():
            place = f"{key}.{name}" if key else str(name)
            yield from _not_plain(name, f"{place} (its key)")
            yield from _not_plain(inner, place)
    elif type(value) in (list, tuple, set):
        for i, inner in enumerate(value):
            yield from _not_plain(inner, f"{key}.{i}")
    elif type(value) not in PLAIN and not _loads(value):
        yield key, value


def _loads(value: Any) -> bool:
    """Whether a value comes back from a file that is read with `weights_only=True`."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True


def _load(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> Any:
    """What `torch.load` returns. Raises RunError."""
    _require_zip(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = _first_line(error.__context__ or error).partition(". ")[0]
        raise RunError(
            f"{path} is not loaded (weights_only=True), for it holds more than plain data: {reason}"
        ) from error
    except Exception as error:
        raise RunError(f"{path} cannot be loaded: {_first_line(error)}") from error


def _require_zip(path: Path) -> None:
    """Raises RunError for a file that lacks the directory which stands at a checkpoint's end."""
    try:
        if zipfile.is_zipfile(path):
            return
        with path.open("rb") as file:
            begin = file.read(4)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    if not begin:
        raise RunError(f"{path} is empty")
    if begin == b"PK\x03\x04":
        raise RunError(f"{path} is cut short: it ends after {size:,} bytes, without its directory")
    raise RunError(f"{path} is no checkpoint: torch.save has not written it")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
