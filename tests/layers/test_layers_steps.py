import pytest
import torch

from actionkit.layers.steps import at, ramp, rank, real_first

MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


def test_real_steps_come_first_in_their_order():
    order = real_first(MASK)
    assert order.tolist() == [[0, 2, 3, 1, 4], [3, 0, 1, 2, 4], [0, 1, 2, 3, 4]]
    x = torch.randn(3, 5, 2)
    assert torch.equal(at(at(x, order), order.argsort(1)), x)


def test_rank_counts_the_real_steps_before():
    assert rank(MASK)[0].tolist() == [0, 1, 1, 2, 3]
    assert rank(MASK)[1, 3] == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
def test_ramp_is_linspace_over_the_real_steps(steps):
    weights = ramp(torch.arange(steps + 2)[None] < steps)[0]
    wanted = torch.linspace(0, 1, steps) if steps > 1 else torch.ones(1)
    torch.testing.assert_close(weights, torch.cat([wanted, torch.zeros(2)]))


def test_ramp_with_gaps_and_without_real_steps():
    assert ramp(MASK).tolist() == [[0, 0, 0.5, 1, 0], [0, 0, 0, 1, 0], [0] * 5]
