import math

import pytest
import torch

from actionkit.aggregators.attention_pool import AttentionPool
from actionkit.aggregators.pooling import Mean
from actionkit.contracts import Features, Shape

MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)


def clips(padding=0.0):
    x = torch.randn(4, 4, 6, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    return Features(x.masked_fill(~MASK[:, :, None, None, None], padding), MASK)


def build(heads, learned=True):
    torch.manual_seed(0)
    part = AttentionPool(Shape(4, 6, 1, 1), heads=heads).double()
    if learned:
        torch.nn.init.normal_(part.query)
    return part


@pytest.mark.parametrize("padding", [0.0, 1e30, math.nan, math.inf])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_equals_a_loop(heads, padding):
    part, features = build(heads), clips(padding)
    features.x.requires_grad_()
    y = part(features)
    assert y.x.shape == (4, *part.out)
    assert y.attention.shape == (4, 4, 1, 1, 1)
    size = 6 // heads
    for b, real in enumerate(MASK):
        steps = features.x[b][real].flatten(1)
        assert y.mask[b].item() == bool(len(steps))
        weights = torch.zeros(heads, 4).double()
        for head in range(heads if len(steps) else 0):
            own = steps[:, head * size : (head + 1) * size]
            share = (own @ part.query[head] / size**0.5).exp()
            share = share / share.sum()
            weights[head, real] = share
            got = y.x[b].flatten()[head * size : (head + 1) * size]
            torch.testing.assert_close(got, share @ own)
        torch.testing.assert_close(y.attention[b].flatten(), weights.mean(0))
    assert not y.x[3].any()
    y.x.square().sum().backward()
    assert features.x.grad.isfinite().all()
    assert part.query.grad.isfinite().all()


def test_starts_as_the_mean_and_can_leave_it():
    part, features = build(2, learned=False), clips()
    y = part(features)
    torch.testing.assert_close(y.x, Mean(part.out)(features).x)
    y.x.square().sum().backward()
    assert part.query.grad.any()


def test_order_is_of_no_account():
    part, order = build(3), torch.tensor([2, 0, 3, 1])
    features = clips()
    other = Features(features.x[:, order], features.mask[:, order])
    torch.testing.assert_close(part(other).x, part(features).x)


@pytest.mark.parametrize(
    ("inp", "sentence"),
    [
        (Shape(4, 6, 7, 7), "gets maps of 7x7"),
        (Shape(4, 7, 1, 1), "into 2 heads, but 7 cannot be divided by that"),
    ],
)
def test_refuses(inp, sentence):
    with pytest.raises(ValueError, match=sentence):
        AttentionPool(inp, heads=2)
