"""`actionkit extract features`, of a recipe, a run and a checkpoint."""

import shutil

import pytest
import torch
import typer
from recipes_for_tests import SIZE, changed, write
from rich.console import Console
from typer.testing import CliRunner

from actionkit import builder
from actionkit import run as runs
from actionkit.cli.extracting_features import features
from actionkit.data.stores.features import StoredFeatures
from actionkit.errors import NoRunError, RunError
from actionkit.recipe import RecipeError

PIPELINE = {
    "sampler": {"use": "segments", "count": 2},
    "per_sample": [{"use": "crop_resize", "size": SIZE}],
    "per_batch": ["normalize"],
}
RECIPE = {
    "name": "small",
    "data": {
        "dataset": {"use": "probes", "train_scenes": 1, "val_scenes": 1, "size": SIZE},
        "train": PIPELINE,
        "eval": PIPELINE,
        "batch": 9,
        "workers": 0,
    },
    "model": {
        "streams": {
            "rgb": {
                "backbone": {"use": "timm", "arch": "test_resnet"},
                "aggregate": ["spatial_pool", "mean"],
                "head": "linear",
            }
        }
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write(tmp_path_factory.mktemp("recipe"), RECIPE)


@pytest.fixture(scope="module")
def run(cache, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    runs.fit(builder.blueprint(recipe), Console(quiet=True), folder, look=False)
    return folder


def invoke(*arguments, code=0):
    app = typer.Typer(rich_markup_mode=None)
    app.command()(features)
    wide = {"COLUMNS": "1000", "TERMINAL_WIDTH": "1000"}
    result = CliRunner(env=wide).invoke(
        app, [str(a) for a in arguments], catch_exceptions=code == 2
    )
    assert result.exit_code == code, result.output
    return result.output


def test_a_recipe_s_features_are_read_by_another_recipe(recipe, tmp_path):
    out = tmp_path / "out"
    said = invoke(recipe, out, "seed=3", "--at", "streams.rgb.aggregate.0", "--workers", 1)
    assert f"{out}: 18 clips, 36 steps, " in said
    changes = {
        "data.reader": {"features": {"use": "stored_features", "path": str(out)}},
        "data.train": {"sampler": "full"},
        "data.eval": {"sampler": "full"},
        "model.streams": {"features": {"aggregate": ["mean"], "head": "linear"}},
    }
    found = builder.blueprint(write(tmp_path, changed(RECIPE, changes)))
    found.require()
    assert (
        found.stages.shapes["features"].channels
        == StoredFeatures(path=out).out(found.stages.shapes["features"])[1]
    )
    runs.fit(found, Console(quiet=True), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    plain = changed(RECIPE, {
        **changes,
        "data.reader": {"use": "stored_features", "path": str(out)},
        "model.streams": {"rgb": {"aggregate": ["mean"], "head": "linear"}},
    })  # fmt: skip
    found = builder.blueprint(write(tmp_path, plain, "plain.yaml"))
    found.require()
    assert found.stages.shapes["rgb"] == (None, *StoredFeatures(path=out)._sizes)


def test_a_run_s_features_are_those_of_its_weights(run, recipe, tmp_path):
    """A head's scores, stored from the trained run, from its .ckpt alone, and from the recipe."""
    stores = [tmp_path / name for name in ("run", "ckpt", "recipe")]
    alone = tmp_path / "alone.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", alone)
    options = ("--at", "streams.rgb.head", "--dtype", "float32")
    invoke(run, stores[0], *options, "--checkpoint", "last")
    invoke(alone, stores[1], *options)
    invoke(recipe, stores[2], *options)
    of_run, of_file, of_recipe = (every_step(store) for store in stores)
    assert torch.equal(of_run, of_file)
    assert not torch.allclose(of_run, of_recipe)
    found = builder.blueprint(recipe, trained=True)
    task, _ = builder.build(found)
    weights = torch.load(alone, weights_only=True)["state_dict"]
    task.load_state_dict(weights)
    pooled = tmp_path / "pooled"
    invoke(run, pooled, "--at", "streams.rgb.aggregate.1", "--dtype", "float32", "--checkpoint",
           "last")  # fmt: skip
    with torch.inference_mode():
        scores = task.network.streams["rgb"].head["scores"].linear(every_step(pooled).flatten(1))
    torch.testing.assert_close(of_run.flatten(1), scores)


def every_step(store):
    import numpy as np

    return torch.from_numpy(np.load(store / "features.npy"))


def test_another_checkpoint_does_not_go_on_with_a_store(run, tmp_path):
    out = tmp_path / "out"
    invoke(run, out, "--at", "streams.rgb.backbone")
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    next(x for x in content["state_dict"].values() if x.is_floating_point())[...] += 1
    other = tmp_path / "other.ckpt"
    torch.save(content, other)
    with pytest.raises(RunError, match=r"made with other settings: weights is sha256 \w+ there, "):
        invoke(run, out, "--at", "streams.rgb.backbone", "--checkpoint", other)


def test_what_cannot_be_meant_is_a_sentence(recipe, run, tmp_path):
    said = invoke(recipe, tmp_path / "out", "--at", "streams.rgb.agregate.0", code=2)
    assert "the network has no place 'streams.rgb.agregate.0'. Did you mean " in said
    assert "'model.streams.rgb.aggregate.0'? Known are model.streams.rgb.backbone, " in said
    assert "Missing option '--at'" in invoke(recipe, tmp_path / "out", code=2)
    with pytest.raises(
        NoRunError, match=r"is no run folder: it holds no recipe.yaml; did you mean"
    ):
        invoke(run.parent, tmp_path / "out", "--at", "x")
    with pytest.raises(RecipeError, match="nowhere"):
        invoke("nowhere", tmp_path / "out", "--at", "x")
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(RunError, match=r"bare.ckpt holds no recipe; name its run folder instead"):
        invoke(tmp_path / "bare.ckpt", tmp_path / "out", "--at", "x")
    assert not (tmp_path / "out").exists()
