import math

import pytest
import torch

from actionkit.contracts import Features, Shape
from actionkit.fusions.scores import Average

SHAPES = {"rgb": Shape(3, 4, 1, 1), "flow": Shape(3, 4, 1, 1)}
OF = ["logits", "probabilities"]


def streams(padding=0.0, scale=1.0, flow_steps=3):
    generator = torch.Generator().manual_seed(0)
    rgb = scale * torch.randn(2, 3, 4, 1, 1, dtype=torch.float64, generator=generator)
    flow = scale * torch.randn(2, flow_steps, 4, 1, 1, dtype=torch.float64, generator=generator)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    real = torch.ones(2, flow_steps, dtype=torch.bool)
    return {
        "rgb": Features(rgb.masked_fill(~mask[:, :, None, None, None], padding), mask),
        "flow": Features(flow, real),
    }


def naive(rgb, flow, w_rgb, w_flow, of):
    """One step of logits in Python floats."""
    if of == "logits":
        return [w_rgb * a + w_flow * b for a, b in zip(rgb, flow, strict=True)]
    p, q = ([math.exp(a) / sum(map(math.exp, s)) for a in s] for s in (rgb, flow))
    return [math.log(w_rgb * a + w_flow * b) for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize("flow_steps", [1, 3])
@pytest.mark.parametrize("weights", [None, {"rgb": 1, "flow": 3}, {"flow": 1, "rgb": 0}])
@pytest.mark.parametrize("of", OF)
def test_equals_a_loop(of, weights, flow_steps):
    shapes = {**SHAPES, "flow": Shape(flow_steps, 4, 1, 1)}
    fusion, inputs = Average(shapes, weights=weights, of=of), streams(flow_steps=flow_steps)
    y = fusion(inputs)
    given = weights or {"rgb": 1, "flow": 1}
    total = sum(given.values())
    assert fusion.out == Shape(3, 4, 1, 1)
    assert y.x.shape == (2, 3, 4, 1, 1)
    assert torch.equal(y.mask, inputs["rgb"].mask)
    for b, t in y.mask.nonzero().tolist():
        rgb = inputs["rgb"].x[b, t].flatten().tolist()
        flow = inputs["flow"].x[b, min(t, flow_steps - 1)].flatten().tolist()
        wanted = naive(rgb, flow, given["rgb"] / total, given["flow"] / total, of)
        torch.testing.assert_close(y.x[b, t].flatten(), torch.tensor(wanted).double())


def test_probabilities_leave_as_their_logarithm():
    y = Average(SHAPES, of="probabilities")(streams()).x[0]
    torch.testing.assert_close(y.exp().sum(1), torch.ones_like(y[:, 0]))


def test_probabilities_of_large_logits_are_finite():
    inputs = streams(scale=1e4)
    for features in inputs.values():
        features.x.requires_grad_()
    y = Average(SHAPES, weights={"rgb": 1, "flow": 0}, of="probabilities")(inputs).x
    assert y.isfinite().all()
    y[:, :, 0].sum().backward()
    assert all(f.x.grad.isfinite().all() for f in inputs.values())
    assert not inputs["flow"].x.grad.any()


@pytest.mark.parametrize("padding", [5.0, float("nan"), float("inf")])
@pytest.mark.parametrize("of", OF)
def test_padding_reaches_neither_values_nor_gradients(of, padding):
    results = []
    for content in (0.0, padding):
        inputs = streams(content)
        for features in inputs.values():
            features.x.requires_grad_()
        y = Average(SHAPES, of=of)(inputs)
        y.x[y.mask].square().sum().backward()
        results.append((y.x[y.mask], inputs["rgb"].x.grad, inputs["flow"].x.grad))
    for plain, padded in zip(*results, strict=True):
        assert padded.isfinite().all()
        assert torch.equal(plain, padded)


def test_a_step_is_real_where_all_streams_are():
    inputs = streams()
    inputs["flow"] = inputs["flow"]._replace(
        mask=torch.tensor([[False, True, True], [True, True, True]])
    )
    y = Average(SHAPES)(inputs)
    assert y.mask.tolist() == [[False, True, True], [True, True, False]]


def test_starts_from_merge():
    inputs = streams()
    inputs["rgb"] = inputs["rgb"]._replace(penalty=torch.tensor(1.0))
    inputs["flow"] = inputs["flow"]._replace(
        penalty=torch.tensor(2.0), extra={"z": torch.tensor(3.0)}
    )
    y = Average(SHAPES)(inputs)
    assert y.penalty.item() == 3
    assert list(y.extra) == ["flow/z"]


def test_bf16_probabilities_are_float32():
    inputs = {n: f._replace(x=f.x.bfloat16()) for n, f in streams().items()}
    assert Average(SHAPES, of="probabilities")(inputs).x.dtype == torch.float32


@pytest.mark.parametrize(
    ("flow", "options", "sentence"),
    [
        (Shape(3, 5, 1, 1), {}, "'rgb' has 4, 'flow' has 5; put a head in each stream"),
        (Shape(3, 4, 7, 7), {}, "gets maps of 7x7; put spatial_pool before it"),
        (Shape(2, 4, 1, 1), {}, "equally many steps, or of 1, but 'rgb' has 3, 'flow' has 2"),
        (Shape(3, 4, 1, 1), {"weights": {"rgb": 1, "flw": 1}}, "'flw', .* did you mean flow?"),
        (Shape(3, 4, 1, 1), {"weights": {"flow": 1}}, "'rgb' has none; add rgb: 1"),
        (Shape(3, 4, 1, 1), {"weights": {"rgb": -1, "flow": 2}}, "weights of 0 or more"),
        (Shape(3, 4, 1, 1), {"weights": {"rgb": 0, "flow": 0}}, "one of them above 0"),
        (Shape(3, 4, 1, 1), {"weights": {"rgb": float("nan"), "flow": 1}}, "weights of 0 or more"),
    ],
)
def test_refuses(flow, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Average({"rgb": Shape(3, 4, 1, 1), "flow": flow}, **options)
