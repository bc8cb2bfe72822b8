"""Every recipe that we ship is right, and takes one training step on small data."""

import json
import re
import shlex

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from videos import moving_frames, write_video

from actionkit import builder, recipe
from actionkit.aggregators.recurrent import LSTM
from actionkit.cli import app
from actionkit.contracts import Clip, Shape

FOLDER = recipe.recipe_folders()["actionkit"]
RECIPES = sorted(recipe.recipe_names(FOLDER).values())
ONE_STEP = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]
SMALL = {  # wherever a recipe writes such a key
    ("backbone", "arch"): "test_resnet",
    ("backbone", "pretrained"): "false",
    ("joint", "arch"): "test_resnet",
    ("joint", "pretrained"): "false",
    ("per_sample", "size"): 64,
    ("per_batch", "size"): 56,
    ("eval", "clips"): 2,
    ("fusion", "hidden"): 16,
    ("aggregate", "width"): 64,
    ("data", "batch"): 4,
}
CLASSES = ("Archery", "Biking", "Diving")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    """A toy UCF101 as it is unpacked: three classes, a group to train and one to test in each."""
    root = tmp_path_factory.mktemp("ucf101")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    numbered = [f"{number} {name}\n" for number, name in enumerate(CLASSES, 1)]
    (lists / "classInd.txt").write_text("".join(numbered))
    train, test = [], []
    for number, name in enumerate(CLASSES, 1):
        for group, frames in ((1, 28), (8, 12), (9, 30)):
            file = f"{name}/v_{name}_g{group:02}_c01.avi"
            write_video(root / file, moving_frames(frames, seed=number + group), codec="mpeg4")
            if group == 1:
                test.append(f"{file}\n")
            else:
                train.append(f"{file} {number}\n")
    for split in (1, 2, 3):
        (lists / f"trainlist0{split}.txt").write_text("".join(train))
        (lists / f"testlist0{split}.txt").write_text("".join(test))
    return root


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory):
    """A toy HMDB51 as it is unpacked: three classes, two clips to train and one to test in each."""
    root = tmp_path_factory.mktemp("hmdb51")
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir()
    for number, name in enumerate(("climb", "jump", "run")):
        lines = []
        for film, side, frames in (("A", 1, 40), ("B", 2, 24), ("C", 1, 33)):
            file = f"{film}_{name}_f_cm_np1_ba_med_0.avi"
            write_video(root / name / file, moving_frames(frames, seed=number), codec="mpeg4")
            lines.append(f"{file} {side}\n")
        (lists / f"{name}_test_split1.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def roots(ucf101, hmdb51):
    return {"ucf101": ucf101, "hmdb51": hmdb51}


def small(path, roots):
    """Overrides, each of something that the recipe itself says, for a run of seconds."""
    tree = recipe.load(path)
    named = [
        f"{recipe.dotted(key)}={value}"
        for key, own in recipe.leaves(tree.values)
        for (part, last), value in SMALL.items()
        if key[-1] == last and part in key and key in tree.origins
        if not str(own).startswith("test_")  # such an arch is small
    ]
    if root := roots.get(tree.values["data"]["dataset"]["use"]):
        return [*named, f"data.dataset.root={root}"]
    return [*named, "data.dataset.train_scenes=1", "data.dataset.val_scenes=1"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_recipe_is_right_and_takes_a_step(path, tmp_path, roots):
    overrides = small(path, roots)
    data = [o for o in overrides if o.startswith("data.dataset.")]
    assert builder.blueprint(path, data).problems == []
    assert path.read_text().startswith("# ")  # what `actionkit list` shows of it
    here = ["data.workers=0", "trainer.accelerator=cpu", "trainer.check_val_every_n_epoch=1"]
    arguments = ["fit", str(path), *overrides, *ONE_STEP, *here, "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())["fit"]
    assert 0 <= results["metrics"]["top1"] <= 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_what_a_recipe_says_to_type_is_right(path, roots):
    """Commands in its comments: indented lines of `actionkit fit recipes/...`."""
    text = re.sub(r"\\\n#\s*", "", path.read_text())
    lines = re.findall(r"^#  +actionkit fit (.*)$", text, re.MULTILINE)
    assert len(lines) == text.count("actionkit fit")
    for line in lines:
        name, *overrides = shlex.split(line)
        assert FOLDER / name.removeprefix("recipes/") == path
        root = [f"data.dataset.root={roots[d]}" for d in roots if f"/{d}/" in name]
        assert builder.blueprint(path, [*overrides, *root]).problems == [], line


def test_a_data_set_that_is_not_there_is_told_with_its_key():
    path = FOLDER / "ucf101" / "lrcn.yaml"
    (problem,) = builder.blueprint(path, ["data.dataset.root=nowhere"]).problems
    assert problem.key == "data.dataset"
    assert re.search("^'ucf101' .*nowhere.*root", problem.text)


def rows(name, ucf101, *overrides):
    found = builder.blueprint(FOLDER / name, [f"data.dataset.root={ucf101}", *overrides])
    assert found.problems == []
    return found, {row.key: row for row in found.components.rows}


def test_lrcn_has_the_published_sizes(ucf101):
    found, parts = rows("ucf101/lrcn.yaml", ucf101)
    for stream, hidden in (("rgb", 256), ("flow", 1024)):
        key = f"model.streams.{stream}"
        assert parts[f"{key}.aggregate.1"].out == Shape(16, 4096, 1, 1)
        one_bias = 4 * hidden * (4096 + hidden + 1)
        assert parts[f"{key}.aggregate.2"].parameters == one_bias + 4 * hidden  # torch has two
        (head,) = (row for row in parts.values() if row.key.startswith(f"{key}.head"))
        assert head.out == Shape(16, len(CLASSES), 1, 1)
        assert head.parameters == (hidden + 1) * len(CLASSES)
    assert parts["model.streams.flow.before"].out == Shape(16, 3, 224, 224)
    assert found.built.network.fusion.weights == pytest.approx({"rgb": 1 / 3, "flow": 2 / 3})
    assert sorted(found.components.rate_factors.values()) == [10, 10]
    with torch.device("meta"):
        lstm = LSTM(Shape(16, 4096, 1, 1), hidden=256)
    assert sum(p.numel() for p in lstm.parameters()) - 4 * 256 == 4_457_472


def test_two_stream_sees_one_place_in_training_and_25_in_evaluation(ucf101):
    found, parts = rows("ucf101/two_stream.yaml", ucf101)
    for stage, views in ((found.stages.train, 1), (found.stages.eval, 25)):
        assert (stage.sampler.views, stage.sampler.steps) == (views, 11)
    assert found.stages.shapes == {"rgb": Shape(1, 3, 224, 224), "flow": Shape(1, 20, 224, 224)}
    assert parts["model.streams.flow.backbone"].out == Shape(1, 512, 7, 7)
    assert found.built.network.fusion.of == "probabilities"


@pytest.mark.parametrize(("name", "side"), [("lrcn", 224), ("two_stream", 210)])
def test_the_box_in_a_frame_of_ucf101_is_as_large_as_the_recipe_says(name, side, ucf101):
    found, _ = rows(f"ucf101/{name}.yaml", ucf101)
    rows_and_columns = torch.from_numpy(np.indices((240, 320), np.float32))
    front = torch.ones(1, 1, 1)
    clip = Clip(rows_and_columns[None, None, None], front.bool(), front, "rgb")
    crop = found.stages.train.per_sample[0]
    for rng in map(np.random.default_rng, range(20)):
        seen = crop.apply({"rgb": clip}, [crop.draw(rng)])["rgb"].x
        assert seen.shape[-2:] == (224, 224)
        assert (extent(seen) == side - 1).all()
    whole = found.stages.eval.per_sample[0].apply({"rgb": clip}, [{}])
    assert extent(whole["rgb"].x).flatten().tolist() == [239, 319]
    ten = found.stages.eval.per_batch[0].apply(whole, [{}])["rgb"].x
    assert ten.shape[1:] == (10, 1, 2, 224, 224)
    assert (extent(ten) - (side - 1)).abs().max() < 0.5
    assert (ten.amin((0, 1, 2, 4, 5)) == 0).all()  # from corner to corner
    assert ten.amax((0, 1, 2, 4, 5)).tolist() == [239, 319]


def extent(x):
    """From the first row and column to the last, of each picture."""
    return x.amax((-1, -2)) - x.amin((-1, -2))
