"""`actionkit fit` goes on where a run was ended, and says so."""

import multiprocessing
import os
import sys

import pytest
import torch
from makers import good_files
from recipes_for_tests import TWO_STREAMS, changed, write

from actionkit import cli
from actionkit.training.run_folder import RunFolder

PIPELINE = {
    "sampler": {"use": "segments", "count": 2},
    "per_sample": [{"use": "crop_resize", "size": 16, "scale": [0.5, 1.0]}],
    "per_batch": ["mirror", "normalize"],
}
STREAM = {"takes": "rgb", "aggregate": ["spatial_pool", "mean"], "head": "linear"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small recipe, in which commands run."""
    for split, count in (("train", 4), ("val", 2)):
        for label in ("a", "b"):
            (tmp_path / "videos" / split / label).mkdir(parents=True)
            good_files(tmp_path / "videos" / split / label, count)
    changes = {
        "data.dataset": {"use": "folder", "root": "videos"},
        "data.train": PIPELINE,
        "data.eval": PIPELINE,
        "data.batch": 2,
        "data.workers": 0,
        "model.streams": {"one": STREAM, "two": STREAM},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
    write(tmp_path, changed(TWO_STREAMS, changes))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fit(place, monkeypatch, capsys):
    """Exit code, stdout and stderr of fit with more arguments."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["actionkit", "fit", "recipe.yaml", *arguments])
        monkeypatch.delenv("ACTIONKIT_RUN_FOLDER", raising=False)
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return call


def runs(place):
    return sorted((place / "runs" / "recipe").iterdir())


def content(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(one, other):
    return all(torch.equal(one["state_dict"][k], v) for k, v in other["state_dict"].items())


def test_more_epochs_are_the_run_that_had_them_from_the_start(place, fit):
    assert fit("--run", "whole")[0] == 0
    assert fit("--run", "short", "trainer.max_epochs=1")[0] == 0
    code, out, _ = fit("--resume", "short")
    assert code == 0
    assert "goes on  at step 4 (epoch 0), from short/checkpoints/last.ckpt" in out
    assert "changed  trainer.max_epochs was 1, is 2" in out
    assert same(content(place / "short"), content(place / "whole"))
    assert "max_epochs: 2" in (place / "short" / "recipe.yaml").read_text()


def test_a_finished_run_is_left_alone_and_another_begins(place, fit):
    assert fit()[0] == fit()[0] == 0
    assert len(runs(place)) == 2


def unfinish(run):
    """What a kill behind the first epoch would leave."""
    (run / "results.json").unlink()


def test_an_unfinished_one_goes_on_and_new_does_not(place, fit):
    fit()
    (run,) = runs(place)
    unfinish(run)
    code, out, _ = fit()
    assert (code, runs(place)) == (0, [run])
    assert f"goes on  at step 8 (epoch 1), from {run.relative_to(place)}" in out
    unfinish(run)
    assert fit("--new")[0] == 0
    assert len(runs(place)) == 2


def test_a_run_that_was_ended_before_its_first_checkpoint_starts_again(place, fit):
    fit()
    (run,) = runs(place)
    unfinish(run)
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    code, out, _ = fit()
    assert (code, runs(place)) == (0, [run])
    assert "goes on  from its start: it was ended before its first checkpoint" in out


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_broken_checkpoint_gives_way_to_the_one_before_and_both_are_named(place, fit):
    fit()
    (run,) = runs(place)
    before = content(run)
    unfinish(run)
    files = run / "checkpoints"
    os.utime(files / "best.ckpt", (0, 0))
    cut(files / "last.ckpt")
    code, out, _ = fit()
    assert code == 0
    assert "last.ckpt is cut short" in out
    assert "best.ckpt" in out
    assert same(content(run), before)
    unfinish(run)
    for name in ("best", "last"):
        cut(files / f"{name}.ckpt")
    code, _, said = fit()
    assert code == 1
    assert "cannot go on" in said
    assert said.count("is cut short") == 2
    assert "--new" in said


def test_a_changed_recipe_is_shown_key_by_key_before_any_video_is_read(place, fit, monkeypatch):
    fit("--run", "run", "trainer.max_epochs=1")
    monkeypatch.setattr("actionkit.run.preflight", lambda *_: pytest.fail("data were looked at"))
    code, _, said = fit("--resume", "run", "optimizer.lr=0.5", "data.batch=4")
    assert code == 2
    assert "data.batch was 2, is 4: it cannot change in a run" in said
    assert "optimizer.lr was not set, is 0.5: if that is meant, --override-on-resume" in said


def test_what_is_asked_for_changes(place, fit):
    fit("--run", "run", "trainer.max_epochs=1")
    code, out, _ = fit(
        "--resume", "run", "--override-on-resume", "optimizer.lr", "optimizer.lr=0.5"
    )
    assert code == 0
    assert "optimizer.lr was not set, is 0.5" in out
    group = content(place / "run")["optimizer_states"][0]["param_groups"][0]
    assert group["lr"] == 0.5


def test_a_run_of_another_recipe_is_not_gone_on_with_by_its_folder_alone(place, fit):
    fit("--run", "run")
    code, _, said = fit("--run", "run", "seed=9")
    assert code == 1
    assert "run holds a run already; choose another --run, remove it, or write --resume run" in said


def hold(path, ready, done):
    with RunFolder(path).held():
        ready.set()
        done.wait(60)


def test_a_run_that_another_process_trains_is_left_alone(place, fit):
    fit()
    (run,) = runs(place)
    unfinish(run)
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(run, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        code, _, said = fit()
        assert code == 1
        assert "another process is training runs/recipe/" in said
        assert "--new" in said
    finally:
        done.set()
        other.join()
