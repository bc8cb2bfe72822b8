"""Signals that ask a run to end: SIGTERM, and SIGUSR1, SLURM's word that time is nearly up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from typing import Any

import lightning.pytorch as lightning

from actionkit.errors import RunError

SIGNALS = tuple(n for name in ("SIGTERM", "SIGUSR1") if (n := getattr(signal, name, None)))


class StoppedError(RunError):
    """A run ended because it was asked to; it can go on."""

    exit_code = 143


class Signals:
    """Which signal has come, if any. The handler does no more than note it: what is to be done is
    done between two steps, by all ranks together.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None

    def listen(self) -> None:
        """Takes the place of Lightning's handlers, which talk to other ranks from within a handler
        and end the process as if nothing were left to do.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:
        self.came = signal.Signals(number)

    def agreed(self, trainer: lightning.Trainer) -> bool:
        """Whether a signal has come to any rank; all ranks must ask."""
        came = self.came is not None
        return trainer.strategy.reduce_boolean_decision(came, all=False)

    def stop(self, trainer: lightning.Trainer, saved: str) -> StoppedError:
        """What ends the run. Within a SLURM job that may be requeued, this is asked for."""
        requeued = trainer.is_global_zero and _requeue()
        again = "its job is requeued" if requeued else "the same command goes on from there"
        name = self.came.name if self.came else "a signal to another rank"
        text = f"stopped by {name}: {saved}; {again}"
        return StoppedError(text if trainer.is_global_zero else "")


def _requeue() -> bool:
    """Asks SLURM to run this job again. False outside of SLURM, and where it will not."""
    job, command = _job(), shutil.which("scontrol")
    if not job or command is None:
        return False
    done = subprocess.run([command, "requeue", job], capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0


def _job() -> str:
    """The SLURM job's number, of an array 12_3."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "")
