import pytest
import torch

from actionkit.aggregators.fc import FC
from actionkit.contracts import Features, Shape


def vectors(padding=0.0):
    x = torch.randn(2, 4, 5, 1, 1, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda x: x.clamp(min=0)), ("tanh", torch.tanh), ("none", lambda x: x)],
)
def test_equals_the_matrix_product_step_by_step(activation, function):
    part, features = FC(Shape(4, 5, 1, 1), width=7, activation=activation).double(), vectors()
    y = part(features._replace(x=features.x.double()))
    assert part.out == Shape(4, 7, 1, 1)
    assert y.x.shape == (2, *part.out)
    for b, t in features.mask.nonzero().tolist():
        x = features.x[b, t, :, 0, 0].double()
        expected = function(part.linear.weight @ x + part.linear.bias)
        torch.testing.assert_close(y.x[b, t, :, 0, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", [1e30, float("nan"), float("inf")])
def test_padding_reaches_neither_values_nor_gradients(padding):
    results = []
    for content in (0.0, padding):
        torch.manual_seed(0)
        part, features = FC(Shape(4, 5, 1, 1), width=7), vectors(content)
        features.x.requires_grad_()
        y = part(features).x[features.mask]
        y.square().sum().backward()
        assert features.x.grad[~features.mask].eq(0).all()
        results.append((y, part.linear.weight.grad, part.linear.bias.grad))
    for plain, padded in zip(*results, strict=True):
        assert torch.equal(plain, padded)


def test_dropout_stands_behind_the_activation_and_only_in_training():
    torch.manual_seed(0)
    part, x = FC(Shape(1, 5, 1, 1), width=2000, dropout=0.9), torch.randn(1, 1, 5, 1, 1)
    given = Features(x, torch.ones(1, 1, dtype=torch.bool))
    trained, whole = part(given).x.flatten(), part.eval()(given).x.flatten()
    positive = whole > 0
    kept = trained > 0
    assert 0.06 < kept[positive].float().mean() < 0.14
    torch.testing.assert_close(trained[kept], 10 * whole[kept])  # dropped behind it, not before


def test_start():
    torch.manual_seed(0)
    part = FC(Shape(1, 1000, 1, 1), width=50, init_std=0.01, init_bias=0.1)
    assert part.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert part.linear.weight.mean().item() == pytest.approx(0, abs=0.001)
    assert part.linear.bias.unique().tolist() == pytest.approx([0.1])
    torch.manual_seed(0)
    own = FC(Shape(1, 1000, 1, 1), width=50)
    torch.manual_seed(0)
    torchs = torch.nn.Linear(1000, 50)
    assert torch.equal(own.linear.weight, torchs.weight)
    assert torch.equal(own.linear.bias, torchs.bias)


def test_fc6_of_lrcn_has_the_published_size():
    with torch.device("meta"):
        part = FC(Shape(16, 384 * 6 * 6, 1, 1), width=4096, dropout=0.9)
    assert sum(p.numel() for p in part.parameters()) == 56_627_200


def test_other_fields_pass():
    features = vectors()._replace(boxes=torch.rand(2, 4, 1, 4))
    assert FC(Shape(None, 5, 1, 1), width=3)(features).boxes is features.boxes


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(4, 5, 7, 7), {"width": 8}, "takes one vector .* maps of 7x7; put spatial_pool"),
        (Shape(4, None, 1, 1), {"width": 8}, "needs a fixed number of channels"),
        (Shape(4, 5, 1, 1), {"width": 0}, "takes a width of 1 or more, but got 0"),
        (
            Shape(4, 5, 1, 1),
            {"width": 8, "init_std": -1.0},
            "takes an init_std of 0 or more, but got -1.0",
        ),
        (Shape(4, 5, 1, 1), {"width": 8, "dropout": 2.0}, "dropout"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        FC(inp, **options)
