import pytest
import torch

from actionkit.contracts import Features
from actionkit.layers.convlstm import ConvLSTMLayer
from actionkit.layers.recurrence import zeros

FIRST = {"real": [[1, 1, 0], [1, 0, 1]], "padded": [[0, 1, 1], [1, 1, 1]]}


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("first", FIRST)
def test_from_no_state_is_from_zeros_with_one_product_less(first, peepholes):
    torch.manual_seed(0)
    layer = ConvLSTMLayer(2, 4, 3, (5, 6) if peepholes else None).double()
    if peepholes:
        torch.nn.init.normal_(layer.peepholes)
    mask = torch.tensor(FIRST[first], dtype=torch.bool)
    features = Features(torch.randn(2, 3, 2, 5, 6).double(), mask)
    products = []
    layer.state.register_forward_hook(lambda *_: products.append(1))
    found = [layer(features), layer(features, zeros(features.x, 4, (5, 6)))]
    assert len(products) == 2 + 3
    (fresh, end), (from_zeros, other_end) = found
    torch.testing.assert_close(fresh, from_zeros, rtol=0, atol=1e-12)
    for one, other in zip(end, other_end, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_one_step_from_no_state_gives_all_weights_a_gradient():
    """DDP waits for that of every weight."""
    layer = ConvLSTMLayer(2, 4, 3, (5, 6))
    layer(Features(torch.randn(2, 1, 2, 5, 6), torch.ones(2, 1) > 0))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
