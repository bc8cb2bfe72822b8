import math

import pytest
import torch

from actionkit.aggregators.flow import FlowMagnitude
from actionkit.contracts import Features, Shape


def fields(padding=0.0):
    x = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 0, :, 0, 0] = 0  # nothing moves there
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def test_third_channel_is_the_length_of_the_vector():
    part, features = FlowMagnitude(Shape(3, 2, 4, 5)), fields()
    y = part(features)
    assert part.out == Shape(3, 3, 4, 5)
    assert y.x.shape == (2, *part.out)
    for b, t in features.mask.nonzero().tolist():
        assert torch.equal(y.x[b, t, :2], features.x[b, t])
        for i in range(4):
            for j in range(5):
                expected = math.hypot(*features.x[b, t, :, i, j].tolist())
                assert y.x[b, t, 2, i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("padding", [0.0, 1e30, float("nan"), float("inf")])
def test_gradients_are_finite_where_nothing_moves_and_at_padding(padding):
    features = fields(padding)
    features.x.requires_grad_()
    y = FlowMagnitude(Shape(None, 2, None, None))(features).x
    assert y[~features.mask].eq(0).all()
    y[:, :, 2].sum().backward()
    gradient = features.x.grad
    assert gradient.isfinite().all()
    assert gradient[~features.mask].eq(0).all()
    assert gradient[0, 0, :, 0, 0].eq(0).all()
    moving = gradient[1, 0].square().sum(0)  # elsewhere the unit vector
    torch.testing.assert_close(moving, torch.ones_like(moving))


def test_mirroring_leaves_the_length():
    features, part = fields(), FlowMagnitude(Shape(3, 2, 4, 5))
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None, None]
    mirrored = part(features._replace(x=features.x.flip(-1) * sign)).x
    assert torch.equal(mirrored[:, :, 2], part(features).x[:, :, 2].flip(-1))


@pytest.mark.parametrize(("channels", "told"), [(20, "20"), (3, "3"), (None, "any number")])
def test_refuses(channels, told):
    with pytest.raises(
        ValueError, match=f"^takes flow of 2 channels, .* gets {told}; put it first"
    ):
        FlowMagnitude(Shape(16, channels, 224, 224))
