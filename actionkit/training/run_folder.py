"""The run folder: where a run's recipe, checkpoints, numbers and results lie."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from actionkit.errors import NoRoomError, NoRunError, RunError
from actionkit.files import free_bytes, megabytes, remove_unfinished, replacing, write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

INHERITED = "ACTIONKIT_RUN_FOLDER"  # tells the processes that rank 0 starts


class RunFolder:
    """`--run DIR`, else `runs/<name>/<UTC time>-<8 hex of the recipe's hash>`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def choose(
        cls, record: dict[str, Any], path: Path | None = None, *, new: bool = False
    ) -> RunFolder:
        """The folder of an unfinished run of the same recipe, or that of a new one, not made yet.

        Raises RunError where the folder asked for holds a run that cannot go on so.
        """
        if rank() > 0 and INHERITED in os.environ:
            return cls(Path(os.environ[INHERITED]))
        if path is not None:
            return cls._given(path, record, new)
        text = json.dumps(record["recipe"], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        parent = Path("runs") / _name(record)
        mine = [] if new else sorted(parent.glob(f"*-{digest}"), reverse=True)
        begun = (cls(folder) for folder in mine)
        return next((run for run in begun if run.unfinished), None) or cls(_free(parent, digest))

    @classmethod
    def _given(cls, path: Path, record: dict[str, Any], new: bool) -> RunFolder:
        run = cls(path)
        if not (path / "recipe.yaml").exists():
            return run
        recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
        if new or not run.unfinished or recipe != json.loads(json.dumps(record["recipe"])):
            raise RunError(
                f"{path} holds a run already; choose another --run, remove it, or write --resume "
                f"{path} to go on with it"
            )
        return run

    @property
    def unfinished(self) -> bool:
        """Whether a run has begun here and not come to its end."""
        return (self.path / "recipe.yaml").is_file() and "fit" not in self.results()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps others from training here at the same time; the lock falls with the process.

        Raises RunError where somebody does.
        """
        if rank() > 0 or fcntl is None:
            yield
            return
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another process is training {self.path}; write --new to start another run"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield

    def prepare(self) -> None:
        """Proves that a checkpoint can be written here, and leaves no folder behind.

        What killed runs left unfinished is removed. Raises RunError.
        """
        if rank() > 0:
            return
        probe, made = self.checkpoints / "probe", []
        try:
            made = [f for f in (self.checkpoints, self.path) if not f.exists()]
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            remove_unfinished(self.checkpoints)
            with replacing(probe) as file:
                file.write(bytes(4096))
            probe.unlink()
        except OSError as error:
            raise _refused(self.checkpoints, error) from error
        finally:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()

    def require_space(self, checkpoint: int) -> None:
        """Raises NoRoomError where there is no room for three checkpoints of so many bytes.

        That is best, last, and the one being written.
        """
        free = free_bytes(self.path)
        if free < 3 * checkpoint:
            raise NoRoomError(
                f"{self.path} has room for {megabytes(free)}, but a run keeps two checkpoints and "
                f"writes a third, of {megabytes(checkpoint)} each; free space, or choose another "
                "--run"
            )

    def begin(self, record: dict[str, Any]) -> None:
        """Makes the folder and writes the recipe. Raises RunError where that is not possible."""
        if rank() > 0:
            return
        versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
        header = f"# {_name(record)}, as it ran on {_now()} with {versions}\n"
        body = yaml.safe_dump(record["recipe"], sort_keys=False, allow_unicode=True)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write(self.path / "recipe.yaml", header + body)
        except OSError as error:
            raise _refused(self.path, error) from error
        os.environ[INHERITED] = str(self.path.resolve())

    def add_results(self, command: str, results: dict[str, Any]) -> None:
        """Merges one command's results into results.json."""
        text = json.dumps({**self.results(), command: results}, indent=2)
        write(self.path / "results.json", text + "\n")

    def results(self) -> dict[str, Any]:
        """What results.json holds, by command; nothing where there is none."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.is_file() else {}


def checkpoint_of(run: Path, name: str = "best") -> Path:
    """The file of a run's checkpoint `best` or `last`, or of one given as a path.

    Raises NoRunError.
    """
    if not (run / "recipe.yaml").is_file():
        below = [*run.glob("*/recipe.yaml"), *run.glob("*/*/recipe.yaml")]
        inside = sorted(below, key=lambda path: path.stat().st_mtime)
        cure = f"; did you mean {inside[-1].parent}?" if inside else ""
        raise NoRunError(f"{run} is no run folder: it holds no recipe.yaml{cure}")
    file = run / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
    if not file.is_file():
        raise NoRunError(f"there is no checkpoint {file}; take best, last, or a file that is there")
    return file


def _name(record: dict[str, Any]) -> str:
    return record["recipe"].get("name") or record["name"]


def _free(parent: Path, digest: str) -> Path:
    """A folder for a new run, of a name that none has."""
    names = (f"{_now()}{suffix}-{digest}" for suffix in ("", *map("-{}".format, range(2, 100))))
    return next(path for path in map(parent.joinpath, names) if not path.exists())


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def rank() -> int:
    """The process's number, known before anything distributed has started; 0 is but one."""
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK"):
        if int(os.environ.get(name, 0)) > 0:
            return int(os.environ[name])
    return int(os.environ.get("LOCAL_RANK", 0))


def _refused(folder: Path, error: OSError) -> RunError:
    user = f" by user {os.geteuid()}" if hasattr(os, "geteuid") else ""
    reason = error.strerror or error
    return RunError(f"{folder} cannot be written{user}: {reason}; choose another --run")
