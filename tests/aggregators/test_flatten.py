import math

import pytest
import torch

from actionkit.aggregators.flatten import Flatten
from actionkit.contracts import Features, Shape


def clips(padding=0.0):
    x = torch.arange(2.0 * 3 * 4 * 2 * 2).view(2, 3, 4, 2, 2)
    mask = torch.tensor([[True, True, False], [False] * 3])
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def test_maps_become_vectors():
    features, part = clips(), Flatten(Shape(3, 4, 2, 2))
    y = part(features)
    assert part.out == Shape(3, 16, 1, 1)
    assert y.x.shape == (2, *part.out)
    assert torch.equal(y.x.flatten(), features.x.flatten())
    assert y.mask is features.mask


@pytest.mark.parametrize("padding", [0.0, math.nan])
def test_steps_are_laid_one_behind_the_other(padding):
    part = Flatten(Shape(3, 4, 2, 2), steps=True)
    y = part(clips(padding))
    assert part.out == Shape(1, 48, 1, 1)
    assert y.mask.tolist() == [[True], [False]]
    assert y.x[0].flatten().tolist() == [*map(float, range(32)), *[0.0] * 16]
    assert not y.x[1].any()


@pytest.mark.parametrize(
    ("inp", "sentence"),
    [
        (Shape(3, None, 2, 2), "number of channels"),
        (Shape(3, 4, None, 2), r"one size, but gets \?x2; put spatial_pool"),
        (Shape(None, 4, 2, 2), "their number varies; sample a fixed number"),
    ],
)
def test_refuses(inp, sentence):
    with pytest.raises(ValueError, match=sentence):
        Flatten(inp, steps=True)
