"""`actionkit bench`: tables, verdicts and JSON, on data so small that times mean nothing."""

import json

import pytest
from recipes_for_tests import TWO_STREAMS, changed, write
from typer.testing import CliRunner

from actionkit.bench import augment, flow
from actionkit.cli import bench as commands
from actionkit.errors import RunError
from actionkit.recipe import RecipeError
from actionkit.testing import toy

SMALL = {
    "data.dataset.train_scenes": 1,
    "data.dataset.val_scenes": 1,
    "data.dataset.size": 32,
    "data.batch": 4,
    "data.workers": 0,
    "trainer": {"accelerator": "cpu"},
}


def invoke(*arguments, code=0):
    result = CliRunner().invoke(commands.bench, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return str(write(tmp_path, changed(TWO_STREAMS, SMALL)))


@pytest.fixture
def video(tmp_path):
    return str(toy.video(tmp_path / "clip.mp4", codec="libx264", frames=12))


def test_decode_gives_a_table_a_video_and_json(video):
    text = invoke("decode", video, "--rounds", "1")
    for word in ("clip.mp4: 64x48, 12 of 12 frames", "u25, 25 frames", "pyav", "exact", "limit"):
        assert word in text
    found = json.loads(invoke("decode", video, "--rounds", "1", "--json"))
    patterns = [c["title"].split(",")[0] for c in found["comparisons"]]
    assert patterns == ["u8", "u25", "d16x2", "d32x2", "all"]
    for comparison in found["comparisons"]:
        rows = {row["variant"]: row for row in comparison["rows"]}
        assert rows["pyav"]["frames"] == "exact"
        assert rows["pyav"]["cpu_ms"] > 0
        assert {"wall_ms", "ratio", "equal", "spread", "of limit"} <= rows["pyav"].keys()
        assert comparison["verdict"]


def test_decode_of_what_is_no_video_says_so(tmp_path):
    file = tmp_path / "text.mp4"
    file.write_text("this is no video")
    result = CliRunner().invoke(commands.bench, ["decode", str(file), "--rounds", "1"])
    assert isinstance(result.exception, RunError)
    assert str(result.exception) == f"{file} (pyav): it is text, not a video"


def test_loader_tells_clips_a_second_and_what_a_worker_does(recipe, monkeypatch):
    monkeypatch.setattr("actionkit.bench.loader.cpus", lambda: 1)
    found = json.loads(invoke("loader", recipe, "--rounds", "1", "--batches", "2", "--json"))
    assert [row["variant"] for row in found["rows"]] == ["no worker", "1 worker"]
    assert all(row["clips/s"] > 0 for row in found["rows"])
    assert {part["name"] for part in found["worker"]["parts"]} >= {"read", "crop_resize"}
    assert found["worker"]["types"] == {"rgb": "uint8"}
    text = invoke("loader", recipe, "--rounds", "1", "--batches", "2")
    for word in ("no worker", "clips/s", "first look at a file", "MB a clip go to the device"):
        assert word in text


def test_recipe_ends_with_what_binds_and_what_to_do(recipe):
    text = invoke("recipe", recipe, "--steps", "2", "--rounds", "1")
    for word in ("wait for the loader", "device: normalize", "compute", "read", "binds"):
        assert word in text
    found = json.loads(invoke("recipe", recipe, "--steps", "2", "--rounds", "1", "--json"))
    assert found["verdict"][0].count("binds") == 1
    assert found["device"] == "CPU"


def test_a_wrong_recipe_is_said_before_anything_is_measured(recipe):
    for command in ("loader", "recipe"):
        result = CliRunner().invoke(commands.bench, [command, recipe, "data.bach=3"])
        assert isinstance(result.exception, RecipeError)
        assert "Did you mean 'batch'" in str(result.exception)


def test_flow_and_augment_print_rows_and_notes(monkeypatch):
    monkeypatch.setattr(flow, "SIZES", ((64, 80),))
    monkeypatch.setattr(augment, "WIDE", (260, 300))
    text = invoke("flow", "--rounds", "1")
    for word in ("dis_flow medium", "error px", "80x64"):
        assert word in text
    found = json.loads(invoke("augment", "--rounds", "1", "--json"))
    assert len(found["comparisons"]) == 2
    assert found["comparisons"][1]["rows"][0]["kB to the device"] > 0


def test_equal_is_printed_as_equal(capsys):
    from actionkit.bench.clock import Comparison, Row

    rows = [Row("a", 1.0, 1.0, 1.0), Row("b", 1.0, 1.0, 1.1), Row("c", facts={"frames": "WRONG"})]
    commands._show([Comparison("title", rows)], False, ["a note"])
    lines = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines()
             if line.startswith("│")}  # fmt: skip
    assert lines["a"][7] == "1"
    assert lines["b"][7] == "="
    assert "WRONG" in lines["c"]


def test_at_least_one_round(video):
    invoke("decode", video, "--rounds", "0", code=2)
