import math

import pytest
import torch
from torch.nn import functional as F

from actionkit.contracts import Features
from actionkit.losses.cross_entropy import CrossEntropy
from actionkit.losses.gain import Gain, gains

TARGET = torch.tensor([2, 0, 1, -1])
LENGTHS = [[5, 3], [1, 0], [2, 5], [4, 4]]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[..., None]


def scores(padding=0.0, mask=MASK):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 5, 4, 1, 1, generator=generator, dtype=torch.float64)
    return Features(x.masked_fill(~mask[..., None, None, None], padding).requires_grad_(), mask)


def naive(x, targets, smoothing):
    """Step by step; the weights of a clip have mean 1."""
    total = number = 0.0
    for b, v in ((b, v) for b in range(3) for v in range(2)):
        n = LENGTHS[b][v]
        g = torch.linspace(0, 1, n).tolist() if n > 1 else [1.0]
        for t in range(n):
            step = F.cross_entropy(
                x[b, v, t].flatten()[None], targets[b : b + 1], label_smoothing=smoothing
            )
            total += g[t] / sum(g) * n * step.item()
            number += 1
    return total / number


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_equals_a_loop(soft, smoothing):
    target = TARGET
    if soft:
        target = torch.rand(4, 4, dtype=torch.float64).softmax(1)
        target[3] = math.nan
    s = scores()
    value = Gain(label_smoothing=smoothing)(s, target, MASK)
    assert value.shape == ()
    assert value.item() == pytest.approx(naive(s.x.detach(), target, smoothing), rel=1e-6)


def test_of_clips_of_one_length_it_is_the_weighted_mean():
    full = torch.ones_like(MASK)
    s, target = scores(mask=full), TARGET.clamp(min=0)
    g = torch.linspace(0, 1, 5).expand(4, 2, 5)
    wanted = target[:, None, None].expand(4, 2, 5)
    ce = F.cross_entropy(s.x.flatten(3).flatten(0, 2), wanted.flatten(), reduction="none").view(
        4, 2, 5
    )
    torch.testing.assert_close(Gain()(s, target, full), (g * ce).sum() / g.sum())


def test_weights():
    assert gains(MASK)[0].tolist() == [[0, 0.5, 1, 1.5, 2], [0, 1, 2, 0, 0]]
    assert gains(MASK)[1].tolist() == [[1, 0, 0, 0, 0], [0] * 5]
    gaps = torch.tensor([[[True, False, True, True]]])
    assert gains(gaps).flatten().tolist() == [0, 0, 1, 2]


def test_a_single_step_has_the_plain_loss():
    one = torch.arange(5).expand(4, 2, 5) == 0
    s = scores(mask=one)
    torch.testing.assert_close(Gain()(s, TARGET, one), CrossEntropy()(s, TARGET, one))


@pytest.mark.parametrize("padding", [1e30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("soft", [False, True])
def test_padding_reaches_neither_value_nor_gradients(soft, padding):
    target = TARGET
    if soft:
        target = F.one_hot(TARGET.clamp(min=0), 4).double()
        target[3] = math.nan
    results = []
    for content in (0.0, padding):
        s = scores(content)
        value = Gain()(s, target, MASK)
        value.backward()
        assert s.x.grad.isfinite().all()
        results.append((value, s.x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_zero_where_nothing_counts():
    s = scores()
    value = Gain()(s, torch.full((4,), -1), MASK)
    value.backward()
    assert value.item() == 0
    assert not s.x.grad.any()


def test_half_precision_and_probabilities():
    s = scores()
    wanted = Gain()(s, TARGET, MASK)
    half = s._replace(x=s.x.bfloat16())
    value = Gain()(half, TARGET, MASK)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), rel=0.02)
    p = Gain().probabilities(s)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.double(), s.x.flatten(3).softmax(3), rtol=1e-5, atol=1e-6)


def test_refuses():
    with pytest.raises(ValueError, match=r"label_smoothing in \[0, 1\), but got 1"):
        Gain(label_smoothing=1.0)
