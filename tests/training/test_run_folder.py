import json
import re
from pathlib import Path

import pytest
import yaml

from actionkit.errors import RunError
from actionkit.training.run_folder import INHERITED, RunFolder, write

RECIPE = {
    "name": "két_stream",
    "seed": 3,
    "data": {"dataset": {"use": "folder", "root": "videos: here"}, "batch": 4},
    "model": {"streams": {"rgb": {"aggregate": ["spatial_pool", {"use": "mean"}]}}},
    "optimizer": {"lr": 1e-05, "schedule": {"min_lr": 0.0}},
    "off": "no",
    "nothing": None,
}
RECORD = {"name": "file_name", "recipe": RECIPE, "versions": {"actionkit": "0.1", "torch": "2.10"}}


def create(record, path=None):
    run = RunFolder.choose(record, path)
    run.begin(record)
    return run


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(INHERITED, "")  # so that what `begin` sets is taken back
    monkeypatch.delenv(INHERITED)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_place_without_a_path():
    run = create(RECORD)
    assert re.fullmatch(r"runs/két_stream/\d{8}T\d{6}Z-[0-9a-f]{8}", run.path.as_posix())
    assert run.checkpoints == run.path / "checkpoints"
    assert run.checkpoints.is_dir()


def test_name_of_the_recipes_file_where_it_has_none():
    run = create({**RECORD, "recipe": {**RECIPE, "name": None}})
    assert run.path.parent == Path("runs/file_name")


def test_hash_is_that_of_what_the_recipe_says(monkeypatch, tmp_path):
    def digest(recipe, **versions):
        monkeypatch.chdir(tmp_path_of[len(seen)])
        seen.append(create({**RECORD, "recipe": recipe, "versions": versions}).path.name)
        return seen[-1][-8:]

    seen: list[str] = []
    tmp_path_of = [tmp_path / str(i) for i in range(3)]
    for folder in tmp_path_of:
        folder.mkdir()
    first = digest(RECIPE)
    assert digest(dict(reversed(RECIPE.items())), torch="1") == first
    assert digest({**RECIPE, "seed": 4}) != first


def test_a_given_path_is_taken(tmp_path):
    run = create(RECORD, tmp_path / "a" / "b")
    assert run.path == tmp_path / "a" / "b"
    assert (run.path / "recipe.yaml").is_file()


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    create(RECORD, tmp_path / "run")
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="holds a run already"):
        create({**RECORD, "recipe": {**RECIPE, "seed": 4}}, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before


def test_choosing_makes_nothing(tmp_path):
    RunFolder.choose(RECORD, tmp_path / "run")
    RunFolder.choose(RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot be written: .*; choose another --run"):
        create(RECORD, tmp_path / "file" / "run")


def test_recipe_loads_again(tmp_path):
    text = (create(RECORD, tmp_path / "run").path / "recipe.yaml").read_text("utf-8")
    loaded = yaml.safe_load(text)
    assert loaded == RECIPE
    assert list(loaded) == list(RECIPE)  # in the order of the author
    assert text.splitlines()[0].startswith("# két_stream, as it ran on ")
    assert "actionkit 0.1, torch 2.10" in text.splitlines()[0]


def test_other_ranks_take_the_folder_of_rank_0(tmp_path, monkeypatch):
    first = create(RECORD, tmp_path / "run")
    files = sorted(first.path.rglob("*"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.chdir("/")
    other = create(RECORD)
    assert other.path == first.path.resolve()
    assert sorted(first.path.rglob("*")) == files


def test_results_of_several_commands_stand_side_by_side(tmp_path):
    run = create(RECORD, tmp_path / "run")
    run.add_results("fit", {"metrics": {"top1": 0.5}})
    RunFolder(run.path).add_results("test", {"metrics": {"top1": 0.25}})
    run.add_results("fit", {"metrics": {"top1": 0.75}})
    assert json.loads((run.path / "results.json").read_text()) == {
        "fit": {"metrics": {"top1": 0.75}},
        "test": {"metrics": {"top1": 0.25}},
    }
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints",
        "recipe.yaml",
        "results.json",
    ]


def test_writes_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "results.json"
    write(file, "first\n")
    with pytest.raises(UnicodeEncodeError):
        write(file, "x" * 100_000 + "\ud800")  # which UTF-8 cannot hold
    assert file.read_text() == "first\n"
    assert list(tmp_path.iterdir()) == [file]  # no temporary one left
    write(file, "second\n")
    assert file.read_text() == "second\n"
