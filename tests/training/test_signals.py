"""A signal is noted, and answered between two steps."""

import os
import signal

import pytest

from actionkit.training import signals
from actionkit.training.signals import Signals, StoppedError


class Alone:
    """As much of a trainer as is asked."""

    is_global_zero = True

    class strategy:  # noqa: N801
        @staticmethod
        def reduce_boolean_decision(decision, all):
            assert all is False
            return decision


@pytest.fixture
def listening():
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    heard = Signals()
    heard.listen()
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_is_noted_and_no_more(listening, number, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not listening.agreed(Alone)
    os.kill(os.getpid(), number)
    assert listening.agreed(Alone)
    error = listening.stop(Alone, "x.ckpt was written")
    assert isinstance(error, StoppedError)
    assert error.exit_code == 143
    name = signal.Signals(number).name
    cure = "the same command goes on from there"
    assert str(error) == f"stopped by {name}: x.ckpt was written; {cure}"


@pytest.mark.parametrize(("place", "job"), [
    ({"SLURM_JOB_ID": "7"}, "7"),
    ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
])  # fmt: skip
def test_slurm_is_asked_once_to_run_the_job_again(tmp_path, monkeypatch, listening, place, job):
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    os.kill(os.getpid(), signal.SIGUSR1)
    said = str(listening.stop(Alone, "saved"))
    assert said == "stopped by SIGUSR1: saved; its job is requeued"
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"


def test_slurm_may_refuse(tmp_path, monkeypatch, listening):
    command = tmp_path / "scontrol"
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "the same command goes on" in str(listening.stop(Alone, "saved"))
