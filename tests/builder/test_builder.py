"""From a recipe to a network: shapes, heads, joints, parts inside parts, freeze, weights, rates."""

import pytest
import torch
from parts_for_tests import ENTRIES
from recipes_for_tests import SIZE, STEPS, TWO_STREAMS, changed, write

from actionkit import builder, registry
from actionkit.contracts import Clip, Shape
from actionkit.network import SCORES
from actionkit.training.optimizer import make_optimizer, make_schedule, parameter_groups

ONE = "model.streams.one"
JOINT = {
    "streams": {
        "a": {"takes": "rgb"},
        "b": {"takes": "rgb"},
        "low": {"aggregate": ["spatial_pool", "mean"], "head": "linear"},
        "high": {"aggregate": ["spatial_pool", "mean"], "head": "linear"},
    },
    "joint": {"use": "cross", "width": 2},
    "fusion": "average",
}


@pytest.fixture
def plugin(monkeypatch):
    entries = registry.entries() + ENTRIES
    monkeypatch.setattr(registry, "entries", lambda: entries)


def blueprint(folder, changes=None, overrides=()):
    return builder.blueprint(
        write(folder, changed(TWO_STREAMS, changes or {})), overrides, data=False
    )


def built(folder, changes=None, overrides=()):
    """(system, lines about weights) of the real thing."""
    found = builder.blueprint(write(folder, changed(TWO_STREAMS, changes or {})), overrides)
    task, _ = builder.build(found)
    return task.system, found.loaded


def said(found):
    return [f"{p.key}: {p.text}" for p in found.problems]


def clips(batch=2):
    x = torch.rand(batch, 1, STEPS, 3, SIZE, SIZE)
    return {
        "rgb": Clip(
            x, torch.ones(batch, 1, STEPS, dtype=torch.bool), torch.zeros(batch, 1, STEPS), "rgb"
        )
    }


def test_shapes_go_from_part_to_part(tmp_path):
    found = blueprint(tmp_path)
    assert not said(found)
    rows = {row.key: row.out for row in found.components.rows}
    assert rows[f"{ONE}.aggregate.1"] == Shape(1, rows[f"{ONE}.backbone"].channels, 1, 1)
    assert rows[f"{ONE}.head"] == rows["model.fusion"] == Shape(1, 2, 1, 1)
    assert all(p.is_meta for p in found.built.network.parameters())
    assert found.built.heads == {"one": "", "two": "", SCORES: ""}


def test_the_real_network_runs_and_gives_what_was_promised(tmp_path):
    system, _ = built(tmp_path)
    output = system.network(clips())
    assert set(output) == {"one", "two", SCORES}
    classes = len(system.network.streams["one"].head[SCORES].linear.bias)
    assert output[SCORES].x.shape == (2, 1, 1, classes, 1, 1)


def test_the_seed_decides_the_weights(tmp_path):
    first, second, other = (
        next(built(tmp_path, {"seed": seed})[0].network.parameters()) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_single_stream(tmp_path):
    stream = TWO_STREAMS["model"]["streams"]["one"]
    found = blueprint(tmp_path, {"model": {"streams": {"rgb": stream}}, "loss": "cross_entropy"})
    assert not said(found)
    assert set(found.built.heads) == {"rgb", SCORES}


def test_streams_with_heads_need_no_fusion(tmp_path):
    losses = {"one": "cross_entropy", "two": "cross_entropy"}
    found = blueprint(tmp_path, {"model.fusion": None, "loss": losses})
    assert not said(found)
    assert set(found.built.heads) == {"one", "two"}
    found = blueprint(tmp_path, {"model.fusion": None})
    assert said(found) == [
        "loss.scores: the network gives no scores 'scores'; write one of one, two",
        "loss: takes no loss of 'two', so what gives these never learns, and several devices wait "
        "for its gradients; add `two: ...`, or freeze it",
    ]


def test_a_chain_behind_a_fusion(tmp_path):
    base = {
        f"model.streams.{n}.{slot}": None for n in ("one", "two") for slot in ("head", "aggregate")
    }
    tail = {
        "model.aggregate": ["spatial_pool", "mean"],
        "model.head": "linear",
        "model.fusion": "concat",
    }
    found = blueprint(tmp_path, base | tail | {"loss": "cross_entropy"})
    assert not said(found)
    assert set(found.built.heads) == {SCORES}
    assert said(
        blueprint(tmp_path, base | tail | {"loss": "cross_entropy", "model.fusion": None})
    ) == ["model: a chain behind several streams needs a fusion; add `fusion: ...`"]
    del tail["model.head"]
    found = blueprint(tmp_path, base | tail | {"loss": "cross_entropy"})
    assert said(found) == ["model: nothing gives scores; end a chain with `head: linear`"]


def test_a_wrong_chain_is_found_with_its_cure(tmp_path):
    found = blueprint(tmp_path, {f"{ONE}.aggregate": [{"use": "lstm", "hidden": 3}]})
    (text,) = said(found)
    assert text.startswith(
        f"{ONE}.aggregate.0: 'lstm' takes one vector per step, but gets maps of "
    )
    assert text.endswith("; put spatial_pool before it")


def test_what_a_constructor_should_not_do_is_a_sentence(tmp_path, plugin):
    found = blueprint(
        tmp_path, {f"{ONE}.aggregate": "fails", "model.streams.two.aggregate": "no_part"}
    )
    assert said(found) == [
        f"{ONE}.aggregate: 'fails' could not be built: RuntimeError: out of luck",
        "model.streams.two.aggregate: 'no_part' is no Aggregator, which is wanted here",
    ]


# --------------------------------------------------------------------------------------- joint


def test_a_joint_of_a_recipe_runs(tmp_path, plugin):
    system, _ = built(tmp_path, {"model": JOINT, "loss": "cross_entropy"})
    assert set(system.network(clips())) == {"low", "high", SCORES}


def test_a_joint_tells_its_shapes(tmp_path, plugin):
    found = blueprint(tmp_path, {"model": JOINT, "loss": "cross_entropy"})
    assert not said(found)
    (row,) = [r for r in found.components.rows if r.use == "cross"]
    assert {name: shape.channels for name, shape in row.out.items()} == {"low": 2, "high": 4}
    assert set(found.built.heads) == {"low", "high", SCORES}


def test_a_stream_that_is_neither_modality_nor_of_the_joint(tmp_path, plugin):
    model = changed({"model": JOINT}, {"model.streams.hihg": {"head": "linear"}})["model"]
    found = blueprint(tmp_path, {"model": model, "loss": "cross_entropy"})
    assert said(found) == ["model.streams.hihg: the joint returns only low, high"]


def test_what_stands_behind_a_stream_that_ends_in_the_joint_is_refused(tmp_path, plugin):
    model = changed({"model": JOINT}, {"model.streams.a.head": "linear"})["model"]
    (text,) = said(blueprint(tmp_path, {"model": model, "loss": "cross_entropy"}))
    assert text.startswith("model.streams.a: the joint returns only low, high, so what stands")


def test_a_joint_refuses_what_it_cannot_take(tmp_path, plugin):
    model = changed({"model": JOINT}, {"model.streams.b": None})["model"]
    found = blueprint(tmp_path, {"model": model, "loss": "cross_entropy"})
    assert said(found) == ["model.joint: 'cross' takes two streams, but gets 1"]


def test_a_joint_is_no_backbone_of_a_stream(tmp_path, plugin):
    found = blueprint(tmp_path, {f"{ONE}.backbone": "cross"})
    assert said(found) == [f"{ONE}.backbone: 'cross' is no Backbone, which is wanted here"]


# ----------------------------------------------------------------------------- parts inside parts


@pytest.mark.parametrize("part", ["mean", {"use": "mean"}, ["mean"], ["mean", "max"]])
def test_a_part_inside_a_part(tmp_path, plugin, part):
    aggregate = ["spatial_pool", {"use": "within", "part": part}]
    system, _ = built(tmp_path, {f"{ONE}.aggregate": aggregate})
    within = system.network.streams["one"].aggregate[1]
    assert within.out.steps == 1
    assert len(within.part.parts) == (2 if part == ["mean", "max"] else 1)
    assert set(system.network(clips())) == {"one", "two", SCORES}


def test_two_parts_inside_a_part(tmp_path, plugin):
    node = {"use": "within", "part": {"use": "lstm", "hidden": 3}, "other": "mean"}
    found = blueprint(tmp_path, {f"{ONE}.aggregate": ["spatial_pool", node]})
    assert not said(found)
    assert found.built.network.streams["one"].aggregate[1].out == Shape(1, 3, 1, 1)


def test_a_wrong_chain_inside_a_part_is_said_once(tmp_path, plugin):
    node = {"use": "within", "part": ["mean", {"use": "lstm", "hidden": 3}]}
    found = blueprint(tmp_path, {f"{ONE}.aggregate": [node]})
    (text,) = said(found)
    assert text.startswith(f"{ONE}.aggregate.0.part.1: 'lstm' takes one vector per step")


# ------------------------------------------------------------------- freeze, rates, weights


def test_frozen_parts(tmp_path):
    system, _ = built(
        tmp_path, {f"{ONE}.backbone.freeze": True, "model.streams.two.backbone.freeze": 1}
    )
    network = system.network.train()
    whole, partly = (network.streams[n].backbone[0] for n in ("one", "two"))
    assert not any(p.requires_grad for p in whole.parameters())
    assert not any(m.training for m in whole.modules())
    stages = partly.stages()
    assert not any(p.requires_grad for p in stages[0].parameters())
    assert any(p.requires_grad for p in stages[1].parameters())
    assert stages[1].training
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    groups = parameter_groups(network, system.optimizer, system.rate_factors)
    optimizer = make_optimizer(groups, system.optimizer)
    network(clips())[SCORES].x.square().sum().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in whole.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{ONE}.backbone.freeze": 99}, f"{ONE}.backbone.freeze: 'timm' has "),
        ({f"{ONE}.backbone.freeze": -1}, f"{ONE}.backbone.freeze: 'timm' has "),
        (
            {f"{ONE}.head": {"use": "linear", "freeze": 2}},
            f"{ONE}.head.freeze: 'linear' has no stages",
        ),
        (
            {f"{ONE}.backbone.weights": "/no/such.pt"},
            f"{ONE}.backbone.weights: there is no file /no/such.pt",
        ),
    ],
)
def test_freeze_and_weights_that_cannot_be(tmp_path, changes, words):
    (text,) = said(blueprint(tmp_path, changes))
    assert text.startswith(words)


def test_rates_reach_the_optimizer(tmp_path):
    changes = {
        f"{ONE}.backbone.lr": 0.1,
        "optimizer": {"use": "sgd", "lr": 0.5, "weight_decay": 0.01},
    }
    system, _ = built(tmp_path, changes)
    groups = parameter_groups(system.network, system.optimizer, system.rate_factors)
    optimizer = make_optimizer(groups, system.optimizer)
    schedule = make_schedule(optimizer, system.optimizer, epochs=2, steps_per_epoch=3)
    schedule.step_update(1)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    decays = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    own = set(system.network.streams["one"].backbone.parameters())
    assert own
    for parameter in system.network.parameters():
        assert rates[parameter] == pytest.approx(0.05 if parameter in own else 0.5)
        assert decays[parameter] == (0.01 if parameter.ndim > 1 else 0.0)


def test_a_rate_of_nothing(tmp_path):
    system, _ = built(tmp_path, {f"{ONE}.backbone.lr": 0.0})
    assert list(system.rate_factors.values()) == [0.0]


def test_weights_of_a_checkpoint_under_a_prefix(tmp_path):
    source, _ = built(tmp_path, {"seed": 5})
    part = source.network.streams["one"].backbone[0]
    state = {f"network.{k}": v for k, v in source.network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "best.ckpt")
    file = f"{tmp_path}/best.ckpt#network.streams.one.backbone.0"
    system, loaded = built(tmp_path, {"model.streams.two.backbone.weights": file})
    taken = system.network.streams["two"].backbone[0].state_dict()
    assert all(torch.equal(taken[k], v) for k, v in part.state_dict().items())
    assert loaded == [f"model.streams.two.backbone: {len(taken)} tensors taken from {file}"]


def test_weights_say_what_was_not_taken(tmp_path):
    source, _ = built(tmp_path)
    state = dict(source.network.streams["one"].head[SCORES].state_dict())
    state["other.weight"] = state.pop("linear.bias")
    torch.save(state, tmp_path / "w.pt")
    node = {"use": "linear", "weights": f"{tmp_path}/w.pt"}
    _, (text,) = built(tmp_path, {f"{ONE}.head": node})
    assert text == (
        f"{ONE}.head: 1 tensors taken from {tmp_path}/w.pt; not in the file: linear.bias; "
        "in the file but not taken: other.weight"
    )


class Evil:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return type(self.sentinel).touch, (self.sentinel,)


def test_weights_that_are_code_are_refused(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "sentinel")}, tmp_path / "w.pt")
    with pytest.raises(builder.RecipeError) as caught:
        built(tmp_path, {f"{ONE}.backbone.weights": f"{tmp_path}/w.pt"})
    assert f"{ONE}.backbone.weights (" in str(caught.value)
    assert "cannot be used: " in str(caught.value)
    assert not (tmp_path / "sentinel").exists()


# -------------------------------------------------------------------------------------- record


def test_the_record_is_plain_and_has_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_SECRET", "hunter2-canary")
    changes = {"name": "run-${oc.env:ACTIONKIT_SECRET}"}
    system, _ = built(tmp_path, changes)
    assert "hunter2" not in repr(system.recipe)
    assert system.recipe["recipe"]["name"] == changes["name"]
    assert {"actionkit", "torch", "lightning", "timm"} <= set(system.recipe["versions"])
    torch.save(system.recipe, tmp_path / "r.pt")
    assert torch.load(tmp_path / "r.pt", weights_only=True) == system.recipe


def test_metrics_of_a_single_stream_are_those_of_the_network(tmp_path):
    single = {"model.streams.two": None, "model.fusion": None, "loss": "cross_entropy"}
    system, _ = built(tmp_path, single)
    assert list(system.metrics) == [SCORES]
    system, _ = built(tmp_path)
    assert list(system.metrics) == [SCORES, "one", "two"]


@pytest.mark.parametrize(("slot", "use"), [("data.reader", "pyav"), ("task", "recognition")])
def test_a_reader_or_task_that_cannot_be_imported_is_said_before_anything_runs(
    tmp_path, monkeypatch, slot, use
):
    load = registry.load

    def broken(entry):
        if entry.name == use:
            raise registry.BrokenComponentError(f"'{use}' could not be imported: why")
        return load(entry)

    monkeypatch.setattr(registry, "load", broken)
    found = builder.blueprint(write(tmp_path, TWO_STREAMS), data=False)
    assert said(found) == [f"{slot}: '{use}' could not be imported: why"]
