import math

import pytest
import torch
from torch.nn import functional as F

from actionkit.contracts import Features
from actionkit.losses.cross_entropy import CrossEntropy

TARGET = torch.tensor([2, 0, -1])
MASK = torch.tensor(
    [
        [[1, 1, 1], [1, 1, 0]],
        [[1, 0, 0], [0, 0, 0]],
        [[1, 1, 1], [1, 1, 1]],  # without a label
    ],
    dtype=torch.bool,
)
OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"class_weights": [0.2, 0.5, 3.0, 0.1]},
    {"label_smoothing": 0.2, "class_weights": [0.2, 0.5, 3.0, 0.0]},
]


def scores(padding=0.0, dtype=torch.float64):
    x = torch.randn(3, 2, 3, 4, 1, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    counts = MASK & (TARGET >= 0)[:, None, None]
    x = x.masked_fill(~counts[..., None, None, None], padding).requires_grad_()
    return Features(x, MASK)


def naive(x, targets, mask, label_smoothing=0.0, class_weights=(1.0,) * 4):
    """Step by step; `targets` has a list of 4 shares, or None, a clip."""
    total = count = 0.0
    for b, v, t in mask.nonzero().tolist():
        if targets[b] is None:
            continue
        logits = x[b, v, t].flatten().tolist()
        log_sum = math.log(sum(map(math.exp, logits)))
        for c, share in enumerate(targets[b]):
            wanted = (1 - label_smoothing) * share + label_smoothing / 4
            total += class_weights[c] * wanted * (log_sum - logits[c])
        hard = sorted(targets[b]) == [0, 0, 0, 1]
        count += class_weights[targets[b].index(1)] if hard else 1
    return total / count


@pytest.mark.parametrize("options", OPTIONS)
def test_class_targets_equal_a_loop_and_torch(options):
    loss, s = CrossEntropy(**options).double(), scores()
    value = loss(s, TARGET, MASK)
    assert value.shape == ()
    wanted = naive(s.x, [[0, 0, 1, 0], [1, 0, 0, 0], None], MASK, **options)
    assert value.item() == pytest.approx(wanted, abs=1e-7)  # weights are held in float32
    counts = MASK & (TARGET >= 0)[:, None, None]
    weight = torch.tensor(options.get("class_weights", [1.0] * 4)).double()
    torchs = F.cross_entropy(
        s.x.flatten(3)[counts],
        TARGET[:, None, None].expand_as(MASK)[counts],
        weight,
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    torch.testing.assert_close(value, torchs)


@pytest.mark.parametrize("options", OPTIONS)
def test_soft_targets_equal_a_loop(options):
    loss, s = CrossEntropy(**options).double(), scores()
    soft = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [math.nan] * 4])
    value = loss(s, soft.double(), MASK)
    wanted = naive(s.x, [*soft[:2].tolist(), None], MASK, **options)
    assert value.item() == pytest.approx(wanted, abs=1e-6)
    value.backward()
    assert s.x.grad.isfinite().all()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("padding", [1e30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", OPTIONS)
def test_padding_reaches_neither_value_nor_gradients(options, padding, soft):
    target = TARGET
    if soft:
        target = F.one_hot(TARGET.clamp(min=0), 4).double()
        target[2] = math.nan
    results = []
    for content in (0.0, padding):
        s = scores(content)
        value = CrossEntropy(**options).double()(s, target, MASK)
        value.backward()
        assert s.x.grad.isfinite().all()
        results.append((value, s.x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("padding", [0.0, math.nan])
@pytest.mark.parametrize("none", ["mask", "label", "soft label"])
def test_zero_where_nothing_counts(none, padding, options):
    x = torch.full((3, 2, 3, 4, 1, 1), padding, requires_grad=True)
    target = {
        "mask": TARGET,
        "label": torch.full((3,), -1),
        "soft label": torch.full((3, 4), math.nan),
    }
    mask = torch.zeros_like(MASK) if none == "mask" else MASK
    value = CrossEntropy(**options)(Features(x, MASK), target[none], mask)
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()


def test_half_precision_logits_are_widened():
    s = scores(dtype=torch.float32)
    wanted = CrossEntropy()(s, TARGET, MASK)
    value = CrossEntropy()(s._replace(x=s.x.bfloat16()), TARGET, MASK)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), rel=0.02)


def test_probabilities():
    s = scores()
    p = CrossEntropy().probabilities(s)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.double(), s.x.flatten(3).softmax(3), rtol=1e-5, atol=1e-6)
    half = CrossEntropy().probabilities(s._replace(x=s.x.bfloat16()))
    torch.testing.assert_close(half.sum(3), torch.ones(3, 2, 3))


def test_nothing_in_the_state_dict():
    assert not CrossEntropy(class_weights=[1.0, 2.0]).state_dict()


def test_refuses():
    with pytest.raises(ValueError, match=r"label_smoothing in \[0, 1\), but got 1"):
        CrossEntropy(label_smoothing=1.0)
    with pytest.raises(ValueError, match="0 or more, but got -2"):
        CrossEntropy(class_weights=[1.0, -2.0])
    with pytest.raises(ValueError, match="has 3 class_weights for 4 classes; give one each"):
        CrossEntropy(class_weights=[1.0, 1.0, 1.0])(scores(), TARGET, MASK)
