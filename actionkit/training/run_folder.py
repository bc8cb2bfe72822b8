"""The run folder: where a run's recipe, checkpoints, numbers and results lie."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from actionkit.errors import RunError

INHERITED = "ACTIONKIT_RUN_FOLDER"  # tells the processes that rank 0 starts


class RunFolder:
    """`--run DIR`, else `runs/<name>/<UTC time>-<8 hex of the recipe's hash>`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def choose(cls, record: dict[str, Any], path: Path | None = None) -> RunFolder:
        """The folder for a new run, not made yet.

        Raises RunError for a folder that holds a run already.
        """
        if rank() > 0 and INHERITED in os.environ:
            return cls(Path(os.environ[INHERITED]))
        text = json.dumps(record["recipe"], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        folder = cls(path or Path("runs") / _name(record) / f"{_now()}-{digest}")
        if (folder.path / "recipe.yaml").exists():
            raise RunError(f"{folder.path} holds a run already; choose another --run, or remove it")
        return folder

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
            cure = "choose another --run"
            raise RunError(f"{self.path} cannot be written: {error.strerror}; {cure}") from error
        os.environ[INHERITED] = str(self.path.resolve())

    def add_results(self, command: str, results: dict[str, Any]) -> None:
        """Merges one command's results into results.json."""
        path = self.path / "results.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        known[command] = results
        write(path, json.dumps(known, indent=2) + "\n")


def _name(record: dict[str, Any]) -> str:
    return record["recipe"].get("name") or record["name"]


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def rank() -> int:
    """The process's number on this machine, known before anything distributed has started."""
    return int(os.environ.get("LOCAL_RANK", 0))


def write(path: Path, text: str) -> None:
    """Writes a text file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
