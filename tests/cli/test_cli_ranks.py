"""`actionkit fit` in two processes, as torchrun starts them, is the run of one process."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from makers import good_files
from recipes_for_tests import TWO_STREAMS, changed, write

PIPELINE = {
    "sampler": {"use": "segments", "count": 2},
    "per_sample": [{"use": "crop_resize", "size": 16, "scale": [0.4, 1.0]}, "mirror"],
    "per_batch": ["mirror", "normalize"],
}
STREAM = {"takes": "rgb", "aggregate": ["spatial_pool", "mean"], "head": "linear"}
COUNTED = ("val/top1", "val/top5", "val/mean_class_accuracy")


def recipe(folder, epochs):
    """Augmentation in workers and on the device, no dropout; 3 clips of val in each rank."""
    for split, count in (("train", 6), ("val", 3)):
        for label in ("a", "b"):
            (folder / "videos" / split / label).mkdir(parents=True)
            good_files(folder / "videos" / split / label, count)
    changes = {
        "data.dataset": {"use": "folder", "root": str(folder / "videos")},
        "data.train": PIPELINE,
        "data.eval": PIPELINE,
        "data.batch": 4,
        "data.workers": 0,
        "model.streams": {"one": STREAM, "two": STREAM},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "devices": 2, "save_every": 1},
        "optimizer": {"use": "momentum", "lr": 0.1},
    }
    return write(folder, changed(TWO_STREAMS, changes))


def torchrun(path, folder, *more):
    """The command, started in a process group of its own."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "--no-python", sys.executable, "-m", "actionkit", "fit", str(path), "--no-look", *more,
    ]  # fmt: skip
    return start(command, folder)


def start(command, folder):
    folder.mkdir(exist_ok=True)
    out = (folder / "said.txt").open("w")
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(process, folder, seconds=240):
    """The exit code and what was said."""
    try:
        process.wait(seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, (folder / "said.txt").read_text()


def files(folder):
    (run,) = (folder / "runs" / "recipe").iterdir()
    with (run / "metrics.csv").open(newline="") as file:
        return run / "checkpoints" / "last.ckpt", list(csv.DictReader(file))


def begun(folder, seconds=120):
    deadline = time.monotonic() + seconds
    while not any(folder.glob("runs/*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.05)


def test_two_processes_train_what_one_trains_and_count_the_same(tmp_path):
    path = recipe(tmp_path, epochs=3)
    alone = [sys.executable, "-m", "actionkit", "fit", str(path), "--no-look", "trainer.devices=1"]
    both = [start(alone, tmp_path / "one"), torchrun(path, tmp_path / "two")]
    for process, name in zip(both, ("one", "two"), strict=True):
        code, text = ended(process, tmp_path / name)
        assert code == 0, text
    (one, ours), (two, theirs) = (files(tmp_path / name) for name in ("one", "two"))
    assert len(ours) == len(theirs)
    compared = 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["step"] == other["step"]
        for name, value in mine.items():
            if name.endswith("loss") and value:
                assert float(other[name]) == pytest.approx(float(value), rel=1e-5), name
                compared += 1
        assert [mine[name] for name in COUNTED] == [other[name] for name in COUNTED]
    assert compared >= 12
    weights = (torch.load(file, weights_only=True)["state_dict"] for file in (one, two))
    for mine, other in zip(*(w.values() for w in weights), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_to_the_group_ends_both_behind_a_checkpoint_and_they_go_on(tmp_path, workers):
    path, folder = recipe(tmp_path, epochs=400), tmp_path / "run"
    process = torchrun(path, folder, f"data.workers={workers}")
    begun(folder)
    os.killpg(process.pid, signal.SIGTERM)
    _, text = ended(process, folder, 60)
    assert text.count("stopped by SIGTERM") == 1, text
    (file,) = folder.glob("runs/*/*/checkpoints/last.ckpt")
    step = torch.load(file, weights_only=True)["global_step"]
    assert f"was written at step {step} " in text
    change = ["trainer.max_epochs=401", "--resume", str(file.parent.parent)]
    again = torchrun(path, folder, f"data.workers={workers}", *change)
    deadline = time.monotonic() + 120
    while torch.load(file, weights_only=True)["global_step"] <= step:
        assert time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.2)
    os.killpg(again.pid, signal.SIGKILL)
    again.wait()


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "actionkit", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("actionkit ")
    assert Path(done.args[0]).name
