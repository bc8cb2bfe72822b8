"""`actionkit fit` from end to end, logged to W&B."""

import csv
import os
import subprocess
import sys

import offline
import pytest
from backend import serving
from client import KEY, environment

SMALL = [
    "data.dataset.train_scenes=2",
    "data.dataset.val_scenes=1",
    "data.dataset.size=32",
    "data.train.per_sample.0.size=32",
    "data.workers=0",
    "data.batch=6",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
]


def actionkit(home, url, *arguments):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    more = {"ACTIONKIT_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "actionkit.cli", *map(str, arguments)]
    told = {**kept, **environment(home, url), **more}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def steps(rows):
    return [int(row["trainer/global_step"]) for row in rows if row.get("train/loss") is not None]


def test_a_recipe_names_the_logger_and_the_numbers_are_kept_twice(tmp_path):
    folder = tmp_path / "run"
    logger = "logger={use: wandb, tags: [mine], clips: 3}"
    with serving() as backend:
        output = actionkit(tmp_path, backend.url, "fit", "two_stream", *SMALL, logger,
                           "--run", folder)  # fmt: skip
        (identity,) = backend.runs
        assert backend.unknown == []
        assert steps(backend.history(identity)) == [2, 5]  # of three steps an epoch, the last
    assert identity == (folder / "wandb" / "run_id.txt").read_text().strip()
    assert f"/runs/{identity}" in output
    assert KEY not in output
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/data_wait"]] == [2, 5]
    recorded = offline.read(offline.folders(folder)[0])
    assert set(recorded.run.tags) == {"mine", "probes", "test_resnet"}
    assert folder.name == recorded.run.display_name
    assert recorded.metrics["val/flow/top1"][1] == ["max", "last"]
    assert recorded.config["recipe"]["data"]["batch"] == 6
    assert {"val/confusion_matrix_table", "val/mistakes"} <= set(recorded.summary)


@pytest.mark.slow
def test_a_dead_server_changes_neither_the_result_nor_the_exit_code(tmp_path):
    output = actionkit(tmp_path, "http://127.0.0.1:9", "fit", "two_stream", *SMALL,
                       "logger=wandb", "--run", tmp_path / "run")  # fmt: skip
    assert "W&B cannot be used online" in output
    assert f"wandb sync {offline.folders(tmp_path / 'run')[-1]}" in output
    assert "fused" in output
