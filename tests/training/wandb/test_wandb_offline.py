"""A run recorded on the disk by the real client, and read back from its files."""

import hashlib
import io
import json
import signal
from pathlib import Path

import av
import offline
import pytest
from client import client, small_fit
from small_fit import CLIPS, RECIPE, SIZE, fit

from actionkit.training.wandb.facts import digest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("wandb")


@pytest.fixture(scope="module")
def run(home):
    with client(home):
        fit(home / "run", home / "videos", tags=["mine"])
    return home / "run"


@pytest.fixture(scope="module")
def recorded(run):
    (folder,) = offline.folders(run)
    return offline.read(folder)


def table(run, recorded, key):
    """A logged table's columns and rows."""
    path = recorded.summary[key]["path"]
    content = json.loads((offline.folders(run)[0] / "files" / path).read_text())
    return content["columns"], content["data"]


def named(recorded, kind):
    return [artifact for artifact in recorded.artifacts if artifact.type == kind]


def test_the_run_is_the_folder_s(run, recorded):
    assert recorded.run.run_id == (run / "wandb" / "run_id.txt").read_text().strip()
    assert recorded.run.project == "actionkit"
    assert recorded.run.display_name == "run"
    assert recorded.run.run_group == digest(RECIPE["recipe"])
    assert recorded.run.job_type == "train"
    assert set(recorded.run.tags) == {"mine", "folder", "resnet18"}
    assert recorded.exit_code == 0


def test_the_config_is_the_nested_recipe_with_data_size_and_versions(recorded):
    config = recorded.config
    backbone = config["recipe"]["model"]["streams"]["rgb"]["backbone"]
    assert backbone == {"use": "timm", "arch": "resnet18"}
    assert config["recipe"]["data"]["dataset"]["root"] == "${oc.env:CANARY}"
    ids = "".join(f"good{i}.mp4\n" for i in range(CLIPS))
    split = {"clips": CLIPS, "ids": hashlib.sha256(ids.encode()).hexdigest()[:16]}
    assert config["data"] == {"splits": {"train": split, "val": split}, "classes": 3}
    assert config["parameters"] == {"all": 12, "trained": 12}
    assert {"python", "torch", "cuda", "gpus"} <= set(config["machine"])


def test_the_best_and_the_last_value_sum_a_run_up(recorded):
    assert recorded.metrics["val/top1"] == ("trainer/global_step", ["max", "last"])
    assert recorded.metrics["val/loss"] == ("trainer/global_step", ["min", "last"])
    assert recorded.metrics["*"][0] == "trainer/global_step"
    assert set(recorded.summary["val/top1"]) == {"max", "last"}


def test_every_number_of_metrics_csv_is_in_the_history(run, recorded):
    lines = (run / "metrics.csv").read_text().splitlines()
    columns = [name for name in lines[0].split(",") if "/" in name]
    assert {"train/loss", "train/lr", "train/data_wait", "val/top1"} <= set(columns)
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    for column in columns:
        theirs = [row[column] for row in recorded.history if column in row]
        assert theirs == pytest.approx([float(row[column]) for row in rows if row[column]])


def test_a_confusion_matrix_counts_every_clip_of_every_evaluation(run, recorded):
    key = "val/confusion_matrix_table"
    assert sum(key in row for row in recorded.history) == 3  # two epochs and the end
    columns, rows = table(run, recorded, key)
    assert columns == ["Actual", "Predicted", "nPredictions"]
    assert sum(count for _, _, count in rows) == CLIPS


def test_classes_have_accuracy_and_support_and_curves(run, recorded):
    columns, rows = table(run, recorded, "val/classes")
    assert columns == ["class", "support", "average precision", "accuracy"]
    assert [row[:2] for row in rows] == [["left", 2], ["right", 2], ["still", 2]]
    mean = sum(row[3] for row in rows) / len(rows)
    assert mean == pytest.approx(recorded.summary["val/top1"]["last"])
    columns, rows = table(run, recorded, "val/precision_recall_table")
    assert columns == ["class", "recall", "precision"]
    assert {row[0] for row in rows} == {"left", "right", "still"}


def test_the_worst_mistakes_are_clips_that_play(run, recorded, home):
    columns, rows = table(run, recorded, "val/mistakes")
    assert columns == ["clip", "video", "true", "predicted", "confidence", "loss"]
    wrong = round(CLIPS * (1 - recorded.summary["val/top1"]["last"]))
    assert len(rows) == wrong >= 2
    assert all(row[2] != row[3] for row in rows)
    assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)
    (artifact,) = {a.digest: a for a in recorded.artifacts if "mistakes" in a.name}.values()
    videos = [e for e in artifact.manifest.contents if e.path.endswith(".mp4")]
    assert len(videos) == wrong
    for entry in videos:
        with av.open(io.BytesIO(Path(entry.local_path).read_bytes())) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert [frame.shape for frame in frames] == [(SIZE, SIZE, 3)] * 3


def test_models_are_kept_once_by_best_and_last(run, recorded):
    models = named(recorded, "model")
    assert {a.name for a in models} == {f"model-{recorded.run.run_id}"}
    assert [next(x for x in a.aliases if x != "latest") for a in models] == ["best", "last"]
    best, last = (json.loads(a.metadata) for a in models)
    assert best == {"recipe": "small", "epoch": 0, "step": 3, "top1": best["top1"]}
    assert (last["epoch"], last["step"]) == (1, 6)
    places = [entry.local_path for a in models for entry in a.manifest.contents]
    assert places == [str(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")]


def test_the_data_set_is_used_by_the_run(recorded):
    (data,) = named(recorded, "dataset")
    assert data.name == "folder"
    assert data.use_after_commit
    (entry,) = data.manifest.contents
    manifest = json.loads(Path(entry.local_path).read_text())
    assert manifest["classes"] == ["left", "right", "still"]
    assert manifest["splits"]["train"]["clips"] == CLIPS


def test_it_says_how_to_upload(home, tmp_path, capsys):
    with client(tmp_path):
        fit(tmp_path / "run", home / "videos", epochs=1, clips=0, models=False)
    (folder,) = offline.folders(tmp_path / "run")
    assert f"wandb sync {folder}" in capsys.readouterr().out
    recorded = offline.read(folder)
    assert "val/mistakes" not in recorded.summary
    assert not named(recorded, "model")


def test_a_run_that_was_killed_goes_on_under_its_id(home, run, tmp_path):
    done = small_fit(home, None, folder=tmp_path, videos=home / "videos", kill=0)
    assert done.returncode == -signal.SIGKILL, done.stderr
    identity = (tmp_path / "wandb" / "run_id.txt").read_text().strip()
    with client(home):
        assert fit(tmp_path, home / "videos", epochs=1).version == identity
    # not the folders' names: W&B numbers those that begin in the same second
    files = [next(folder.glob("run-*.wandb")) for folder in offline.folders(tmp_path)]
    ids = [file.stem.removeprefix("run-") for file in files]
    assert ids == [identity, identity]
