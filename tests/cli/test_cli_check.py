"""`actionkit check`: everything that is wrong with a recipe in one run, and exit code 2."""

# ruff: noqa: E501  one case a line

import subprocess
import sys

import pytest
from recipes_for_tests import TWO_STREAMS, changed, write

from actionkit import cli

A, B = "model.streams.one", "model.streams.two"

# mistakes by kind, at several places: (changes, overrides, key, words)
UNKNOWN = [
    ({"data.dataset.use": "probess"}, (), "data.dataset.use", "Did you mean 'probes'?"),
    ({f"{A}.head": "lineer"}, (), f"{A}.head", "Did you mean 'linear'"),
    ({"loss.scores": "cross_entropi"}, (), "loss.scores", "Did you mean 'cross_entropy'?"),
    ({"model.fusion": "mean"}, (), "model.fusion", "'mean' is one of the aggregators"),
    ({"evaluation": {"metrics": ["top3"]}}, (), "evaluation.metrics.0", "there is no metric 'top3'"),
    ({"data.eval.sampler.use": "os.system"}, (), "data.eval.sampler.use", "only names of registered"),
]  # fmt: skip
OPTION = [
    ({f"{A}.backbone.pretraind": True}, (), f"{A}.backbone.pretraind", "Did you mean 'pretrained'?"),
    ({"data.train.sampler.strid": 2}, (), "data.train.sampler.strid", "Did you mean 'stride'?"),
    ({"loss.one.smooth": 2}, (), "loss.one.smooth", "unknown option 'smooth' of 'cross_entropy'"),
]  # fmt: skip
TYPE = [
    ({"data.train.sampler.stride": "two"}, (), "data.train.sampler.stride", "a whole number, got 'two'"),
    ({"optimizer": {"lr": "fast"}}, (), "optimizer.lr", "expected a number, got 'fast'"),
    ({"loss.one.weight": True}, (), "loss.one.weight", "expected a number, got true"),
    ({}, ("data.batch=1e-3",), "data.batch", "expected a whole number, got 0.001"),
]  # fmt: skip
MISSING = [
    ({"data.eval.per_sample.0": {"use": "crop_resize"}}, (), "data.eval.per_sample.0", "needs the option 'size'"),
    ({f"{A}.aggregate": "lstm"}, (), f"{A}.aggregate", "needs the option 'hidden'"),
    ({f"{A}.backbone": "timm"}, (), f"{A}.backbone", "needs the option 'arch'"),
]  # fmt: skip
CHAIN = [
    ({f"{B}.aggregate": [{"use": "lstm", "hidden": 4}]}, (), f"{B}.aggregate.0", "put spatial_pool before it"),
    ({f"{B}.aggregate": [{"use": "lstm", "hiden": 4, "hidden": 4}]}, (), f"{B}.aggregate.0", "put spatial_pool before it"),
    ({f"{B}.aggregate": "mean"}, (), f"{B}.head", "put spatial_pool before it"),
]  # fmt: skip
OVERRIDE = [
    ({}, ("trainer.max_epoch=3",), "trainer.max_epoch", "Did you mean 'max_epochs'?"),
    ({}, ("modle.x=3",), "modle", "Did you mean 'model'?"),
    ({}, (f"{A}.aggregat=mean",), f"{A}.aggregat", "Did you mean 'aggregate'?"),
    ({}, ("data.train.per_batch.4=mirror",), "data.train.per_batch.4", "the list has the places 0 to 0"),
]  # fmt: skip
ARRANGEMENTS = [
    (UNKNOWN[0], OPTION[0], TYPE[0], MISSING[0], CHAIN[0], OVERRIDE[0]),
    (UNKNOWN[1], OPTION[1], TYPE[1], MISSING[1], CHAIN[2], OVERRIDE[1]),
    (UNKNOWN[2], OPTION[0], TYPE[2], MISSING[0], CHAIN[0], OVERRIDE[2]),
    (UNKNOWN[3], OPTION[2], TYPE[3], MISSING[2], CHAIN[0], OVERRIDE[3]),
    (UNKNOWN[4], OPTION[1], TYPE[2], MISSING[2], CHAIN[2], OVERRIDE[1]),
    (UNKNOWN[5], OPTION[0], TYPE[1], MISSING[1], CHAIN[0], OVERRIDE[0]),
]


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, list[str]]:
    """Exit code, stdout and the lines of stderr of a command run here."""
    monkeypatch.setattr(sys, "argv", ["actionkit", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err.splitlines()


@pytest.mark.parametrize("mistakes", ARRANGEMENTS)
def test_six_mistakes_are_six_sentences_in_one_run(tmp_path, monkeypatch, capsys, mistakes):
    changes = {key: value for mistake in mistakes for key, value in mistake[0].items()}
    overrides = [o for mistake in mistakes for o in mistake[1]]
    file = write(tmp_path, changed(TWO_STREAMS, changes))
    written = file.read_text().splitlines()
    code, out, lines = run(monkeypatch, capsys, "check", file, *overrides)
    assert code == 2
    assert not out
    assert lines[-2:] == ["", "6 problems in the recipe"]
    sentences = {line.partition(" (")[0]: line for line in lines[:-2]}
    assert set(sentences) == {key for _, _, key, _ in mistakes}
    for _, overridden, key, words in mistakes:
        assert words in sentences[key]
        place = sentences[key].partition(" (")[2].partition("): ")[0]
        if overridden:
            assert place == "command line"
            continue
        path, _, line = place.rpartition(":")
        assert path == str(file)
        name = [part for part in key.split(".") if not part.isdigit()][-1]
        text = written[int(line) - 1].strip()
        assert text.startswith(f"{name}:") or (key[-1].isdigit() and text.startswith("- ")), text


@pytest.mark.parametrize("mistake", [*UNKNOWN, *OPTION, *TYPE, *MISSING, *CHAIN, *OVERRIDE])
def test_one_mistake_is_one_sentence(tmp_path, monkeypatch, capsys, mistake):
    changes, overrides, key, words = mistake
    file = write(tmp_path, changed(TWO_STREAMS, changes))
    code, _, lines = run(monkeypatch, capsys, "check", file, *overrides)
    expected = 2 if "hiden" in str(changes) else 1
    assert (code, len(lines)) == (2, 2 + expected), lines
    assert any(line.startswith(f"{key} (") and words in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model.streams": {}}, "model.streams"),
        ({"model": None}, "'model' is missing"),
        ({f"{A}.aggregate": None, f"{A}.agregate": ["mean"]}, f"{A}.agregate"),
        ({f"{A}.head": None, f"{A}.heda": "linear"}, f"{A}.heda"),
        ({"data.eval.per_sample": None, "data.eval.per_smaple": []}, "data.eval.per_smaple"),
        ({f"{A}.backbone.arch": "${nothing}"}, f"{A}.backbone.arch"),
        ({f"{A}.backbone.arch": "test_resnte"}, f"{A}.backbone"),
        ({f"{A}.takes": "rbg"}, f"{A}.takes"),
        ({"loss.tow": "cross_entropy"}, "loss.tow"),
        ({"optimizer": {"use": "adamv"}}, "optimizer.use"),
        ({"evaluation": {"steps": "maxx"}}, "evaluation.steps"),
        ({"data.train.per_sample.0.size": "16"}, "data.train.per_sample.0.size"),
        ({"data.train.per_sample": []}, "data.train.sampler"),
        ({"data.dataset": {"use": "probes", "size": 33}}, "data.dataset"),
    ],
)  # fmt: skip
def test_nothing_follows_from_a_mistake(tmp_path, monkeypatch, capsys, changes, wanted):
    file = write(tmp_path, changed(TWO_STREAMS, changes))
    code, _, lines = run(monkeypatch, capsys, "check", file, "data.batch=x")  # the builder runs
    assert code == 2
    assert len(lines) == 4, lines
    assert any(wanted in line for line in lines)


def test_a_right_recipe_is_right(tmp_path, monkeypatch, capsys):
    code, out, lines = run(monkeypatch, capsys, "check", write(tmp_path, TWO_STREAMS), "--no-data")
    assert code == 0
    assert "is right: recipe: streams one, two" in " ".join(out.split())
    assert not lines


def test_dangerous_names_run_nothing(tmp_path, monkeypatch, capsys):
    sentinel = tmp_path / "sentinel"
    for node in (
        {"use": "os.system", "command": f"touch {sentinel}"},
        {"use": "os:system", "_args_": [f"touch {sentinel}"]},
        {"_target_": "os.system", "command": f"touch {sentinel}"},
        {"use": "linear", "_target_": "os.system", "_args_": [f"touch {sentinel}"]},
        {"use": "linear", "class_path": "os.system", "init_args": [f"touch {sentinel}"]},
        {"use": "actionkit.contracts:Part"},
        {"use": "builtins:exec"},
    ):
        file = write(tmp_path, changed(TWO_STREAMS, {f"{A}.head": node}))
        code, _, lines = run(monkeypatch, capsys, "check", file)
        assert code == 2
        assert lines[0].startswith(f"{A}.head")
        assert f"({file}:" in lines[0]
    assert not sentinel.exists()


STATIC = [
    {"model.fusion": "averag"},
    {"data.dataset": "os.system"},
    {"_target_": "os.system"},
    {"name": "${oc.decode:1}"},
    {f"{A}.heda": "linear"},
]


def test_mistakes_of_names_are_answered_without_torch(tmp_path):
    files = [
        write(tmp_path, changed(TWO_STREAMS, changes), f"{number}.yaml")
        for number, changes in enumerate(STATIC)
    ]
    code = f"""
import sys
from actionkit import cli

for file in {[str(file) for file in files]!r}:
    sys.argv = ["actionkit", "check", file]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 2, end.code
    else:
        raise AssertionError("no exit")
    bad = {{"torch", "timm", "lightning", "av"}} & set(sys.modules)
    assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("1 problem in the recipe") == len(files)


def test_what_is_no_recipe(tmp_path, monkeypatch, capsys):
    write(tmp_path, TWO_STREAMS)
    code, _, lines = run(monkeypatch, capsys, "check", tmp_path / "recip.yaml")
    assert code == 2
    assert lines[0].endswith(f"there is no such file. Did you mean {tmp_path / 'recipe.yaml'}?")
    code, _, lines = run(monkeypatch, capsys, "check", write(tmp_path, "- a"))
    assert code == 2
    assert lines[0] == f"{tmp_path / 'recipe.yaml'}:1: expected a map with data, model, loss ..."
