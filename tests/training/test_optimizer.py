import io
import itertools
import math
from dataclasses import replace

import pytest
import timm.optim
import torch
from makers import optimizer
from torch import nn

from actionkit.backbones.timm import Timm
from actionkit.contracts import Shape
from actionkit.training.optimizer import (
    make_optimizer,
    make_schedule,
    parameter_groups,
    scaled,
    told_rate,
)


class Inner(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 3), nn.LayerNorm(3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.outer = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Inner())
        self.head = nn.Linear(3, 2)


def by_name(net, groups):
    """name -> (lr with its factor, weight decay)."""
    names = {p: name for name, p in net.named_parameters()}
    return {
        names[p]: (group["lr"] * group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


def test_no_decay_on_norms_and_biases():
    net = Net()
    settings = optimizer(lr=0.1, weight_decay=0.01)
    found = by_name(net, parameter_groups(net, settings, {}))
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert decayed == {"outer.0.weight", "outer.2.0.weight", "head.weight"}
    assert {decay for _, decay in found.values()} == {0.0, 0.01}
    assert {lr for lr, _ in found.values()} == {0.1}
    assert found.keys() == dict(net.named_parameters()).keys()


@pytest.mark.parametrize("turned", [False, True])
def test_innermost_factor_counts_in_whatever_order_they_come(turned):
    net = Net()
    factors = {net.outer: 0.1, net.outer[2]: 10.0, net.outer[2][0]: 3.0}
    if turned:
        factors = dict(reversed(factors.items()))
    found = by_name(net, parameter_groups(net, optimizer(lr=0.5), factors))
    rates = {name: lr for name, (lr, _) in found.items()}
    assert rates["head.weight"] == 0.5
    assert rates["outer.0.weight"] == rates["outer.1.bias"] == pytest.approx(0.05)
    assert rates["outer.2.0.weight"] == rates["outer.2.0.bias"] == pytest.approx(1.5)
    assert rates["outer.2.1.weight"] == pytest.approx(5.0)


def test_frozen_parameters_are_left_out():
    net = Net()
    net.outer.requires_grad_(False)
    found = by_name(net, parameter_groups(net, optimizer(), {net.outer: 0.1}))
    assert found.keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize("use", ["adamw", "sgd", "momentum", "lamb"])
def test_every_parameter_is_stepped_at_its_own_rate(use):
    net = Net()
    settings = optimizer(use, lr=0.01, weight_decay=0.1)
    made = make_optimizer(parameter_groups(net, settings, {net.outer: 0.5}), settings)
    make_schedule(made, settings, epochs=2, steps_per_epoch=3)
    groups = made.param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    assert {group["lr"] for group in groups} == {0.01, 0.005}
    before = [p.clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_momentum_and_decay_are_those_of_the_recipe():
    weight = nn.Parameter(torch.full((1, 1), 2.0))
    settings = optimizer("momentum", lr=0.1, weight_decay=0.5, momentum=0.8)
    made = make_optimizer(parameter_groups(nn.ParameterList([weight]), settings, {}), settings)
    expected, speed = 2.0, 0.0
    for gradient in (1.0, -0.5, 0.25):
        weight.grad = torch.full((1, 1), gradient)
        made.step()
        speed = 0.8 * speed + gradient + 0.5 * expected
        expected -= 0.1 * speed
        assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="nonsense"):
        make_optimizer([{"params": [nn.Parameter(torch.ones(1))]}], optimizer("nonsense"))


EPOCHS, STEPS = 10, 4
TOTAL = EPOCHS * STEPS


def rates(use, factor=1.0, **options):
    """Learning rate of every optimizer step, and that behind the last one."""
    net = nn.Linear(1, 1)
    settings = optimizer(lr=0.5, schedule=use, **options)
    made = make_optimizer(parameter_groups(net, settings, {net: factor}), settings)
    scheduler = make_schedule(made, settings, epochs=EPOCHS, steps_per_epoch=STEPS)
    found = []
    for step in range(TOTAL):
        found.append(made.param_groups[0]["lr"])
        scheduler.step_update(step + 1)  # as the task does after each step
    return [*found, made.param_groups[0]["lr"]]


def test_constant():
    assert rates("constant") == [0.5] * (TOTAL + 1)


def test_cosine():
    found = rates("cosine", min_lr=0.1)
    expected = [
        0.05 + 0.5 * (0.5 - 0.05) * (1 + math.cos(math.pi * t / TOTAL)) for t in range(TOTAL + 1)
    ]
    assert found == pytest.approx(expected)


def test_poly_and_tanh():
    poly = rates("poly", min_lr=0.1)
    assert poly == pytest.approx([0.5 - 0.45 * t / TOTAL for t in range(TOTAL + 1)])
    tanh = rates("tanh", min_lr=0.1)
    assert tanh[0] == pytest.approx(0.5, rel=0.01)
    assert tanh[-1] == pytest.approx(0.05)
    assert all(a >= b for a, b in itertools.pairwise(tanh))


def test_step():
    found = rates("step", decay_epochs=4, decay_rate=0.1)
    expected = [0.5 * 0.1 ** (t // (4 * STEPS)) for t in range(TOTAL + 1)]
    assert found == pytest.approx(expected)


def test_multistep():
    found = rates("multistep", decay_epochs=[3, 8], decay_rate=0.1)
    first, second = 3 * STEPS, 8 * STEPS
    assert found[: first - 1] == [0.5] * (first - 1)  # timm falls at the milestone's last step
    assert found[first : second - 1] == pytest.approx([0.05] * (second - 1 - first))
    assert found[second:] == pytest.approx([0.005] * (TOTAL + 1 - second))


@pytest.mark.parametrize(
    "use", ["constant", "cosine", "poly", "tanh", "step", "multistep", "plateau"]
)
def test_warm_up(use):
    decay = [9] if use == "multistep" else 9
    found = rates(use, warmup=0.2, decay_epochs=decay, decay_rate=0.5)
    length = TOTAL // 5
    expected = [0.005 + (0.5 - 0.005) * t / length for t in range(length)]
    assert found[:length] == pytest.approx(expected)
    assert found[length] == pytest.approx(0.5, rel=0.01)
    assert max(found) <= 0.5 * (1 + 1e-9)
    if use in ("cosine", "poly", "tanh"):  # still end with the training
        assert found[-1] == pytest.approx(0, abs=1e-9)
        assert found[-2] > 0


@pytest.mark.parametrize("use", ["constant", "cosine", "poly", "tanh", "step", "plateau"])
def test_a_factor_scales_the_whole_schedule(use):
    options = {"warmup": 0.2, "min_lr": 0.1, "decay_epochs": 4}
    whole, tenth = rates(use, **options), rates(use, 0.1, **options)
    assert tenth == pytest.approx([0.1 * rate for rate in whole])


def test_state_is_plain():
    net = Net()
    settings = optimizer("adamw")
    made = make_optimizer(parameter_groups(net, settings, {net.head: 2.0}), settings)
    scheduler = make_schedule(made, settings, epochs=3, steps_per_epoch=2)
    scheduler.step_update(1)
    file = io.BytesIO()
    torch.save([made.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    kept, plan = torch.load(file, weights_only=True)
    assert [group["lr"] for group in kept["param_groups"]] == [
        group["lr"] for group in made.param_groups
    ]
    again = make_schedule(made, optimizer(), epochs=3, steps_per_epoch=2)
    again.load_state_dict(plan)
    assert again.state_dict() == scheduler.state_dict()


def test_power_is_that_of_poly_alone():
    squared = rates("poly", power=2.0, decay_rate=0.5)
    assert squared == pytest.approx([0.5 * (1 - t / TOTAL) ** 2 for t in range(TOTAL + 1)])


@pytest.mark.parametrize(("rule", "rate"), [("linear", 0.0025), ("sqrt", 0.005)])
def test_the_rate_goes_with_the_batch(rule, rate):
    settings = replace(optimizer(lr=0.01), lr_for=256, lr_rule=rule)
    assert scaled(settings, 64).lr == pytest.approx(rate)
    assert scaled(settings, 256).lr == 0.01
    assert scaled(scaled(settings, 64), 64).lr == scaled(settings, 64).lr
    sentence = {"linear": "lr 0.01 x 64 / 256 = 0.0025", "sqrt": "lr 0.01 x sqrt(64 / 256) = 0.005"}
    assert told_rate(settings, 64) == sentence[rule]
    assert told_rate(optimizer(lr=0.01), 64) == "lr 0.01"
    assert scaled(optimizer(lr=0.01), 64).lr == 0.01


@pytest.fixture(scope="module")
def vit():
    with torch.device("meta"):
        return Timm(Shape(1, 3, 64, 64), arch="test_vit")


def test_layer_decay_is_timm_s_on_a_transformer(vit):
    settings = replace(optimizer(weight_decay=0.1), layer_decay=0.5)
    found = by_name(vit.net, parameter_groups(vit, replace(settings, lr=1.0), {}))
    expected = {}
    names = {p: name for name, p in vit.net.named_parameters()}
    for group in timm.optim.param_groups_layer_decay(vit.net, layer_decay=0.5):
        expected.update({names[p]: group["lr_scale"] for p in group["params"]})
    assert {name: rate for name, (rate, _) in found.items()} == expected
    assert len(set(expected.values())) == len(vit.stages())


def test_layer_decay_multiplies_with_a_part_s_own_factor(vit):
    net = nn.ModuleList([vit, nn.Linear(2, 2)])
    settings = replace(optimizer(lr=1.0), layer_decay=0.5)
    plain = by_name(net, parameter_groups(net, settings, {}))
    tenth = by_name(net, parameter_groups(net, settings, {vit: 0.1}))
    for name, (rate, _) in plain.items():
        factor = 0.1 if name.startswith("0.") else 1.0
        assert tenth[name][0] == pytest.approx(rate * factor)
    assert plain["1.weight"][0] == 1.0
