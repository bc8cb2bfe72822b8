import pytest
import torch
from torch import nn

from actionkit.contracts import Features
from actionkit.layers import recurrence
from actionkit.layers.recurrence import input_shares

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
}
STEP = 3 * 4 * (4 * 3) * 8  # bytes of a step's products: clips, channels, places, float64


class Counted(nn.Conv2d):
    """A convolution that keeps how many maps it was given, each time."""

    def forward(self, x):
        self.__dict__.setdefault("calls", []).append(len(x))
        return super().forward(x)


def case(mask):
    torch.manual_seed(0)
    product = Counted(2, 4, 3, padding=1).double()
    mask = torch.tensor(MASKS[mask], dtype=torch.bool)
    x = torch.randn(3, 5, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    return product, Features(x, mask)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_shares_are_each_step_s_product_however_many_are_made_at_once(monkeypatch, steps, mask):
    monkeypatch.setattr(recurrence, "CHUNK", steps * STEP)
    product, features = case(mask)
    shares = input_shares(product, features)
    assert len(product.calls) == -(-5 // steps)
    assert sum(product.calls) == features.mask.sum()  # no product of a padded step
    plain = [product(step) for step in features.x.unbind(1)]
    real = features.mask[:, :, None, None, None]
    got, wanted = torch.stack(shares, 1), torch.stack(plain, 1).where(real, 0)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view_as(got)
    tensors = [features.x, *product.parameters()]
    for one, other in zip(
        torch.autograd.grad((weights * got).sum(), tensors, materialize_grads=True),
        torch.autograd.grad((weights * wanted).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_step_that_is_larger_than_a_chunk_comes_alone(monkeypatch):
    monkeypatch.setattr(recurrence, "CHUNK", STEP - 1)
    product, features = case("all")
    input_shares(product, features)
    assert product.calls == [3] * 5
