import re
from dataclasses import replace

import lightning.pytorch as lightning
import pytest
import torch
from makers import chain, on_two_ranks
from small_fits import fit, network, plan, same, weights
from torch import nn

from actionkit import grammar
from actionkit.contracts import Aggregator, Fits, Shape
from actionkit.fusions.scores import Average
from actionkit.network import SCORES, Chain, Network
from actionkit.training.averaging import EMA
from actionkit.training.engine import callbacks, lightning_options, problems, untrained
from actionkit.training.norms import PreciseNorms, SyncNorms
from actionkit.training.plateau import Judge
from actionkit.training.stopping import Stopping

ALL = {
    "schedule": {"use": "plateau", "patience": 0, "warmup": 0.2},
    "ema": 0.7,
    "precise_bn": 2,
    "early_stopping": {"patience": 50, "metric": "loss"},
}


def test_nothing_is_added_that_is_not_asked_for():
    assert callbacks(plan(), "top1") == []
    kinds = [EMA, PreciseNorms, Judge, Stopping]  # norms are measured for the average weights
    assert [type(callback) for callback in callbacks(plan(**ALL), "top1")] == kinds


def test_lightning_knows_its_options():
    options = lightning_options(grammar.Trainer(sync_batchnorm=True))
    assert [type(plugin) for plugin in options["plugins"]] == [SyncNorms]
    assert lightning_options(grammar.Trainer())["plugins"] == []
    lightning.Trainer(**{**options, "accelerator": "cpu", "logger": False})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path, accumulate):
    """Average, statistics, fallen rates and patience are what they were."""
    settings = plan(**{**ALL, "schedule": {"use": "plateau", "patience": 0}})
    extra = {"accumulate_grad_batches": accumulate, "count": 2}
    last = tmp_path / "cut" / "last.ckpt"
    whole, _ = fit(tmp_path / "whole", settings, epochs=4, **extra)
    fit(tmp_path / "cut", settings, epochs=2, **extra)
    cut, _ = fit(tmp_path / "cut", settings, epochs=4, resume=last, **extra)
    assert same(weights(whole), weights(cut))
    a, b = (torch.load(tmp_path / f / "last.ckpt", weights_only=True) for f in ("whole", "cut"))
    assert same(a["state_dict"], b["state_dict"])
    assert same(a["current_model_state"], b["current_model_state"])
    rates = [[g["lr"] for g in c["optimizer_states"][0]["param_groups"]] for c in (a, b)]
    assert rates[0] == rates[1]
    assert a["callbacks"].keys() == b["callbacks"].keys()


def of_a_rank(rank, folder):
    task, _ = fit(folder / str(rank), plan(**ALL), epochs=2, devices=2, strategy="ddp")
    return {k: v for k, v in weights(task).items() if "running" not in k}


def test_two_ranks_agree(tmp_path):
    first, second = on_two_ranks(of_a_rank, tmp_path, tmp_path)
    assert same(first, second)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_short_training_in_each_precision_of_a_cpu(tmp_path, precision):
    task, _ = fit(tmp_path, plan(**ALL), epochs=1, precision=precision)
    assert all(value.isfinite().all() for value in task.parameters())


# ------------------------------------------------------------------------- what cannot be had


def said(made=None, **options):
    return [f"{'.'.join(key)} {text}" for key, text in problems(plan(**options), made or network())]


def test_nothing_is_wrong_with_what_can_be_had():
    assert said() == []
    assert said(**ALL) == []
    assert said(strategy="ddp", precision="bf16-mixed", compile=True) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "16-mixed"}, "trainer.precision needs a GPU.*write bf16-mixed"),
        ({"sync_batchnorm": True}, "trainer.sync_batchnorm is for several GPUs.*leave it out"),
        ({"strategy": "dpp"}, "trainer.strategy 'dpp' is none .*did you mean 'ddp'"),
        ({"strategy": "deepspeed"}, "'deepspeed' is none whose checkpoints are single.*write one"),
        ({"strategy": "fsdp"}, "trainer.strategy fsdp needs GPUs; write auto"),
        ({"ema": 1.0}, "trainer.ema is a decay: expected less than 1"),
        ({"early_stopping": {"metric": "top7"}}, "stopping.metric 'top7' is not .*loss, top1"),
        ({"schedule": {"metric": "top7"}}, "schedule.metric 'top7' is not measured here"),
    ],
)
def test_refuses(options, sentence):
    (found,) = said(**{"accelerator": "cpu", **options})
    assert re.search(sentence, found)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": 1}, "among several devices, and there is one"),
        ({"devices": [0]}, "among several devices, and there is one"),
        ({"ema": 0.9}, "no whole weights to average"),
        ({"gradient_clip_val": 1.0}, "clips no norms of gradients"),
    ],
)
def test_fsdp_refuses(options, sentence):
    (found,) = said(**{"accelerator": "gpu", "devices": 2, "strategy": "fsdp", **options})
    assert sentence in found


class Fitted(Aggregator, Fits):
    fits = "before"

    def __init__(self, inp):
        super().__init__()
        self.out = inp

    def forward(self, features):
        return features

    def fit_from(self, batches):
        return ""


def test_fsdp_has_no_network_to_fit_parts_on():
    part = Fitted(Shape(None, 3, 1, 1))
    net = Network({"rgb": chain(Shape(None, 3, None, None), part)}, {"rgb": "rgb"})
    (found,) = said(net, accelerator="gpu", devices=2, strategy="fsdp")
    assert "no whole network to fit parts on; write ddp" in found
    (found,) = said(net, precise_bn=3)
    assert "finds no batch norm" in found


def test_a_layer_decay_that_grows_is_none():
    settings = plan()
    settings.optimizer = replace(settings.optimizer, layer_decay=1.5)
    ((key, text),) = problems(settings, network())
    assert key == ("optimizer", "layer_decay")
    assert "expected 1 or less" in text


# ----------------------------------------------------------------------------- idle outputs


def streams(fusion=None, tail=None):
    shape = Shape(None, 3, None, None)
    pairs = {name: chain(shape) for name in ("rgb", "flow")}
    fusion = fusion and fusion({name: Shape(None, 3, 1, 1) for name in pairs})
    return Network(pairs, {"rgb": "rgb", "flow": "flow"}, fusion=fusion, tail=tail)


def test_every_head_needs_a_loss_before_or_behind_the_fusion():
    assert untrained(streams(), ["rgb"]) == ["flow"]
    assert untrained(streams(), ["rgb", "flow"]) == []
    assert untrained(streams(Average), [SCORES]) == []
    assert untrained(streams(Average), ["rgb"]) == ["flow", SCORES]
    assert untrained(network(), [SCORES]) == []
    behind = Chain(head={SCORES: nn.Linear(3, 3), "verb": nn.Linear(3, 3)})
    assert untrained(streams(Average, behind), ["verb"]) == [SCORES]
    assert untrained(streams(Average, behind), ["rgb", "flow"]) == [SCORES, "verb"]


def test_what_is_idle_may_be_frozen():
    net = streams()
    net.streams["flow"].requires_grad_(False)
    assert untrained(net, ["rgb"]) == []


def test_says_what_is_idle():
    settings = plan()
    settings.loss = {"rgb": settings.loss["scores"]}
    ((key, text),) = problems(settings, streams())
    assert key == ("loss",)
    assert text.startswith("takes no loss of 'flow', so what gives")
