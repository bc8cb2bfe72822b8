"""`list`, `show` and `check` on recipes that are right."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from actionkit import registry
from actionkit.cli import app


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def run(*arguments):
    """Exit code, and what was said on stderr, of the whole program."""
    done = subprocess.run(
        [sys.executable, "-m", "actionkit.cli", *arguments],
        env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_help_names_every_command_and_teaches_overrides():
    text = invoke("--help")
    for word in ("fit", "test", "check", "show", "list", "trainer.max_epochs=3", "Exit codes"):
        assert word in text
    commands = (
        "fit",
        "validate",
        "test",
        "predict",
        "check",
        "show",
        "frames",
        "list",
        "info",
        "doctor",
        "bench",
    )
    for command in commands:
        assert command in text
        assert "Usage" in invoke(command, "--help")


def test_list_shows_every_component_with_its_options():
    rows = json.loads(invoke("list", "--json"))
    found = {(row["group"], row["name"]): row for row in rows}
    for entry in registry.entries():
        if entry.group != "recipes":
            assert found[entry.group, entry.name]["summary"], entry
    assert "hidden" in found["aggregators", "lstm"]["options"]
    assert found["recipes", "two_stream"]["summary"]
    table = invoke("list", "aggregators")
    assert "lstm" in table
    assert "cross_entropy" not in table
    assert "did you mean" in invoke("list", "aggregator", code=2).lower()


def test_show_prints_the_chain_with_shapes_and_parameters():
    table = invoke("show", "two_stream", "--no-data")
    assert "streams.flow.aggregate.0" in table
    shown = json.loads(invoke("show", "two_stream", "--no-data", "--json"))
    parts = {row["place"]: row for row in shown["parts"]}
    assert parts["data.rgb"]["out"][1] == 3
    assert parts["data.flow"]["out"][1] == 6  # three fields, dx and dy
    assert parts["model.fusion"]["out"][2:] == [1, 1]
    assert sum(row["parameters"] for row in shown["parts"]) == shown["parameters"]
    places = list(parts)
    assert places.index("model.streams.rgb.head") < places.index("model.streams.flow.backbone")


def test_show_origins_says_where_every_value_was_written():
    rows = json.loads(invoke("show", "two_stream", "data.batch=4", "--origins", "--json"))
    origins = {row["key"]: row["origin"] for row in rows}
    assert origins["data.batch"] == "command line"
    file, _, line = origins["optimizer.lr"].rpartition(":")
    assert file.endswith("two_stream.yaml")
    with open(file) as text:
        assert text.read().splitlines()[int(line) - 1].strip().startswith("lr:")


def test_check_opens_every_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path))
    small = ["data.dataset.train_scenes=1", "data.dataset.val_scenes=1", "data.dataset.size=32"]
    text = invoke("check", "two_stream", *small)
    assert "is right" in text
    assert "train: 9 of 9 clips can be opened" in text
    assert "test: the same clips as val" in text
    next(tmp_path.rglob("red_rise.mp4")).write_bytes(b"")
    text = invoke("check", "two_stream", *small, "data.max_bad=0.2")
    assert "the file is empty" in text
    assert "8 of 9 clips can be opened" in text
    code, said = run("check", "two_stream", *small)
    assert code == 4
    assert "more clips of train cannot be read than data.max_bad allows (a share of 0.01)" in said


@pytest.mark.parametrize(("arguments", "wanted"), [
    (["test", "nowhere"], "nowhere is no run folder"),
    (["validate", "nowhere"], "nowhere is no run folder"),
    (["predict", "nowhere", "x.mp4"], "nowhere is no run folder"),
    (["predict", "nowhere", "x.mp4", "--out", "x.txt"], "ends in .csv or .json"),
    (["fit"], "Missing argument"),
    (["fitt"], "No such command"),
])  # fmt: skip
def test_wrong_usage_exits_2_with_a_sentence(arguments, wanted):
    code, said = run(*arguments)
    assert code == 2
    assert wanted in said
