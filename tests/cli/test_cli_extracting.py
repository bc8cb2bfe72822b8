"""`actionkit extract`: from a recipe to a store that another recipe trains on."""

import json

import pytest
from recipes_for_tests import TWO_STREAMS, changed, write
from typer.testing import CliRunner

from actionkit import builder
from actionkit.cli import main
from actionkit.cli.extracting import extract
from actionkit.data.stores.folder import Store
from actionkit.errors import RunError, TooManyBadClipsError
from actionkit.recipe import RecipeError

SMALL = {
    "data.dataset.train_scenes": 1,
    "data.dataset.val_scenes": 1,
    "data.dataset.size": 32,
    "data.batch": 4,
    "data.workers": 0,
}
CROP, DIS = {"use": "crop_resize", "size": 32}, {"use": "dis_flow", "length": 3, "bound": 4}
WITH_FLOW = {
    "data.train.sampler.length": 4,
    "data.train.per_sample": [CROP, DIS],
    "data.eval.sampler.length": 4,
    "data.eval.per_sample": [CROP, DIS],
}


@pytest.fixture(autouse=True)
def place(tmp_path_factory, tmp_path, monkeypatch):
    """An empty working folder; the rendered videos are shared."""
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path)


def invoke(*arguments):
    result = CliRunner().invoke(
        extract,
        [*map(str, arguments), "--workers", "0"],
        env={"COLUMNS": "200"},
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def recipe(folder, changes=None, name="recipe.yaml"):
    return write(folder, changed(TWO_STREAMS, {**SMALL, **(changes or {})}), name)


def test_frames_take_the_place_of_the_videos(tmp_path):
    path = recipe(tmp_path)
    said = invoke("frames", path, "store", "--short-side", "24", "--quality", "80")
    assert said.startswith("store: frames of 18 videos stored (432 frames, ")
    assert ", 0 failed; " in said
    assert Store.open(tmp_path / "store", "frames").settings == {
        "reader": {"use": "pyav"},
        "short_side": 24,
        "quality": 80,
    }
    reader = {"use": "stored_frames", "path": str(tmp_path / "store")}
    stored = builder.blueprint(recipe(tmp_path, {"data.reader": reader}, "stored.yaml"))
    stored.require()
    _, data = builder.build(stored)
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch.bad == ()
    assert batch.clips["rgb"].x.shape == (4, 1, 3, 3, 48, 48)


def test_flow_lies_beside_the_frames_of_a_recipe_without_a_maker(tmp_path):
    invoke("flow", recipe(tmp_path, WITH_FLOW), "store", "--short-side", "0")
    assert Store.open(tmp_path / "store", "flow").settings["flow"] == {
        "use": "dis_flow",
        "bound": 4.0,
        "preset": "ultrafast",
    }
    reader = {"use": "stored_flow", "path": str(tmp_path / "store"), "stack": 2}
    changes = {"data.reader": {"rgb": "pyav", "flow": reader}, "model.streams.two.takes": "flow"}
    stored = builder.blueprint(recipe(tmp_path, changes, "stored.yaml"))
    stored.require()
    assert stored.stages.shapes["flow"] == (3, 4, 48, 48)
    _, data = builder.build(stored)
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch.bad == ()
    assert batch.clips["flow"].x.shape == (4, 1, 3, 4, 48, 48)
    assert batch.clips["flow"].kind == "flow"


def listed(folder, names, **lists):
    """A data set of these files, copies of a rendered video or texts, with lists of their names."""
    source = builder.blueprint(recipe(folder)).datasets["train"]
    source.prepare()
    root = folder / "videos"
    root.mkdir()
    for name in names:
        good = source[0].sources["rgb"].read_bytes()
        (root / name).write_bytes(b"this is no video" if name.startswith("bad") else good)
    for name, members in lists.items():
        (root / f"{name}.txt").write_text("".join(f"{member} up\n" for member in members))
    dataset = {"use": "listing", "root": "videos", "train": "a.txt", "val": "b.txt"}
    return recipe(folder, {"data.dataset": dataset})


def test_a_second_call_finds_nothing_to_do_and_another_recipe_adds_its_videos(tmp_path):
    names = ["0.mp4", "1.mp4", "2.mp4"]
    path = listed(tmp_path, names, a=names[:1], b=names[1:2], c=names[2:])
    assert "frames of 2 videos stored" in invoke("frames", path, "store")
    assert invoke("frames", path, "store").startswith(
        "store is finished: it holds all 2 videos, nothing was done"
    )
    said = invoke("frames", path, "store", "data.dataset.train=c.txt")
    assert "frames of 1 videos stored (24 frames" in said
    assert ", 1 were there, 0 failed" in said
    with pytest.raises(RunError, match="quality is 90 there, 50 is wanted"):
        invoke("frames", path, "store", "--quality", "50")


def test_what_fails_is_told_and_beyond_the_budget_an_error(tmp_path):
    names = ["good.mp4", *(f"bad{i}.mp4" for i in range(7))]
    path = listed(tmp_path, names, a=names[:4], b=names[4:])
    said = invoke("frames", path, "store", "data.max_bad=0.9")
    assert "  not stored: bad0.mp4: it is text, not a video\n" in said
    assert "  and 2 more, all in store/store.json\n" in said
    assert "frames of 1 videos stored" in said
    with pytest.raises(TooManyBadClipsError) as caught:
        invoke("frames", path, "store")
    assert str(caught.value).startswith(
        "7 of 8 videos could not be stored, and data.max_bad allows a share of 0.01; all others "
        "are in the store. Repair them"
    )
    assert len(Store.open(tmp_path / "store", "frames").failures) == 7


def test_mistakes_of_the_recipe_are_problems_and_a_missing_maker_has_a_cure(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'size'"):
        invoke("frames", recipe(tmp_path), "store", "data.dataset.sizes=3")
    with pytest.raises(RunError, match="makes no flow"):
        invoke("flow", recipe(tmp_path), "store")
    assert not (tmp_path / "store").exists()


def test_the_command_line_says_what_and_ends_with_the_right_code(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["actionkit", "extract", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    code, _, error = call("flow", recipe(tmp_path), "store")
    assert code == 1
    assert error.startswith("the recipe makes no flow, so that it does not tell how; add a maker")
    code, said, _ = call("frames", recipe(tmp_path), "store", "--workers", "2")
    assert code == 0
    assert "store: frames of 18 videos stored" in said
    files = sorted(p.name for p in (tmp_path / "store").iterdir())
    assert files == ["data.bin", "offsets.bin", "store.json", "videos.jsonl"]
    assert json.loads((tmp_path / "store" / "store.json").read_text())["complete"]
