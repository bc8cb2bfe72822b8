"""`actionkit tune`: tables, JSON, lines to paste, and sentences."""

import json

import pytest
import torch
from recipes_for_tests import TWO_STREAMS, changed, write
from typer.testing import CliRunner

from actionkit import builder
from actionkit.cli.tuning import tune
from actionkit.errors import RunError
from actionkit.recipe import RecipeError
from actionkit.tasks.recognition import Recognition
from actionkit.training import tuner

STREAM = {
    "backbone": {"use": "timm", "arch": "test_resnet"},
    "aggregate": ["spatial_pool", "mean"],
    "head": "linear",
}
SMALL = {
    "data.dataset.train_scenes": 2,
    "data.dataset.val_scenes": 1,
    "data.dataset.size": 32,
    "data.train.sampler.count": 1,
    "data.train.per_sample.0.size": 24,
    "data.batch": 8,
    "data.workers": 0,
    "trainer": {"accelerator": "cpu"},
    "model": {"streams": {"rgb": STREAM}},
    "loss": "cross_entropy",
}
FALLS = ("--steps", "12", "--from", "1e-4", "--to", "1e-2")


def invoke(*arguments, code=0):
    result = CliRunner().invoke(tune, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def recipe(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.getbasetemp() / "tuning"))
    monkeypatch.chdir(tmp_path)
    return str(write(tmp_path, changed(TWO_STREAMS, SMALL)))


@pytest.fixture
def trials(monkeypatch):
    """What a search would find."""
    found = [tuner.Trial(8, True, 12.345, 2_500_000_000), tuner.Trial(16, False)]
    monkeypatch.setattr(tuner, "largest_batch", lambda *arguments, **options: found)
    return found


def test_lr_ends_with_a_line_that_a_recipe_takes(recipe, tmp_path):
    found = json.loads(invoke("lr", recipe, *FALLS, "--json"))
    assert len(found["rates"]) == len(found["losses"]) == len(found["smooth"]) == 12
    assert found["rates"][0] == pytest.approx(1e-4)
    assert found["rates"][-1] == pytest.approx(1e-2)
    assert found["suggestion"] in found["rates"]
    taken = builder.blueprint(recipe, [found["override"]])
    assert taken.problems == []
    assert taken.plan.optimizer.lr == pytest.approx(found["suggestion"], rel=0.05)
    text = invoke("lr", recipe, *FALLS)
    assert text.rstrip().endswith(found["override"])
    for word in ("rate", "loss", "█", " <", "12 of 12 steps, 8 clips each; all steps were done"):
        assert word in text
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_lr_writes_the_rate_of_the_batch_it_is_written_for(recipe, monkeypatch):
    def curve(*arguments, **options):
        return tuner.RangeTest(3, [1e-4, 1e-3, 1e-2], [3.0, 2.0, 1.0])

    monkeypatch.setattr(tuner, "range_test", curve)
    text = invoke("lr", recipe, "optimizer.lr_for=32")
    rate = curve().suggestion
    assert f"optimizer.lr={4 * rate:g}\n" in text
    assert f"with optimizer.lr_for: lr {4 * rate:g} x 8 / 32 = {rate:g}" in text


def test_lr_without_a_fall_says_so(recipe, monkeypatch):
    def nothing(*arguments, **options):
        return tuner.RangeTest(12, [1e-4, 1e-3], [1.0, 2.0], "the end")

    monkeypatch.setattr(tuner, "range_test", nothing)
    assert "The loss falls at none of these rates; try a lower --from" in invoke("lr", recipe)
    assert json.loads(invoke("lr", recipe, "--json"))["override"] is None


def test_a_long_curve_is_thinned_and_holds_the_suggestion(recipe, monkeypatch):
    losses = [3.0] * 46 + [2.0] + [1.9 - i / 1e4 for i in range(53)]

    def curve(*arguments, **options):
        return tuner.RangeTest(100, [1e-5 * 1.1**i for i in range(100)], losses)

    monkeypatch.setattr(tuner, "range_test", curve)
    rows = [line for line in invoke("lr", recipe).splitlines() if line.startswith("│")]
    assert len(rows) in (20, 21)
    assert sum(" <" in row for row in rows) == 1


def test_rates_in_the_wrong_order_and_wrong_recipes_are_refused(recipe):
    invoke("lr", recipe, "--from", "1", "--to", "0.1", code=2)
    invoke("lr", recipe, "--from", "0", code=2)
    result = CliRunner().invoke(tune, ["lr", recipe, "data.bach=3"])
    assert isinstance(result.exception, RecipeError)


def test_batch_tries_real_batches_and_ends_with_a_line_that_a_recipe_takes(recipe, monkeypatch):
    step = Recognition.training_step

    def take(self, batch, batch_idx):
        if len(batch.id) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Recognition, "training_step", take)
    monkeypatch.setattr(tuner, "NO_LIMIT", ())
    found = json.loads(invoke("batch", recipe, "--json"))
    assert found["batch"] == 8
    assert found["limit_found"] is True
    assert [(t["batch"], t["fits"]) for t in found["trials"]] == [(8, True), (16, False)]
    assert found["trials"][0]["clips/s"] > 0
    assert builder.blueprint(recipe, [found["override"]]).plan.data.batch == 8


def test_batch_tells_every_size_the_line_to_paste_and_what_of_the_rate(recipe, trials):
    text = invoke("batch", recipe)
    rows = [line.replace("│", " ").split() for line in text.splitlines() if line.startswith("│")]
    assert rows == [["8", "yes", "12.3", "2.50"], ["16", "no"]]
    assert "The largest batch that fits one device:\ndata.batch=8\n" in text
    assert "optimizer.lr_for" not in text  # it is the recipe's own batch
    other = invoke("batch", recipe, "data.batch=16")
    assert "with optimizer.lr_for=16 it goes with the batch: lr 0.001 x 8 / 16 = 0.0005" in other
    scaled = invoke("batch", recipe, "optimizer.lr_for=32")
    assert "with optimizer.lr_for the rate goes with it: lr 0.001 x 8 / 32 = 0.00025" in scaled


def test_batch_without_a_limit_says_so(recipe, trials):
    trials.pop()
    assert json.loads(invoke("batch", recipe, "--json"))["limit_found"] is False
    assert "All that was tried fits" in invoke("batch", recipe)


def test_batch_on_a_cpu_is_refused(recipe):
    result = CliRunner().invoke(tune, ["batch", recipe])
    assert isinstance(result.exception, RunError)
    assert "there is no limit to find on a CPU" in str(result.exception)
