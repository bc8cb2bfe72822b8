"""A trained run says of videos what its test says, from Python and from the shell."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from recipes_for_tests import TWO_STREAMS, changed, write
from typer.testing import CliRunner
from videos import moving_frames, write_video

import actionkit
from actionkit.cli import app
from actionkit.errors import NoRunError, RunError
from actionkit.prediction import Prediction

CLASSES = ["fast", "slow", "still"]
RATE = 25


def invoke(*arguments, code=0):
    result = CliRunner().invoke(
        app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three classes of two videos each, and a test split of one each, of 20 to 40 frames."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(CLASSES):
        for split, count in (("train", 2), ("val", 1), ("test", 2)):
            for i in range(count):
                frames = moving_frames(20 + 7 * number + i, seed=10 * number + i)
                write_video(root / split / name / f"{i}.mp4", frames, rate=RATE)
    return root


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A run whose evaluation takes several views of a video."""
    folder = tmp_path_factory.mktemp("runs")
    dense = {"use": "dense", "length": 3, "clips": 4}
    recipe = changed(
        TWO_STREAMS,
        {
            "data.dataset": {"use": "folder", "root": str(videos)},
            "data.workers": 0,
            "data.batch": 3,
            "data.eval.sampler": dense,
            "model.streams.one.aggregate": ["spatial_pool"],  # scores of every step
            "model.streams.two.aggregate": ["spatial_pool"],
        },
    )
    recipe["evaluation"] = {"views_per_item": 3}
    recipe["trainer"] = {"max_epochs": 1, "accelerator": "cpu"}
    file = write(folder, recipe, "small.yaml")
    invoke("fit", file, "--run", folder / "run")
    invoke("test", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def tested(run):
    """Scores [K] by id, as `test` wrote them."""
    with open(run / "predictions-test.csv") as file:
        rows = list(csv.DictReader(file))
    return {row["id"]: np.array([float(row[name]) for name in CLASSES]) for row in rows}


def same(prediction, scores):
    np.testing.assert_allclose([prediction.scores[c] for c in CLASSES], scores, atol=1e-5)


def test_python_says_what_test_says(run, videos, tested):
    found = actionkit.load(run).predict(videos / "test")
    assert len(found) == len(tested) == 6
    for prediction in found:
        name = prediction.path.removeprefix(f"{videos}/")
        same(prediction, tested[name])
        assert set(prediction.outputs) == {"one", "two", "scores"}
        assert prediction.outputs["scores"] == prediction.scores
        for scores in prediction.outputs.values():
            assert sum(scores.values()) == pytest.approx(1)


def test_the_command_says_what_test_says(run, videos, tested, tmp_path):
    output = invoke("predict", run, videos / "test", "--out", tmp_path / "all.csv", "--top", 1)
    with open(tmp_path / "all.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        scores = np.array([float(row[name]) for name in CLASSES])
        np.testing.assert_allclose(
            scores, tested[row["path"].removeprefix(f"{videos}/")], atol=1e-5
        )
        assert (row["start"], row["end"], row["error"]) == ("", "", "")
        assert f"{CLASSES[scores.argmax()]} {scores.max():.3f}" in " ".join(output.split())
    assert "probabilities" in output


def test_json_for_programs(run, videos, tested):
    (row,) = json.loads(invoke("predict", run, videos / "test/fast/0.mp4", "--json"))
    assert row["path"] == str(videos / "test/fast/0.mp4")
    np.testing.assert_allclose(list(row["scores"].values()), tested["test/fast/0.mp4"], atol=1e-5)
    assert set(row["outputs"]) == {"one", "two", "scores"}


def test_validate_is_the_end_of_fit(run):
    invoke("validate", run)
    results = json.loads((run / "results.json").read_text())
    assert results["validate"]["metrics"] == results["fit"]["metrics"]
    assert results["validate"]["split"] == "val"


def test_a_checkpoint_alone_is_enough(run, videos, tested, tmp_path):
    shutil.copy(run / "checkpoints/best.ckpt", tmp_path / "mine.ckpt")
    predictor = actionkit.load(tmp_path / "mine.ckpt")
    assert predictor.classes == CLASSES
    (prediction,) = predictor.predict(videos / "test/slow/1.mp4")
    same(prediction, tested["test/slow/1.mp4"])
    assert prediction.top(2) == sorted(prediction.scores.items(), key=lambda p: -p[1])[:2]


def test_windows_of_a_long_video_are_clips_of_their_own(run, videos, tmp_path):
    frames = moving_frames(3 * RATE + 5, seed=3)
    long = write_video(tmp_path / "long.mp4", frames, rate=RATE)
    predictor = actionkit.load(run)
    found = predictor.predict(long, window=1.0)
    assert [(p.start, p.end) for p in found] == [
        (0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3), (pytest.approx(2.2), pytest.approx(3.2)),
    ]  # fmt: skip
    part = write_video(tmp_path / "part.avi", frames[:RATE], codec="ffv1", pix_fmt="bgr0")
    whole = write_video(tmp_path / "whole.avi", frames, codec="ffv1", pix_fmt="bgr0")
    (first, *_), (alone,) = predictor.predict(whole, window=1.0), predictor.predict(part)
    same(first, list(alone.scores.values()))
    shown = invoke("predict", run, long, "--window", 1, "--hop", 1)
    assert "2.0 - 3.0" in shown


def test_what_cannot_be_read_is_named_and_stops_nothing(run, videos, tmp_path):
    bad, good = tmp_path / "bad.mp4", videos / "test/fast/0.mp4"
    bad.write_text("no video")
    first, second, third = actionkit.load(run).predict([bad, good, tmp_path / "missing.mp4"])
    assert (first.scores, first.error) == ({}, "it is text, not a video")
    assert second.error == ""
    assert third.error == "there is no such file"
    assert first.top() == []
    output = invoke("predict", run, bad, good)
    assert "it is text, not a video" in output
    assert "1 of 2 could not be read" in output
    assert "could not be read" in invoke("predict", run, bad, code=1)


def test_nothing_to_predict_is_said(run, tmp_path):
    with pytest.raises(RunError, match="holds no file named"):
        actionkit.load(run).predict(tmp_path)
    with pytest.raises(RunError, match="need more than 0 seconds"):
        actionkit.load(run).predict([], window=-1)
    assert actionkit.load(run).predict([]) == []


def test_neither_data_set_nor_first_weights_are_needed(run, videos, tmp_path):
    """A run of which the data are gone, and the file that its weights started from."""
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    file = moved / "checkpoints/best.ckpt"
    content = torch.load(file, weights_only=True)
    recipe = content["recipe"]["recipe"]
    recipe["data"]["dataset"]["root"] = "${oc.env:NOT_SET_ANYWHERE}"
    recipe["model"]["streams"]["one"]["head"] = {"use": "linear", "weights": "gone.ckpt"}
    recipe["model"]["streams"]["one"]["backbone"]["pretrained"] = True
    recipe["model"]["streams"]["one"]["backbone"]["arch"] = "test_resnet.r160_in1k"
    torch.save(content, file)
    (prediction,) = actionkit.load(moved, "best").predict(videos / "test/still/0.mp4")
    assert not prediction.error


def test_no_run_is_said(run, tmp_path):
    with pytest.raises(NoRunError, match=f"no run folder: .*did you mean {run}"):
        actionkit.load(run.parent)
    with pytest.raises(NoRunError, match=r"no checkpoint other\.ckpt"):
        actionkit.load(run, checkpoint="other.ckpt")
    with pytest.raises(NoRunError, match="no run folder"):
        actionkit.load(tmp_path)


def test_a_data_set_of_other_classes_is_refused(run, videos, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(videos, other)
    for split in ("train", "val", "test"):
        (other / split / "slow").rename(other / split / "walk")
    with pytest.raises(RunError, match=r"3 classes \(fast, slow, still\).*\(fast, still, walk\)"):
        invoke("test", run, f"data.dataset.root={other}")


def test_build_gives_task_and_data(run):
    task, data = actionkit.build(run / "recipe.yaml", ["data.batch=2"])
    assert data.batch == 2
    assert task(next(iter(data.val_dataloader())))["scores"].x.shape[-3] == len(CLASSES)


def test_top_is_best_first():
    scores = {"a": 0.2, "b": 0.5, "c": 0.3}
    assert Prediction("x", scores).top(2) == [("b", 0.5), ("c", 0.3)]
