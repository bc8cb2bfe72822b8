import math
import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.tcn import TCN
from actionkit.contracts import Features, Shape

MASK = torch.tensor(
    [[1] * 7, [1, 1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool
)
VARIANTS = [(3, False), (5, False), (3, True), (2, True), (1, False)]


def clips(padding=0.0, mask=MASK):
    x = torch.randn(*mask.shape, 4, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def build(kernel=3, causal=False, layers=3, width=6, steps=None):
    torch.manual_seed(0)
    part = TCN(Shape(steps, 4, 1, 1), width=width, layers=layers, kernel=kernel, causal=causal)
    with torch.no_grad():
        for p in part.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return part.double().eval()


def convolved(rows, conv, apart, causal):
    """Each row's neighbours, as far as there are any."""
    size = conv.kernel_size[0]
    first = -(size - 1) * apart if causal else -(size - 1) // 2 * apart
    found = []
    for t in range(len(rows)):
        total = conv.bias
        for i in range(size):
            if 0 <= t + first + i * apart < len(rows):
                total = total + conv.weight[:, :, i] @ rows[t + first + i * apart]
        found.append(total)
    return torch.stack(found)


def naive(part, rows, causal):
    for i, block in enumerate(part.blocks):
        y = rows
        for conv, norm in zip(block.convs, block.norms, strict=True):
            y = convolved(y, conv, 2**i, causal)
            y = F.layer_norm(y, y.shape[1:], norm.weight, norm.bias).clamp(min=0)
        rows = (y + block.short_cut(rows)).clamp(min=0)
    return rows


@pytest.mark.parametrize(("kernel", "causal"), VARIANTS)
def test_equals_a_loop(kernel, causal):
    part, features = build(kernel, causal), clips(math.nan)
    y = part(features)
    assert y.x.shape == (4, 7, 6, 1, 1)
    assert y.mask is features.mask
    for b, real in enumerate(MASK):
        if real.any():
            wanted = naive(part, features.x[b][real].flatten(1), causal)
            torch.testing.assert_close(y.x[b][real].flatten(1), wanted)
    assert not y.x[~MASK].any()


@pytest.mark.parametrize("padding", [1e30, math.nan, math.inf])
@pytest.mark.parametrize(("kernel", "causal"), VARIANTS)
def test_padding_reaches_neither_values_nor_gradients(kernel, causal, padding):
    longer = torch.cat([MASK, torch.zeros(4, 9, dtype=torch.bool)], 1)
    results = []
    for given in (clips(), clips(padding), clips(padding, longer)):
        own = clips().x[MASK]
        x = given.x.clone()
        x[given.mask] = own
        x.requires_grad_()
        part = build(kernel, causal)
        y = part(Features(x, given.mask)).x
        y.square().sum().backward()
        assert x.grad.isfinite().all()
        results.append([y[given.mask], x.grad[given.mask], *(p.grad for p in part.parameters())])
    for others in results[1:]:
        for plain, padded in zip(results[0], others, strict=True):
            torch.testing.assert_close(padded, plain)


@pytest.mark.parametrize(("kernel", "causal"), VARIANTS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_sees_as_far_as_it_says(layers, kernel, causal):
    part, far = build(kernel, causal, layers), (kernel - 1) * (2**layers - 1)
    steps, at = 4 * far + 5, 2 * far + 2
    x = torch.randn(1, steps, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    part(Features(x, torch.ones(1, steps, dtype=torch.bool))).x[0, at].sum().backward()
    seen = x.grad.abs().sum((0, 2, 3, 4)).nonzero().flatten()
    assert seen.min() >= at - (2 * far if causal else far)
    assert seen.max() <= (at if causal else at + far)
    if layers == 1:  # with more some ways are closed by ReLU
        assert len(seen) == 1 + 2 * far


def test_parameters_and_pickle():
    part = build(3, layers=2, width=6)
    first, second = (sum(p.numel() for p in block.parameters()) for block in part.blocks)
    norms = 2 * 2 * 6
    assert first == (3 * 4 + 1) * 6 + (3 * 6 + 1) * 6 + norms + (4 + 1) * 6
    assert second == 2 * (3 * 6 + 1) * 6 + norms
    features = clips()
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, part(features).x)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, 4, 7, 7), {}, "gets maps of 7x7"),
        (Shape(5, 4, 1, 1), {"kernel": 4}, "odd kernel, but got 4; set it to 5, or causal to true"),
        (Shape(5, 4, 1, 1), {"layers": 0}, "of 1 or more, but got 6, 0 and 3"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TCN(inp, width=6, **options)
