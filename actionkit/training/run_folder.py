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
    """`--run DIR`, else `runs/<name>/<UTC time>-<8 hex of the recipe's hash>`.

    Raises OSError where it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, record: dict[str, Any], path: Path | None = None) -> RunFolder:
        """A folder for a new run, with its recipe written.

        Raises RunError for a folder that holds a run already.
        """
        text = json.dumps(record["recipe"], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        name = record["recipe"].get("name") or record["name"]
        if rank() > 0 and INHERITED in os.environ:
            return cls(Path(os.environ[INHERITED]))
        folder = cls(path or Path("runs") / name / f"{now}-{digest}")
        if (folder.path / "recipe.yaml").exists():
            raise RunError(f"{folder.path} holds a run already; choose another --run, or remove it")
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        os.environ[INHERITED] = str(folder.path.resolve())
        versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
        header = f"# {name}, as it ran on {now} with {versions}\n"
        body = yaml.safe_dump(record["recipe"], sort_keys=False, allow_unicode=True)
        write(folder.path / "recipe.yaml", header + body)
        return folder

    def add_results(self, command: str, results: dict[str, Any]) -> None:
        """Merges one command's results into results.json."""
        path = self.path / "results.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        known[command] = results
        write(path, json.dumps(known, indent=2) + "\n")


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
