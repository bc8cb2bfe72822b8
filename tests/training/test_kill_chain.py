"""A run that is killed at random moments, again and again, ends as the one that is left alone."""

import csv
import hashlib
import io
import multiprocessing
import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest
import torch
from makers import good_files
from recipes_for_tests import TWO_STREAMS, changed, write

# Forked from a server that has imported what takes long.
KILLED = multiprocessing.get_context("forkserver")
KILLED.set_forkserver_preload(["lightning.pytorch", "actionkit.run", "timm"])
TIMES = ("train/clips_per_second", "train/data_wait")  # differ between any two runs
PIPELINE = {
    "sampler": {"use": "segments", "count": 2},
    "per_sample": [{"use": "crop_resize", "size": 24, "scale": [0.4, 1.0]}, "mirror"],
    "per_batch": ["mirror", "normalize"],
}


def recipe(folder, workers, epochs, **changes):
    """Augmentation in workers and on the device, dropout, accumulation."""
    for split, first in (("train", 0), ("val", 8)):
        for label in ("a", "b"):
            files = folder / "videos" / split / label
            files.mkdir(parents=True)
            good_files(files, 8 if first == 0 else 2)
    stream = {
        "takes": "rgb",
        "aggregate": ["spatial_pool", "layer_norm", "mean"],
        "head": {"use": "linear", "dropout": 0.5},
    }
    values = changed(
        TWO_STREAMS,
        {
            "data.dataset": {"use": "folder", "root": str(folder / "videos")},
            "data.train": PIPELINE,
            "data.eval": PIPELINE,
            "data.batch": 4,
            "data.workers": workers,
            "model.streams": {"one": stream, "two": stream},
            "trainer": {
                "max_epochs": epochs,
                "accelerator": "cpu",
                "save_every": 1,
                "accumulate_grad_batches": 2,
            },
            **changes,
        },
    )
    return write(folder, values)


def train(path, folder, said):
    """What `actionkit fit` does, in a process of its own."""
    os.chdir(folder)
    from rich.console import Console

    from actionkit import builder, run
    from actionkit.errors import RunError

    torch.set_num_threads(1)
    out, code = io.StringIO(), 0
    try:
        run.fit(builder.blueprint(path), Console(file=out, width=200), look=False)
    except RunError as error:
        out.write(f"\n{error}")
        code = error.exit_code
    except BaseException:
        out.write(traceback.format_exc())
        code = 1
    Path(said).write_text(out.getvalue())
    os._exit(code)


def end(folder):
    """Digest of all that a run's last checkpoint trains on with, its steps, and its numbers."""
    (run,) = (folder / "runs" / "recipe").iterdir()
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    moments = [
        s for state in content["optimizer_states"][0]["state"].values() for s in state.values()
    ]
    tensors = [*content["state_dict"].values(), *moments]
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    return digest, content["global_step"], rows


def start(path, folder, said="said.txt"):
    folder.mkdir(exist_ok=True)
    process = KILLED.Process(target=train, args=(path, folder, str(folder / said)))
    process.start()
    return process


def whole(path, folder):
    process = start(path, folder)
    process.join(300)
    assert process.exitcode == 0, (folder / "said.txt").read_text()
    return end(folder)


def begun(folder, seconds=120):
    """Waits until the run has written a checkpoint."""
    deadline = time.monotonic() + seconds
    while not any((folder / "runs").glob("*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def killed(path, folder, kills, chance):
    """Kills the run at random moments, so many times if it lasts; how often it was."""
    for hits in range(kills):
        process = start(path, folder)
        begun(folder)
        process.join(chance.uniform(0.0, 0.5) if hits else 0.2)
        if process.exitcode is not None:
            return hits
        process.kill()
        process.join()
    return kills


@pytest.mark.parametrize(
    ("workers", "epochs", "kills", "least"),
    [(0, 15, 3, 2), *(pytest.param(w, 40, 25, 20, marks=pytest.mark.slow) for w in (0, 2))],
)
def test_killed_at_random_moments_it_ends_the_same(tmp_path, workers, epochs, kills, least):
    path = recipe(tmp_path, workers, epochs)
    expected = whole(path, tmp_path / "whole")
    hits = killed(path, tmp_path / "killed", kills, random.Random(1))
    assert hits >= least
    process = start(path, tmp_path / "killed")
    process.join(300)
    text = (tmp_path / "killed" / "said.txt").read_text()
    assert process.exitcode == 0, text
    assert "goes on" in text
    assert end(tmp_path / "killed") == expected
    assert not list((tmp_path / "killed").rglob("*actionkit-part"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_is_answered_by_a_checkpoint_and_143(tmp_path, workers):
    path = recipe(tmp_path, workers, 500)
    process = start(path, tmp_path / "run")
    begun(tmp_path / "run")
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    text = (tmp_path / "run" / "said.txt").read_text()
    assert process.exitcode == 143, text
    (file,) = (tmp_path / "run" / "runs").glob("*/*/checkpoints/last.ckpt")
    step = torch.load(file, weights_only=True)["global_step"]
    name = file.relative_to(tmp_path / "run")
    assert f"stopped by SIGTERM: {name} was written at step {step} (epoch " in text
    assert "the same command goes on from there" in text
