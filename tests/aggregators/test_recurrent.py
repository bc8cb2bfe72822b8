import pickle

import pytest
import torch

from actionkit.aggregators.recurrent import LSTM
from actionkit.contracts import Features, Shape

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
}
VARIANTS = [(1, False), (1, True), (3, False), (2, True)]


def build(layers=1, bidirectional=False, dtype=torch.float64):
    torch.manual_seed(0)
    part = LSTM(Shape(5, 4, 1, 1), hidden=6, layers=layers, bidirectional=bidirectional)
    with torch.no_grad():  # biases at start are 0 or 1, too kind for a test
        for p in part.parameters():
            p.normal_(std=0.5)
    return part.to(dtype)


def sequence(mask, padding=0.0, dtype=torch.float64):
    x = torch.randn(3, 5, 4, 1, 1, dtype=dtype, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor(mask, dtype=torch.bool)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def one_way(steps, w_x, w_h, b_x, b_h):
    """The cell's equations, step after step."""
    h = c = torch.zeros(w_h.shape[1], dtype=torch.float64)
    states = []
    for x in steps:
        i, f, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return states


def naive(part, x, mask):
    """Each clip's real steps alone, in loops."""
    lstm = part.lstm
    y = torch.zeros(*mask.shape, part.out.channels, dtype=torch.float64)
    for b in range(len(x)):
        steps = list(x[b][mask[b]].flatten(1))
        for layer in range(lstm.num_layers):
            weights = lstm.all_weights[layer * (1 + lstm.bidirectional) :]
            forward = one_way(steps, *weights[0])
            if lstm.bidirectional:
                back = one_way(steps[::-1], *weights[1])[::-1]
                steps = [torch.cat(pair) for pair in zip(forward, back, strict=True)]
            else:
                steps = forward
        if steps:
            y[b, mask[b]] = torch.stack(steps)
    return y


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
def test_equals_a_loop(layers, bidirectional, mask):
    part, features = build(layers, bidirectional), sequence(MASKS[mask])
    y = part(features)
    wanted = naive(part, features.x, features.mask)
    assert y.x.shape == (3, *part.out)
    assert y.mask is features.mask
    torch.testing.assert_close(y.x.flatten(2), wanted, rtol=0, atol=1e-10)
    assert (y.x[~y.mask] == 0).all()


@pytest.mark.parametrize("mask", ["prefix", "any", "none"])
@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
def test_padding_reaches_neither_values_nor_gradients(layers, bidirectional, padding, mask):
    results = []
    for content in (0.0, padding):
        part, features = build(layers, bidirectional), sequence(MASKS[mask], content)
        features.x.requires_grad_()
        y = part(features).x
        y.square().sum().backward()
        grads = [p.grad for p in part.parameters()]
        assert all(g.isfinite().all() for g in (*grads, features.x.grad))
        results.append((y, features.x.grad, *grads))
    for plain, padded in zip(*results, strict=True):
        assert torch.equal(plain, padded)


@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
def test_more_padding_changes_nothing(layers, bidirectional):
    part, features = build(layers, bidirectional), sequence(MASKS["prefix"])
    longer = Features(
        torch.cat([features.x, torch.full((3, 4, 4, 1, 1), float("nan")).double()], 1),
        torch.cat([features.mask, torch.zeros(3, 4, dtype=torch.bool)], 1),
    )
    y, z = part(features).x, part(longer).x
    torch.testing.assert_close(z[:, :5], y, rtol=0, atol=1e-12)
    assert (z[:, 5:] == 0).all()


def test_reads_forward_only():
    part, features = build(2), sequence(MASKS["all"])
    later = features.x.clone()
    later[:, 3:] += 1
    y, z = part(features).x, part(features._replace(x=later)).x
    assert torch.equal(y[:, :3], z[:, :3])
    assert not torch.equal(y[:, 3:], z[:, 3:])


@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
def test_parameters(layers, bidirectional):
    part = LSTM(Shape(5, 40, 1, 1), hidden=30, layers=layers, bidirectional=bidirectional)
    ways = 2 if bidirectional else 1
    wanted = sum(
        ways * 4 * (30 * ((40 if layer == 0 else 30 * ways) + 30) + 2 * 30)
        for layer in range(layers)
    )
    assert sum(p.numel() for p in part.parameters()) == wanted
    assert part.out == Shape(5, 30 * ways, 1, 1)


def test_start():
    lstm = LSTM(Shape(5, 4, 1, 1), hidden=6, layers=2, bidirectional=True).lstm
    for _, w_h, b_x, b_h in lstm.all_weights:
        i, f, g, o = (b_x + b_h).chunk(4)
        assert (f == 1).all()
        assert not torch.cat([i, g, o]).any()
        for gate in w_h.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_step_bf16_and_pickle(bidirectional):
    part = build(bidirectional=bidirectional, dtype=torch.float32)
    features = sequence(MASKS["prefix"], dtype=torch.float32)
    one = features._replace(x=features.x[:, :1], mask=features.mask[:, :1])
    alone = part(one).x.double().flatten(2)
    wanted = naive(part.double(), one.x.double(), one.mask)
    torch.testing.assert_close(alone, wanted, rtol=0, atol=1e-5)
    part.float()
    y = part(features).x
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, y)
    with torch.autocast("cpu", torch.bfloat16):
        z = part(features).x
    z.sum().backward()
    torch.testing.assert_close(z.float(), y, rtol=0.05, atol=0.05)


def test_meta():
    with torch.device("meta"):
        part = LSTM(Shape(None, 4, 1, 1), hidden=6, layers=2)
        features = Features(torch.empty(2, 3, 4, 1, 1), torch.ones(2, 3, dtype=torch.bool))
        assert part(features).x.shape == (2, 3, 6, 1, 1)
        assert LSTM(Shape(None, 4, 1, 1), hidden=6, bidirectional=True).out.channels == 12


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, 4, 7, 7), {}, "one vector per step, but gets maps of 7x7; put spatial_pool"),
        (Shape(5, None, 1, 1), {}, "fixed number of channels"),
        (Shape(5, 4, 1, 1), {"dropout": 0.5}, "only one layer; set layers to 2"),
        (Shape(5, 4, 1, 1), {"dropout": 2.0, "layers": 2}, r"dropout"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LSTM(inp, hidden=6, **options)
