import numpy as np
import pytest
import torch

from actionkit.data.transforms.kinds import dequantize_flow, quantize_flow


@pytest.mark.parametrize("bound", [1.0, 20.0])
def test_stored_flow_follows_the_published_rule(bound):
    flow = torch.linspace(-2 * bound, 2 * bound, 4001)
    clipped = flow.double().numpy().clip(-bound, bound)
    expected = np.round(255 * (clipped + bound) / (2 * bound))
    stored = quantize_flow(flow, bound)
    assert stored.dtype == torch.uint8
    # float32 may fall to the other side of a half
    assert np.abs(stored.numpy() - expected).max() <= 1
    assert (stored.numpy() != expected).mean() < 0.01
    assert quantize_flow(torch.zeros(1), bound) == 128


def test_quantisation_error_is_at_most_bound_over_255():
    flow = torch.rand(10_000, dtype=torch.float64) * 40 - 20
    error = (dequantize_flow(quantize_flow(flow, 20.0), 20.0) - flow).abs()
    assert error.max() <= 20 / 255 + 1e-5
    assert error.max() > 0.9 * 20 / 255


def test_every_level_survives_and_is_symmetric():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantize_flow(dequantize_flow(levels, 20.0), 20.0), levels)
    assert torch.equal(dequantize_flow(levels), -dequantize_flow(255 - levels))
    assert dequantize_flow(levels).aminmax() == (-1, 1)


def test_input_is_left_alone():
    flow, levels = torch.randn(5), torch.arange(5, dtype=torch.uint8)
    before = flow.clone()
    quantize_flow(flow, 1.0), dequantize_flow(levels)
    assert torch.equal(flow, before)
    assert torch.equal(levels, torch.arange(5, dtype=torch.uint8))
