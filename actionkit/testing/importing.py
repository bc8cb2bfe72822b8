"""Run as a script: what importing each of the named modules prints and changes, as JSON.

Every module is imported in a fork of one process, so none hides what another does; where there is
no fork the caller starts one process a module. The libraries that actionkit itself stands on are
loaded before: what they do (rich draws random numbers) is not the component's doing.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
from typing import Any

import av  # noqa: F401
import cv2  # noqa: F401
import lightning.pytorch  # noqa: F401
import numpy as np
import rich.console  # noqa: F401
import timm  # noqa: F401
import torch

import actionkit.contracts  # noqa: F401


def state() -> dict[str, Any]:
    """What of a process no import may change, by name."""
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": [str(part) for part in np.random.get_state()],
        "Python's generator": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "whether torch is deterministic": torch.are_deterministic_algorithms_enabled(),
        "whether gradients are kept": torch.is_grad_enabled(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "numpy's error handling": np.geterr(),
        "the working directory": os.getcwd(),
        "signal handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "running threads": threading.active_count(),
        "import hooks": [*map(id, sys.meta_path), *map(id, sys.path_hooks)],
    }


def watch(module: str) -> list[str]:
    """Imports a module here; what it did, as sentences."""
    before = state()
    with tempfile.TemporaryFile() as file:
        saved = [os.dup(1), os.dup(2)]
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            importlib.import_module(module)
            problems = []
        except BaseException as error:  # a plugin's import can raise anything
            problems = [f"raises {type(error).__name__}: {error}"]
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, stream)
        file.seek(0)
        printed = file.read().decode(errors="replace").strip()
    if printed:
        problems.append(f"prints {printed[:300]!r}")
    after = state()
    return problems + [f"changes {name}" for name in before if before[name] != after[name]]


def watch_in_fork(module: str) -> list[str]:
    """The same in a fork of this process, which stays as it is."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        with os.fdopen(into, "w") as pipe:
            json.dump(watch(module), pipe)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else ["ends the process"]


if __name__ == "__main__":
    apart = watch_in_fork if hasattr(os, "fork") else watch
    print(json.dumps({module: apart(module) for module in sys.argv[1:]}))
