"""The real W&B client, kept away from this machine's home and account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wandb

TESTS = Path(__file__).resolve().parents[2]
KEY = "b5d1" * 10  # as long as a key is


def environment(home: Path, url: str | None = None) -> dict[str, str]:
    """Variables by which all files go below a folder, and all requests to a server, or nowhere."""
    places = {n: str(home / n) for n in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    online = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY} if url else {"WANDB_MODE": "offline"}
    return {"HOME": str(home), "WANDB_ERROR_REPORTING": "false", **places, **online}


@contextmanager
def client(home: Path, url: str | None = None) -> Iterator[None]:
    """The client in this process, started afresh and ended."""
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name, value in environment(home, url).items():
            patch.setenv(name, value)
        yield
        wandb.teardown()


def small_fit(
    home: Path, url: str | None, *more: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The program of that name, in a process of its own."""
    paths = os.pathsep.join([str(TESTS), str(Path(__file__).parent)])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    plain = {n: str(v) if isinstance(v, Path) else v for n, v in options.items()}
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("small_fit.py")), json.dumps(plain), *more],
        env={**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment(home, url)},
        capture_output=True,
        text=True,
        timeout=200,
    )
