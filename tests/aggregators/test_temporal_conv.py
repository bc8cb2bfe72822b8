import math

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.temporal_conv import TemporalConv
from actionkit.aggregators.windows import count
from actionkit.contracts import Features, Shape


def clips(lengths, steps, size=4, padding=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(lengths), steps, 3, size, size, dtype=torch.float64, generator=generator)
    mask = torch.arange(steps)[None] < torch.tensor(lengths)[:, None]
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def build(steps=11, size=4, **options):
    torch.manual_seed(0)
    return TemporalConv(Shape(steps, 3, size, size), width=5, **options).double()


@pytest.mark.parametrize(("length", "stride"), [(3, 1), (4, 2), (10, 5), (1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [0.0, math.nan])
def test_equals_a_loop_over_windows(padding, length, stride):
    part = build(length=length, stride=stride, size=4)
    lengths = [11, 5, 1, 0]
    features = clips(lengths, 11, padding=padding)
    y = part(features)
    assert y.x.shape == (4, *part.out)
    for b, real in enumerate(lengths):
        assert y.mask[b].sum() == (count(real, length, stride) if real else 0)
        for k in range(int(y.mask[b].sum())):
            wanted = part.conv.bias[:, None, None]
            for i in range(min(length, real - k * stride)):
                x = features.x[b, k * stride + i]
                wanted = wanted + F.conv2d(x, part.conv.weight[:, :, i], padding="same")
            torch.testing.assert_close(y.x[b, k], wanted.relu())


def test_the_published_layer():
    with torch.device("meta"):
        part = TemporalConv(Shape(120, 384, 6, 6), width=256, length=10, stride=5, size=3)
    assert part.out == Shape(23, 256, 6, 6)
    assert part.conv.weight.shape == (256, 384, 10, 3, 3)


def test_more_padding_changes_nothing():
    part = build(None, length=4, stride=2, size=1)
    short, long = clips([8, 3], 8, size=1), clips([8, 3], 8, size=1)
    behind = torch.full((2, 9, 3, 1, 1), math.nan, dtype=torch.float64)
    long = Features(
        torch.cat([long.x, behind], 1), torch.cat([long.mask, long.mask.new_zeros(2, 9)], 1)
    )
    y, z = part(short), part(long)
    torch.testing.assert_close(z.x[z.mask], y.x[y.mask])
    z.x[z.mask].sum().backward()
    assert part.conv.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 2}, "an odd size, but got 5 and 2"),
        ({"length": 0}, "length and a stride of 1 or more, but got 0 and 1"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TemporalConv(Shape(4, 3, 4, 4), width=5, **options)
