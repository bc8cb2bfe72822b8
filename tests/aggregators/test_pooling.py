import pickle

import pytest
import torch

from actionkit.aggregators.pooling import Last, Max, MaxMin, Mean, Min, SpatialPool
from actionkit.contracts import Features, Shape

POOLS = [Mean, Max, Min, MaxMin, Last]
LENGTHS = (4, 1, 0, 3)


def naive(kind, steps):
    """One clip's real steps [n, C, H, W] pooled, step by step in Python."""
    rows = [step.tolist() for step in steps.flatten(1)]
    if not rows:
        return [0.0] * steps.shape[1:].numel() * (2 if kind is MaxMin else 1)
    columns = list(zip(*rows, strict=True))
    return {
        Mean: [sum(c) / len(c) for c in columns],
        Max: [max(c) for c in columns],
        Min: [min(c) for c in columns],
        MaxMin: [max(c) for c in columns] + [min(c) for c in columns],
        Last: rows[-1],
    }[kind]


def clips(size=2, padding=0.0, extra=0, seed=0):
    """Clips of LENGTHS steps; `extra` more padded ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 4, 3, size, size, dtype=torch.float64, generator=generator)
    x = torch.cat([x, x[:, :1].expand(-1, extra, -1, -1, -1)], 1)
    mask = torch.arange(4 + extra)[None] < torch.tensor(LENGTHS)[:, None]
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", POOLS)
def test_equals_a_loop(kind, size):
    features = clips(size)
    pool = kind(Shape(4, 3, size, size))
    y = pool(features)
    assert y.x.shape == (4, *pool.out)
    assert y.mask.tolist() == [[True], [True], [False], [True]]
    for x, mask, pooled in zip(features.x, features.mask, y.x, strict=True):
        torch.testing.assert_close(pooled.flatten(), torch.tensor(naive(kind, x[mask])).double())


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("padding", [0.0, 1e30, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", POOLS)
def test_padding_changes_nothing(kind, padding, extra):
    """Neither values nor gradients, in any content and amount; a clip of padding gives 0."""
    pool = kind(Shape(None, 3, 2, 2))
    plain, padded = clips(), clips(padding=padding, extra=extra)
    for features in (plain, padded):
        features.x.requires_grad_()
    y, z = pool(plain).x, pool(padded).x
    assert torch.equal(y, z)
    assert (y[2] == 0).all()
    y.square().sum().backward()
    z.square().sum().backward()
    assert torch.equal(plain.x.grad[plain.mask], padded.x.grad[padded.mask])
    assert (padded.x.grad[~padded.mask] == 0).all()


@pytest.mark.parametrize("kind", [Mean, Max, Min, MaxMin])
def test_order_is_of_no_account(kind):
    x = torch.randn(2, 50, 8, 1, 1)
    order = torch.randperm(50)
    mask = torch.rand(2, 50) < 0.7
    pool = kind(Shape(50, 8, 1, 1))
    y = pool(Features(x, mask)).x
    torch.testing.assert_close(pool(Features(x[:, order], mask[:, order])).x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [Mean, Max, Min, MaxMin])
def test_every_frame_twice_changes_nothing(kind):
    x, mask = torch.randn(2, 7, 4, 1, 1, dtype=torch.float64), torch.rand(2, 7) < 0.7
    pool = kind(Shape(None, 4, 1, 1))
    torch.testing.assert_close(
        pool(Features(x.repeat(1, 2, 1, 1, 1), mask.repeat(1, 2))).x, pool(Features(x, mask)).x
    )


def test_last_takes_the_last_real_step_of_any_mask():
    x = torch.arange(10.0).view(2, 5, 1, 1, 1)
    mask = torch.tensor([[True, False, True, False, False], [False, True, False, False, True]])
    assert Last(Shape(5, 1, 1, 1))(Features(x, mask)).x.flatten().tolist() == [2, 9]


def test_equal_maxima_share_the_gradient():
    x = torch.zeros(1, 4, 1, 1, 1, requires_grad=True)
    mask = torch.tensor([[True, True, False, False]])
    Max(Shape(4, 1, 1, 1))(Features(x, mask)).x.sum().backward()
    assert x.grad.flatten().tolist() == [0.5, 0.5, 0, 0]


def test_mean_of_half_precision_does_not_overflow():
    x = torch.full((1, 4, 1, 1, 1), 60000, dtype=torch.float16)
    y = Mean(Shape(4, 1, 1, 1))(Features(x, torch.ones(1, 4, dtype=torch.bool))).x
    assert y.dtype == torch.float16
    assert y.item() == pytest.approx(60000, rel=1e-3)


def test_shapes():
    inp = Shape(None, 8, None, 7)
    assert Mean(inp).out == Shape(1, 8, None, 7)
    assert MaxMin(inp).out == Shape(1, 16, None, 7)
    assert SpatialPool(inp).out == Shape(None, 8, 1, 1)
    with pytest.raises(ValueError, match="fixed number of channels"):
        MaxMin(inp._replace(channels=None))


@pytest.mark.parametrize(
    ("kind", "reference"), [("mean", torch.mean), ("max", torch.amax)], ids=["mean", "max"]
)
def test_spatial_pool(kind, reference):
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    pool = SpatialPool(Shape(3, 4, 5, 6), kind=kind)
    y = pool(Features(x, torch.ones(2, 3, dtype=torch.bool)))
    torch.testing.assert_close(y.x, reference(x, (3, 4), keepdim=True))
    torch.testing.assert_close(pool(y).x, y.x)  # pooled already


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_spatial_pool_keeps_padding_to_itself(kind):
    features = clips(padding=float("nan"))
    features.x.requires_grad_()
    y = SpatialPool(Shape(4, 3, 2, 2), kind=kind)(features).x
    assert y[features.mask].isfinite().all()
    y[features.mask].sum().backward()
    assert features.x.grad.isfinite().all()


@pytest.mark.parametrize("kind", [SpatialPool, *POOLS])
def test_other_fields_pass_and_it_pickles(kind):
    features = clips()._replace(attention=torch.rand(4, 4, 1, 2, 2), boxes=torch.rand(4, 4, 1, 4))
    pool = pickle.loads(pickle.dumps(kind(Shape(4, 3, 2, 2))))
    y = pool(features)
    assert y.attention is features.attention
    assert y.boxes is features.boxes
    assert pool(features._replace(x=features.x.bfloat16())).x.dtype == torch.bfloat16
