"""`frames`: what training and evaluation take of a video, as a picture and as JSON."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import typer
from recipes_for_tests import PIPELINE, TWO_STREAMS, changed, write
from typer.testing import CliRunner
from videos import moving_frames, write_video

from actionkit.cli.frames import frames
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments
from actionkit.data.seeds import mix
from actionkit.errors import RunError
from actionkit.recipe import RecipeError

app = typer.Typer()
app.command()(frames)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("v") / "clip é.mp4", moving_frames(50, 60, 80))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "nothing"))
    return tmp_path


def invoke(*arguments):
    result = CliRunner().invoke(
        app, [str(a) for a in arguments], env={"COLUMNS": "160"}, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def found(*arguments):
    return json.loads(invoke(*arguments, "--json"))


def test_a_sheet_is_written_here_and_a_table_is_printed(place, video):
    text = invoke("two_stream", video)
    assert "frames-clip é.png" in text
    assert "1 x 24" in text
    assert [p.name for p in place.iterdir()] == ["frames-clip é.png"]  # nothing was rendered
    picture = cv2.imdecode(np.fromfile(place / "frames-clip é.png", np.uint8), cv2.IMREAD_COLOR)
    assert 900 <= picture.shape[1] <= 1600


def test_indices_are_those_that_the_sampler_gives(place, video, monkeypatch):
    given = []
    call = Segments.__call__
    monkeypatch.setattr(Segments, "__call__", lambda *a: given.append(call(*a)) or given[-1])
    rows = found("two_stream", video)
    assert sorted(g.tolist() for g in given) == sorted(
        rows[s]["indices"] for s in ("train", "eval")
    )
    sampler, info = Segments(count=6, length=4), PyAV().probe(video)
    rng = np.random.default_rng(mix(0, 0, 0, 0))
    monkeypatch.undo()
    assert rows["train"]["indices"] == sampler(info, _record(), rng).tolist()
    assert rows["eval"]["indices"] == sampler(info, _record(), None).tolist()
    for stage in ("train", "eval"):
        seconds = np.array(rows[stage]["indices"]) / 25
        np.testing.assert_allclose(rows[stage]["seconds"], seconds, atol=1e-6)
    assert len(rows["train"]["boxes"]) == 1
    assert rows["eval"]["boxes"][0][0]["left"] == pytest.approx(0.125, abs=1e-4)


def _record():
    from actionkit.contracts import Record

    return Record("", {})


def test_seed_epoch_and_clip_decide_training_and_nothing_of_evaluation(place, video):
    options = [[], ["--epoch", 1], ["--seed", 1], ["--index", 1], ["seed=1"], ["--epoch", 1]]
    rows = [found("lrcn", video, *o, "--out", f"{i}.png") for i, o in enumerate(options)]
    train = [json.dumps(row["train"]) for row in rows]
    assert len(set(train[:4])) == 4
    assert train[4] == train[2]
    assert train[5] == train[1]
    assert len({json.dumps(row["eval"]) for row in rows}) == 1
    sheets = [(place / f"{i}.png").read_bytes() for i in range(len(options))]
    assert len(set(sheets[:4])) == 4
    assert sheets[5] == sheets[1]
    assert sheets[4] == sheets[2]


def test_neither_data_set_nor_weights_are_looked_for(place, video, monkeypatch):
    import timm

    monkeypatch.setattr(timm, "create_model", None)
    rows = found("ucf101/lrcn", video, "data.train.per_batch.0.probability=1", "--views", 2)
    assert np.array(rows["eval"]["indices"]).shape == (6, 17)
    assert len(rows["eval"]["boxes"]) == 2
    assert rows["train"]["boxes"][0][0]["mirrored"]
    assert (place / rows["sheet"]).is_file()


def test_a_short_video_loops(place, video):
    rows = found("lrcn", video, "data.train.sampler={use: dense, length: 4, stride: 20}")
    assert rows["train"]["indices"] == [[0, 20, 40, 10]]


def test_a_bad_video_ends_with_a_sentence(place):
    (place / "text.mp4").write_text("no video at all")
    for name, reason in (("nowhere.mp4", "there is no such file"), ("text.mp4", "text")):
        with pytest.raises(RunError, match=rf"{name} \(pyav\): .*{reason}"):
            invoke("two_stream", name)
    assert [p.name for p in place.iterdir()] == ["text.mp4"]


def test_a_sheet_that_cannot_be_written_is_said(place, video):
    with pytest.raises(RunError, match=r"x.png cannot be written.*choose another --out"):
        invoke("two_stream", video, "--out", "nowhere/x.png")
    result = CliRunner().invoke(app, ["two_stream", str(video), "--out", "x.jpg"])
    assert result.exit_code == 2
    assert ".png" in result.output


def test_what_is_wrong_with_a_recipe_is_told_all_at_once(place, video):
    broken = changed(
        TWO_STREAMS,
        {"data.eval.per_sample": [], "data.train.per_batch": [{"use": "dis_flow", "length": 1}]},
    )
    with pytest.raises(RecipeError) as error:
        invoke(write(place, broken), video)
    said = [str(problem) for problem in error.value.problems]
    assert len(said) == 2
    assert any("end per_sample with crop_resize" in text for text in said)
    assert any("cannot run here" in text for text in said)
    gone = changed(TWO_STREAMS, {"data.dataset": {"use": "folder", "root": "nowhere"}})
    assert found(write(place, gone), video)["eval"]["indices"][0][0] == 50 // (
        2 * PIPELINE["sampler"]["count"]
    )


def test_the_command_imports_no_torch_before_it_runs():
    code = "import sys, actionkit.cli.frames; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
