"""Workers outlive signals, and end when they must."""

import subprocess
import sys
import textwrap

import pytest


def run(code, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=__file__.rpartition("/tests/")[0] + "/tests",
        **options,
    )


SETUP = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from actionkit.contracts import Dataset, Info, Reader, Record, Sampler
from actionkit.data.sources import Sources
from actionkit.data.clips import Clips
from actionkit.data.loader import Loader
from actionkit.data.order import InTurn

class Many(Dataset):
    classes = ["a"]
    def __len__(self): return 64
    def __getitem__(self, i): return Record(str(i), {"rgb": Path("none")}, 0)

class Gray(Reader):
    def probe(self, path): return Info(4, 1.0, 4.0, 2, 2)
    def read(self, path, indices): return torch.zeros(len(indices), 3, 2, 2, dtype=torch.uint8)

class First(Sampler):
    steps = views = 1
    def __call__(self, info, record, rng): return np.zeros((1, 1), np.int64)

clips = Clips(Many(), Sources(Gray()), First(), [], train=False)
loader = Loader(clips, InTurn([1] * 64, 2), 2)
"""


def test_a_run_that_fails_midway_ends_its_workers_and_itself():
    done = run(SETUP + "batches = iter(loader)\nnext(batches)\nraise SystemExit(7)")
    assert done.returncode == 7, done.stderr


def test_workers_ignore_a_signal_to_the_group():
    done = run(
        SETUP
        + """
signal.signal(signal.SIGTERM, lambda *_: None)
batches = iter(loader)
count = sum(len(next(batches).id) for _ in range(2))  # one from each worker: both have started
os.killpg(0, signal.SIGTERM)
count += sum(len(batch.id) for batch in batches)
print(count)
""",
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["64"]


def test_a_closed_loader_can_be_asked_again():
    done = run(
        SETUP
        + """
first = [batch.id for batch in loader]
workers = [w.pid for w in loader._iterator._workers]
loader.close()
for pid in workers:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        continue
    raise SystemExit("a worker lives on")
print([batch.id for batch in loader] == first)
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]


STARTING = """
import threading, time
from torch import multiprocessing
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()  # as a progress bar's
start, started = multiprocessing.Process.start, []

def starting(process):
    start(process)
    started.append(process)
    if len(started) == 1:
        between()

multiprocessing.Process.start = starting
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_while_workers_start_waits_until_they_are_known(name):
    """The other thread takes it, since the main one has blocked it."""
    done = run(
        SETUP
        + STARTING
        + f"""
class Asked(BaseException): pass
def answer(*_): raise Asked
signal.signal(signal.{name}, answer)

def between():
    os.kill(os.getpid(), signal.{name})
    time.sleep(0.3)

try:
    next(iter(loader))
except Asked:
    print(len(started), len(loader._iterator._workers), signal.getsignal(signal.{name}) is answer)
    loader.close()
    sys.exit(7)
"""
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.split() == ["2", "2", "True"]


def test_where_a_worker_cannot_start_those_before_it_end():
    done = run(
        SETUP
        + STARTING
        + """
def between(): raise OSError("no more processes")

try:
    next(iter(loader))
except OSError as error:
    print(error, [process.is_alive() for process in started])
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "no more processes [False]"


def test_a_worker_that_does_not_end_by_itself_is_ended():
    done = run(
        SETUP
        + """
batches = iter(loader)
next(batches)
workers = loader._iterator._workers
os.kill(workers[0].pid, signal.SIGSTOP)  # as one that hangs in a read
loader.close()
print([worker.is_alive() for worker in workers])
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[False, False]"
