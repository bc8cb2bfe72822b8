import math

import pytest
import torch

from actionkit.aggregators.gain import Gain
from actionkit.contracts import Features, Shape


def pooled(values, mask, dtype=torch.float32):
    x = torch.tensor(values, dtype=dtype).view(1, -1, 1, 1, 1)
    y = Gain(Shape(None, 1, 1, 1))(Features(x, torch.tensor([mask]).bool()))
    return y.x.item(), y.mask.item()


@pytest.mark.parametrize(
    ("values", "mask", "wanted"),
    [
        ([1.0, 2.0, 4.0], [1, 1, 1], (0 * 1 + 0.5 * 2 + 1 * 4) / 1.5),
        ([9.0, 2.0], [1, 1], 2.0),
        ([7.0], [1], 7.0),
        ([7.0, math.nan, math.inf], [1, 0, 0], 7.0),
        ([9.0, math.nan, 2.0, 4.0], [1, 0, 1, 1], 5 / 1.5),
        ([math.nan, 1.0], [0, 0], 0.0),
    ],
)
def test_weighs_later_steps_more(values, mask, wanted):
    value, real = pooled(values, mask)
    assert value == pytest.approx(wanted)
    assert real == any(mask)


def test_of_probabilities_it_leaves_probabilities():
    p = torch.rand(3, 5, 4).softmax(2)[..., None, None]
    mask = torch.arange(5)[None] < torch.tensor([[5], [2], [1]])
    y = Gain(Shape(5, 4, 1, 1))(Features(p, mask)).x
    assert y.shape == (3, 1, 4, 1, 1)
    torch.testing.assert_close(y.sum(2).flatten(), torch.ones(3))


def test_half_precision_is_summed_in_single():
    value, _ = pooled([60000.0] * 4, [1] * 4, torch.float16)
    assert value == pytest.approx(60000, rel=1e-3)
