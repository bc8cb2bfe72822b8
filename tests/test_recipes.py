"""Every recipe that we ship is right, and takes one training step on small data."""

import json

import pytest
from typer.testing import CliRunner

from actionkit import builder, recipe
from actionkit.cli import app

FOLDER = recipe.recipe_folders()["actionkit"]
RECIPES = sorted(FOLDER.rglob("*.yaml"))
SMALL_PROBES = ["data.dataset.train_scenes=1", "data.dataset.val_scenes=1"]
ONE_STEP = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_recipe_is_right_and_takes_a_step(path, tmp_path):
    assert builder.blueprint(path).problems == []
    assert path.read_text().startswith("# ")  # what `actionkit list` shows of it
    small = [*SMALL_PROBES, *ONE_STEP, "data.batch=4", "data.workers=0", "trainer.accelerator=cpu"]
    arguments = ["fit", str(path), *small, "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())["fit"]
    assert 0 <= results["metrics"]["top1"] <= 1
