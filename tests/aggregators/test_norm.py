import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.norm import LayerNorm
from actionkit.contracts import Features, Shape


def norm(channels=6, size=1):
    """With scale and shift that are not those of the start."""
    torch.manual_seed(0)
    part = LayerNorm(Shape(None, channels, size, size)).double()
    torch.nn.init.normal_(part.norm.weight)
    torch.nn.init.normal_(part.norm.bias)
    return part


def clips(size=1, padding=0.0, extra=0):
    """Clips of 3, 0 and 2 real steps in 3 + extra."""
    x = torch.randn(3, 3, 6, size, size, generator=torch.Generator().manual_seed(1)).double()
    x = torch.cat([x, x[:, :1].expand(-1, extra, -1, -1, -1)], 1)
    mask = torch.arange(3 + extra)[None] < torch.tensor([3, 0, 2])[:, None]
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


@pytest.mark.parametrize("size", [1, 2])
def test_equals_torch_at_every_real_step_and_place(size):
    part, features = norm(size=size), clips(size)
    y = part(features)
    assert y.x.shape == features.x.shape
    assert part.out == Shape(None, 6, size, size)
    for b, t in features.mask.nonzero().tolist():
        for i in range(size):
            for j in range(size):
                wanted = F.layer_norm(
                    features.x[b, t, :, i, j], (6,), part.norm.weight, part.norm.bias
                )
                torch.testing.assert_close(y.x[b, t, :, i, j], wanted, rtol=1e-12, atol=1e-12)


def test_starts_as_mean_0_and_variance_1_whatever_the_scale_and_shift_of_the_input():
    part = LayerNorm(Shape(4, 50, 3, 3))
    x = torch.randn(2, 4, 50, 3, 3)
    mask = torch.ones(2, 4, dtype=torch.bool)
    y = part(Features(x, mask)).x
    torch.testing.assert_close(y.mean(2), torch.zeros(2, 4, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(2, correction=0), torch.ones(2, 4, 3, 3), rtol=0, atol=1e-3)
    other = part(Features(100 * x + 7, mask)).x
    torch.testing.assert_close(other, y, rtol=0, atol=1e-3)


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("padding", [1e30, float("nan"), float("inf")])
def test_padding_reaches_neither_values_nor_gradients(padding, extra):
    plain, padded, gradients = clips(2), clips(2, padding, extra), []
    for features in (plain, padded):
        part = norm(size=2)
        features.x.requires_grad_()
        y = part(features)
        assert y.x.isfinite().all()
        y.x[features.mask].square().sum().backward()
        gradients.append((features.x.grad[features.mask], *(p.grad for p in part.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
    assert (padded.x.grad[~padded.mask] == 0).all()
    real = [norm(size=2)(features).x[features.mask] for features in (plain, padded)]
    assert torch.equal(*real)


def test_other_fields_pass_and_it_pickles():
    features = clips()._replace(attention=torch.rand(3, 3, 1, 2, 2), extra={"a": torch.ones(3)})
    part = pickle.loads(pickle.dumps(norm()))
    y = part(features)
    assert y.attention is features.attention
    assert y.extra is features.extra
    assert torch.equal(y.x, norm()(features).x)


def test_a_varying_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="needs a fixed number of channels, but it varies here"):
        LayerNorm(Shape(3, None, 1, 1))
