"""The plain ways compute what the parts compute; else their times would mean nothing."""

import pytest
import torch

from actionkit.aggregators.convlstm import ConvLSTM
from actionkit.aggregators.recurrent import LSTM
from actionkit.backbones.tsm import shift
from actionkit.bench import model as bench
from actionkit.contracts import Shape


def same(plain, part, x):
    """Results and gradients of the input are equal."""
    found = []
    for run in (plain, part):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        found.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.flatten(), other.flatten())


def test_one_convolution_over_state_and_input_is_convlstm():
    part = ConvLSTM(Shape(4, 3, 5, 6), hidden=2)
    same(bench.concatenated(part), lambda x: part(bench._full(x)).x, torch.randn(2, 4, 3, 5, 6))


def test_a_loop_of_cells_is_lstm():
    part = LSTM(Shape(4, 3, 1, 1), hidden=2)
    same(bench.loop(part), lambda x: part(bench._full(x)).x, torch.randn(2, 4, 3, 1, 1))


def test_assigned_slices_are_the_shift():
    same(bench.assigned, shift, torch.randn(2, 4, 16, 3, 3))


def test_every_comparison_has_its_rows(monkeypatch):
    monkeypatch.setattr(bench, "MAPS", {"late": (8, 4, 3), "early": (4, 4, 6)})
    monkeypatch.setattr(bench, "VECTORS", (2, 3, 4, 5))
    monkeypatch.setattr(bench, "SHIFTED", (2, 3, 8, 4, 4))
    ticks = []
    found = bench.model(1, lambda: ticks.append(1))
    assert sum(len(c.rows) for c in found) == bench.MEASUREMENTS
    assert len(ticks) == 2 * bench.MEASUREMENTS
    assert all(row.ratio is not None for c in found for row in c.rows)
    assert found[0].title.endswith("8x3x3 to 4")


@pytest.mark.parametrize("kind", bench.MAPS)
def test_sizes_are_those_of_the_goals(kind):
    channels, hidden, side = bench.MAPS[kind]
    assert (channels, hidden) in {(512, 256), (64, 64)}
    assert side in (7, 28)
