import math

import pytest
import torch
from makers import optimizer
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from actionkit.training.optimizer import make_optimizer, make_schedule, parameter_groups

VALUES = [0.1, 0.2, 0.2, 0.1, 0.15, 0.3, 0.3, 0.3, 0.3, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0]


def made(factor=1.0, **options):
    net = nn.Linear(1, 1)
    settings = optimizer(lr=0.5, schedule="plateau", **options)
    optim = make_optimizer(parameter_groups(net, settings, {net: factor}), settings)
    return optim, make_schedule(optim, settings, epochs=10, steps_per_epoch=4)


def rate(optim):
    return optim.param_groups[0]["lr"]


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_falls_where_torch_s_does(patience):
    optim, schedule = made(patience=patience, min_lr=0.05)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    torchs = ReduceLROnPlateau(
        other, "max", factor=0.1, patience=patience, threshold=0, min_lr=0.025
    )
    found = []
    for epoch, value in enumerate(VALUES):
        schedule.step_update(4 * epoch)
        schedule.judge(value)
        torchs.step(value)
        found.append(rate(optim))
        assert rate(optim) == pytest.approx(rate(other))
    assert len(set(found)) == 3  # 0.5, 0.05 and the end


def test_the_rate_stays_down_and_goes_with_the_part_s_factor():
    optim, schedule = made(0.1, patience=0, decay_rate=0.5)
    for value in (1.0, 0.5):
        schedule.judge(value)
    assert rate(optim) == pytest.approx(0.025)
    schedule.step_update(17)
    assert rate(optim) == pytest.approx(0.025)


def test_what_cannot_be_measured_is_no_gain():
    optim, schedule = made(patience=0)
    schedule.judge(math.nan)
    assert rate(optim) == pytest.approx(0.05)


def test_state_is_whole():
    optim, schedule = made(patience=1)
    for step, value in enumerate(VALUES[:9]):
        schedule.step_update(step)
        schedule.judge(value)
    again, resumed = made(patience=1)
    resumed.load_state_dict(schedule.state_dict())
    again.load_state_dict(optim.state_dict())
    for step, value in enumerate(VALUES[9:], 9):
        for one in (schedule, resumed):
            one.step_update(step)
            one.judge(value)
        assert rate(again) == rate(optim)
