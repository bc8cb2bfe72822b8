import pytest
import torch

from actionkit.contracts import Features, Shape
from actionkit.heads.linear import Linear

CLASSES = ["run", "jump", "wave"]


def vectors(padding=0.0):
    x = torch.randn(2, 4, 5, 1, 1, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def test_equals_the_matrix_product():
    head, features = Linear(Shape(4, 5, 1, 1), CLASSES).double(), vectors()
    y = head(features._replace(x=features.x.double()))
    assert y.x.shape == (2, *head.out)
    assert head.out == Shape(4, 3, 1, 1)
    for b, t in features.mask.nonzero().tolist():
        x = features.x[b, t, :, 0, 0].double()
        torch.testing.assert_close(
            y.x[b, t, :, 0, 0], head.linear.weight @ x + head.linear.bias, rtol=0, atol=1e-12
        )
    assert sum(p.numel() for p in head.parameters()) == 3 * (5 + 1)


@pytest.mark.parametrize("padding", [1e30, float("nan"), float("inf")])
def test_padding_reaches_neither_values_nor_gradients(padding):
    results = []
    for content in (0.0, padding):
        torch.manual_seed(0)
        head, features = Linear(Shape(4, 5, 1, 1), CLASSES), vectors(content)
        y = head(features).x[features.mask]
        y.square().sum().backward()
        results.append((y, head.linear.weight.grad, head.linear.bias.grad))
    for plain, padded in zip(*results, strict=True):
        assert torch.equal(plain, padded)


def test_start():
    torch.manual_seed(0)
    head = Linear(Shape(1, 1000, 1, 1), CLASSES, init_std=0.01)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.linear.bias.any()


def test_dropout_is_off_in_evaluation():
    head, features = Linear(Shape(4, 5, 1, 1), CLASSES, dropout=0.5), vectors()
    assert not torch.equal(head(features).x, head(features).x)
    head.eval()
    assert torch.equal(head(features).x, head(features).x)


def test_other_fields_pass_on_meta_too():
    with torch.device("meta"):
        head = Linear(Shape(None, 5, 1, 1), CLASSES)
        boxes = torch.empty(2, 4, 1, 4)
        mask = torch.ones(2, 4, dtype=torch.bool)
        y = head(Features(torch.empty(2, 4, 5, 1, 1), mask, boxes=boxes))
    assert y.boxes is boxes
    assert y.x.shape == (2, 4, 3, 1, 1)


def test_refuses():
    with pytest.raises(ValueError, match="gets maps of 7x7; put spatial_pool before it"):
        Linear(Shape(4, 5, 7, 7), CLASSES)
    with pytest.raises(ValueError, match="init_std of 0 or more, but got -1"):
        Linear(Shape(4, 5, 1, 1), CLASSES, init_std=-1.0)
    with pytest.raises(ValueError, match="dropout"):
        Linear(Shape(4, 5, 1, 1), CLASSES, dropout=2.0)
