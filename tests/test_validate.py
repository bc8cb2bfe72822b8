"""The whole tree against grammar and signatures: every mistake once, nothing else, no torch."""

# ruff: noqa: E501  one case a line

import subprocess
import sys
from pathlib import Path

import pytest
from recipes_for_tests import TWO_STREAMS, changed, write

from actionkit import registry
from actionkit.grammar import Plan
from actionkit.recipe import leaves, load
from actionkit.validate import validate


def check(folder, changes=None, overrides=()):
    """(plan, problems) of the small recipe with changes."""
    values = changed(TWO_STREAMS, changes or {})
    return validate(load(write(folder, values), overrides))


def said(folder, changes=None, overrides=()):
    """{key: sentence} of all problems; fails where two stand at one key."""
    problems = check(folder, changes, overrides)[1]
    found = {p.key: p.text for p in problems}
    assert len(found) == len(problems), problems
    return found


def test_a_right_recipe_becomes_a_plan(tmp_path):
    plan, problems = check(tmp_path)
    assert not problems
    assert isinstance(plan, Plan)
    assert [n.use for n in plan.model.streams["one"].aggregate] == ["spatial_pool", "mean"]
    assert plan.model.streams["one"].backbone[0].options == {"arch": "test_resnet"}
    assert plan.model.streams["one"].backbone[0].key == "model.streams.one.backbone"
    assert plan.model.streams["two"].head[""].use == "linear"
    assert plan.model.fusion is not None
    assert plan.model.joint is None
    assert plan.loss["one"].reserved == {"weight": 0.5}
    assert plan.data.reader[""].use == "pyav"
    assert [n.use for n in plan.evaluation.metrics] == ["top1", "top5", "mean_class_accuracy"]
    assert plan.optimizer.schedule.use == "constant"


@pytest.mark.parametrize("file", sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml")))
def test_our_recipes_are_right(file):
    assert not validate(load(file))[1]


@pytest.mark.parametrize(
    ("changes", "key", "sentence"),
    [
        ({"data.dataset.use": "probess"}, "data.dataset.use", "there is no dataset 'probess'. Did you mean 'probes'?"),
        ({"model.fusion": "averag"}, "model.fusion", "there is no fusion 'averag'. Did you mean 'average'?"),
        ({"model.streams.one.head": "mean"}, "model.streams.one.head", "there is no head 'mean'; 'mean' is one of the aggregators"),
        ({"loss": "os.system"}, "loss", "there is no loss 'os.system'; only names of registered"),
        ({"loss": {"use": "actionkit.contracts:Part"}}, "loss.use", "there is no loss 'actionkit.contracts:Part'"),
        ({"model.streams.one.backbone": {"_target_": "os.system"}}, "model.streams.one.backbone", "expected the name of a backbone"),
        ({"model.streams.one.backbone._target_": "os.system"}, "model.streams.one.backbone._target_", "unknown option '_target_' of 'timm'. Known are: arch"),
        ({"_target_": "os.system"}, "_target_", "unknown key '_target_'. Known are: data, model"),
        ({"model.streams.one._target_": "os.system"}, "model.streams.one._target_", "unknown key"),
        ({"trainer": {"_target_": "os.system"}}, "trainer._target_", "unknown key '_target_'"),
        ({"model.streams.one.backbone.pretraind": True}, "model.streams.one.backbone.pretraind", "unknown option 'pretraind' of 'timm'. Did you mean 'pretrained'?"),
        ({"model.streams.one.backbone.weigths": "x.ckpt"}, "model.streams.one.backbone.weigths", "unknown option 'weigths' of 'timm'. Did you mean 'weights'?"),
        ({"model.streams.one.aggregate": [{"use": "lstm"}]}, "model.streams.one.aggregate.0", "'lstm' needs the option 'hidden'; add `hidden: ...`"),
        ({"model.streams.one.aggregate": "lstm"}, "model.streams.one.aggregate", "'lstm' needs the option 'hidden'"),
        ({"data.train.sampler.count": "four"}, "data.train.sampler.count", "expected a whole number, got 'four'"),
        ({"data.train.sampler.count": 1e-3}, "data.train.sampler.count", "expected a whole number, got 0.001"),
        ({"data.batch": True}, "data.batch", "expected a whole number, got true"),
        ({"data.workers": "atuo"}, "data.workers", "expected a whole number or 'auto', got 'atuo'. Did you mean 'auto'?"),
        ({"name": True}, "name", "expected a text or null, got true; YAML reads the bare words"),
        ({"name": 8}, "name", "expected a text or null, got 8; put it in quotes"),
        ({"trainer": {"max_epoch": 3}}, "trainer.max_epoch", "unknown key 'max_epoch'. Did you mean 'max_epochs'?"),
        ({"trainer": 3}, "trainer", "expected a map with max_epochs, "),
        ({"optimizer": {"schedule": {"use": "cosin"}}}, "optimizer.schedule.use", "got 'cosin'. Did you mean 'cosine'?"),
        ({"data": None}, "", "'data' is missing here; add `data: ...`"),
        ({"data.train.sampler": None}, "data.train", "'sampler' is missing here"),
        ({"data.dataset": 3}, "data.dataset", "expected the name of a dataset, or a map with 'use: NAME'"),
        ({"data.dataset": {"kind": "x"}}, "data.dataset", "expected the name of a dataset, or a map with 'use: NAME'"),
        ({"data.dataset": ["probes"]}, "data.dataset", "expected the name of a dataset"),
        ({"data.train.per_batch": [3]}, "data.train.per_batch.0", "expected the name of a transform"),
        ({"model.streams": {}}, "model.streams", "expected a map of names, at least one"),
        ({"model.streams": ["one"]}, "model.streams", "expected a map of names"),
        ({"model.streams.Two": {"takes": "rgb"}}, "model.streams.Two", "'Two' is no name; write a text of a-z, 0-9 and _"),
        ({"model.streams.one": {True: 3}}, "model.streams.one.True", "unknown key 'True'"),
        ({"model.streams.one.head": {"a-b": "linear"}}, "model.streams.one.head.a-b", "'a-b' is no name"),
        ({"loss": {}}, "loss", "expected at least one; leave it out to have the default"),
        ({"model.streams.one.backbone.freeze": "all"}, "model.streams.one.backbone.freeze", "expected true or false or a whole number, got 'all'"),
        ({"model.streams.one.backbone.lr": "fast"}, "model.streams.one.backbone.lr", "expected a number, got 'fast'"),
        ({"loss.one.lr": 3}, "loss.one.lr", "unknown option 'lr' of 'cross_entropy'"),
        ({"model.streams.one.backbone.weight": 3}, "model.streams.one.backbone.weight", "Did you mean 'weights'?"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_sentence(tmp_path, changes, key, sentence):
    found = said(tmp_path, changes)
    assert list(found) == [key]
    assert sentence in found[key]


@pytest.mark.parametrize(
    ("changes", "key", "meant"),
    [
        ({"data.train.sampler": {"use": "segments", "cuont": 3}}, "data.train.sampler.cuont", "count"),
        ({"model.streams.one.backbone": {"use": "timm", "arhc": "x"}}, "model.streams.one.backbone.arhc", "arch"),
        ({"data.dataset": None, "data.datset": "probes"}, "data.datset", "dataset"),
        ({"data.train.per_sample": None, "data.train.per_smaple": []}, "data.train.per_smaple", "per_sample"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_not_missing_as_well(tmp_path, changes, key, meant):
    found = said(tmp_path, changes)
    assert list(found) == [key]
    assert f"Did you mean '{meant}'?" in found[key]


def test_a_misspelt_slot_is_unknown_not_empty(tmp_path):
    stream = "model.streams.one"
    changes = {f"{stream}.aggregate": None, f"{stream}.agregate": ["mean"]}
    plan, _ = check(tmp_path, changes)
    assert [n.broken for n in plan.model.streams["one"].aggregate] == [True]


def test_what_does_not_fit_leaves_the_default(tmp_path):
    plan, problems = check(tmp_path, {"data.batch": "x", "optimizer": {"weight_decay": "y"}})
    assert len(problems) == 2
    assert (plan.data.batch, plan.optimizer.weight_decay) == (16, 0.0)


def test_null_counts_as_not_written(tmp_path):
    plan, problems = check(tmp_path, {"trainer": {"max_epochs": "${nothing}"}}, ["trainer=null"])
    assert not problems
    assert plan.trainer.max_epochs == 10
    text = "trainer:\n  max_epochs:\nloss:\n"
    _, problems = validate(load(write(tmp_path, text)))
    assert [p.text.split(" is")[0] for p in problems] == ["'data'", "'model'"]


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": {"max_epochs": "${oc.env:ACTIONKIT_NO_SUCH}"}},
        {"model.fusion": "${nothing}"},
        {"model.fusion": {"use": "${nothing}"}},
        {"trainer": "${nothing}"},
        {"model.streams.one.backbone.arch": "${nothing}"},
        {"model.fusion": {"use": "average", "weights": {"one": "${nothing}", "two": 1}}},
        {"data.train.per_sample.0.size": [16, "${now:}"]},
    ],
)
def test_what_was_never_filled_in_is_said_once(tmp_path, changes):
    plan, problems = check(tmp_path, changes)
    assert len(problems) == 1, problems
    assert "${" not in repr(plan).replace("use='${nothing}'", ""), "a broken node's name is all"


def test_the_walk_goes_on_behind_every_mistake(tmp_path):
    wrong = {
        "data.dataset": "probess",
        "data.train.sampler.count": "four",
        "data.train.per_sample.0.sise": 3,
        "data.eval.sampler": {"use": "dense"},
        "data.eval.per_batch": ["normalise", "mirrr"],
        "model.streams.one.backbone": [{"use": "tim"}, 3],
        "model.streams.one.head.dropout": "x",
        "model.streams.two.heda": "linear",
        "model.fusion": {"use": "concat", "axis": 3},
        "loss.two": "mse",
        "trainer": {"precision": 16},
    }
    base = changed(TWO_STREAMS, {"model.streams.one.head": {"use": "linear"}})
    _, problems = validate(load(write(tmp_path, changed(base, wrong))))
    assert sorted(p.key for p in problems) == sorted(
        [
            "data.dataset", "data.train.sampler.count", "data.train.per_sample.0.sise",
            "data.eval.sampler", "data.eval.per_batch.0", "data.eval.per_batch.1",
            "model.streams.one.backbone.0.use", "model.streams.one.backbone.1",
            "model.streams.one.head.dropout", "model.streams.two.heda", "model.fusion.axis",
            "loss.two", "trainer.precision",
        ]
    )  # fmt: skip


def test_every_problem_has_its_line(tmp_path):
    file = write(tmp_path, changed(TWO_STREAMS, {"data.batch": "x", "model.fusion": "averag"}))
    lines = file.read_text().splitlines()
    _, problems = validate(load(file, ["trainer.max_epoch=3"]))
    places = {p.key: p.place for p in problems}
    assert places.pop("trainer.max_epoch") == "command line"
    for key, place in places.items():
        path, _, line = place.rpartition(":")
        assert path == str(file)
        assert lines[int(line) - 1].strip().startswith(key.rpartition(".")[2])
    assert set(places) == {"data.batch", "model.fusion"}


@pytest.fixture
def plugin(monkeypatch):
    from parts_for_tests import ENTRIES

    entries = registry.entries() + ENTRIES
    monkeypatch.setattr(registry, "entries", lambda: entries)


@pytest.mark.parametrize(
    "part", ["mean", {"use": "mean"}, ["spatial_pool", "mean"], [{"use": "lstm", "hidden": 3}]]
)
def test_components_inside_components(tmp_path, plugin, part):
    node = {"use": "within", "part": part}
    plan, problems = check(tmp_path, {"model.streams.one.aggregate": [node]})
    assert not problems
    inner = plan.model.streams["one"].aggregate[0].options["part"]
    assert [n.use for n in inner][-1] in ("mean", "lstm")
    assert inner[0].key.startswith("model.streams.one.aggregate.0.part")


def test_mistakes_inside_components(tmp_path, plugin):
    node = {"use": "within", "part": ["meen", {"use": "lstm", "hiden": 3, "freeze": True}]}
    found = said(tmp_path, {"model.streams.one.aggregate": [node]})
    place = "model.streams.one.aggregate.0.part"
    assert list(found) == [f"{place}.0", f"{place}.1.hiden", f"{place}.1.freeze"]
    assert "there is no backbone or aggregator 'meen'" in found[f"{place}.0"]


def test_sources_that_cannot_be_read(tmp_path, plugin):
    found = said(tmp_path, {"model.streams.one.aggregate": [{"use": "missing", "x": 3}]})
    (text,) = found.values()
    assert text.startswith("'missing' comes from their-dist 1.0, but the source of ")


def test_no_torch_and_no_component_is_imported(tmp_path):
    values = changed(TWO_STREAMS, {"data.dataset": "probess", "model.fusion": "averag"})
    code = (
        "import sys\nfrom actionkit.recipe import load\nfrom actionkit.validate import validate\n"
        f"_, problems = validate(load({str(write(tmp_path, values))!r}, ['modle.x=3']))\n"
        "assert len(problems) == 3, problems\n"
        "assert all(p.static for p in problems), problems\n"
        "bad = {'torch', 'timm', 'av', 'cv2', 'lightning', 'actionkit.contracts'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_written_values_all_reach_the_plan(tmp_path):
    changes = {"seed": 7, "trainer": {"devices": [0, 1], "precision": "16-mixed"}, "name": "x"}
    plan, problems = check(tmp_path, changes)
    assert not problems
    for key, value in leaves(changes):
        at = plan
        for part in key[: 1 + (key[0] == "trainer")]:
            at = getattr(at, part)
        assert value == at or value in at
