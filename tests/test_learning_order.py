"""What the recipes of single networks reach on the embedded data, as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

from actionkit.cli import app

pytestmark = pytest.mark.slow
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def top1(folder, recipe, *overrides):
    arguments = ["fit", recipe, *overrides, "--run", str(folder / "run")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "run" / "results.json").read_text())["fit"]["metrics"]["top1"]


@SEEDS
def test_an_lstm_knows_the_order_of_events(tmp_path, seed):
    assert top1(tmp_path, "lrcn", f"seed={seed}") >= 0.9


@SEEDS
def test_a_mean_in_the_place_of_the_lstm_is_at_chance(tmp_path, seed):
    mean = "model.streams.rgb.aggregate.2.use=mean"
    assert top1(tmp_path, "lrcn", mean, f"seed={seed}") == pytest.approx(1 / 6, abs=0.1)


@SEEDS
def test_single_frames_know_the_colour_but_not_the_motion(tmp_path, seed):
    assert 0.25 <= top1(tmp_path, "single_frame", f"seed={seed}") <= 0.45
