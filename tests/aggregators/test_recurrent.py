import pickle

import pytest
import torch

from actionkit.aggregators.recurrent import GRU, LSTM, RNN
from actionkit.contracts import Features, Shape

KINDS = [RNN, GRU, LSTM]
MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
}
VARIANTS = [(1, False), (1, True), (3, False), (2, True)]
BLOCKS = {RNN: 1, GRU: 3, LSTM: 4}  # of a weight matrix


def build(kind=LSTM, layers=1, bidirectional=False, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = kind(Shape(5, 4, 1, 1), hidden=6, layers=layers, bidirectional=bidirectional, **options)
    with torch.no_grad():  # biases at start are 0 or 1, too kind for a test
        for p in part.parameters():
            p.normal_(std=0.5)
    return part.to(dtype)


def sequence(mask, padding=0.0, dtype=torch.float64):
    x = torch.randn(3, 5, 4, 1, 1, dtype=dtype, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor(mask, dtype=torch.bool)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def cell(kind, x, h, c, w_x, w_h, b_x, b_h):
    """One step of the equations: the new h and c."""
    if kind is GRU:
        x_r, x_z, x_n = (w_x @ x + b_x).chunk(3)
        h_r, h_z, h_n = (w_h @ h + b_h).chunk(3)
        z = (x_z + h_z).sigmoid()
        return (1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h, c
    gates = w_x @ x + b_x + w_h @ h + b_h
    if kind is RNN:
        return gates.tanh(), c
    i, f, g, o = gates.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def one_way(kind, steps, weights):
    h = c = torch.zeros(6, dtype=torch.float64)
    states = []
    for x in steps:
        h, c = cell(kind, x, h, c, *weights)
        states.append(h)
    return states


def layers_of(part, steps):
    """The last layer's states of one clip's real steps, forward and backward, in loops."""
    rnn = part.rnn
    back = []
    for layer in range(rnn.num_layers):
        weights = rnn.all_weights[layer * (1 + rnn.bidirectional) :]
        forward = one_way(type(part), steps, weights[0])
        if rnn.bidirectional:
            back = one_way(type(part), steps[::-1], weights[1])[::-1]
            steps = [torch.cat(pair) for pair in zip(forward, back, strict=True)]
        else:
            steps = forward
    return steps, forward, back


def naive(part, x, mask):
    """Each clip's real steps alone."""
    y = torch.zeros(*mask.shape, part.out.channels, dtype=torch.float64)
    for b in range(len(x)):
        states, _, _ = layers_of(part, list(x[b][mask[b]].flatten(1)))
        if states:
            y[b, mask[b]] = torch.stack(states)
    return y


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop(kind, layers, bidirectional, mask):
    part, features = build(kind, layers, bidirectional), sequence(MASKS[mask])
    y = part(features)
    wanted = naive(part, features.x, features.mask)
    assert y.x.shape == (3, *part.out)
    assert y.mask is features.mask
    torch.testing.assert_close(y.x.flatten(2), wanted, rtol=0, atol=1e-10)
    assert (y.x[~y.mask] == 0).all()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_to_one_is_what_each_direction_knows_at_its_end(kind, layers, bidirectional, mask):
    part, features = build(kind, layers, bidirectional, to="one"), sequence(MASKS[mask])
    y = part(features)
    assert y.x.shape == (3, *part.out)
    assert part.out.steps == 1
    for b, real in enumerate(features.mask):
        steps = list(features.x[b][real].flatten(1))
        assert y.mask[b].tolist() == [bool(steps)]
        _, forward, back = layers_of(part, steps)
        ends = [*forward[-1:], *back[:1]] or [torch.zeros(part.out.channels).double()]
        torch.testing.assert_close(y.x[b].flatten(), torch.cat(ends), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", ["prefix", "any", "none"])
@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_reaches_neither_values_nor_gradients(kind, layers, bidirectional, padding, mask):
    results = []
    for content in (0.0, padding):
        part, features = build(kind, layers, bidirectional), sequence(MASKS[mask], content)
        features.x.requires_grad_()
        y = part(features).x
        y.square().sum().backward()
        grads = [p.grad for p in part.parameters()]
        assert all(g.isfinite().all() for g in (*grads, features.x.grad))
        results.append((y, features.x.grad, *grads))
    for plain, padded in zip(*results, strict=True):
        assert torch.equal(plain, padded)


@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_changes_nothing(kind, layers, bidirectional):
    part, features = build(kind, layers, bidirectional), sequence(MASKS["prefix"])
    longer = Features(
        torch.cat([features.x, torch.full((3, 4, 4, 1, 1), float("nan")).double()], 1),
        torch.cat([features.mask, torch.zeros(3, 4, dtype=torch.bool)], 1),
    )
    y, z = part(features).x, part(longer).x
    torch.testing.assert_close(z[:, :5], y, rtol=0, atol=1e-12)
    assert (z[:, 5:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_reads_forward_only(kind):
    part, features = build(kind, 2), sequence(MASKS["all"])
    later = features.x.clone()
    later[:, 3:] += 1
    y, z = part(features).x, part(features._replace(x=later)).x
    assert torch.equal(y[:, :3], z[:, :3])
    assert not torch.equal(y[:, 3:], z[:, 3:])


@pytest.mark.parametrize(("layers", "bidirectional"), VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameters(kind, layers, bidirectional):
    options = {"hidden": 30, "layers": layers, "bidirectional": bidirectional}
    part = kind(Shape(5, 40, 1, 1), **options)
    ways = 2 if bidirectional else 1
    wanted = sum(
        ways * BLOCKS[kind] * (30 * ((40 if layer == 0 else 30 * ways) + 30) + 2 * 30)
        for layer in range(layers)
    )
    assert sum(p.numel() for p in part.parameters()) == wanted
    assert part.out == Shape(5, 30 * ways, 1, 1)


@pytest.mark.parametrize(("inputs", "first"), [(4096, 9_439_232), (1024, 3_147_776)])
def test_the_five_layers_of_snippets_have_the_sizes_of_texts_with_one_bias(inputs, first):
    with torch.device("meta"):
        lstm = LSTM(Shape(30, inputs, 1, 1), hidden=512, layers=5).rnn
    sizes = [sum(p.numel() for p in layer) - 4 * 512 for layer in lstm.all_weights]
    assert sizes == [first, 2_099_200, 2_099_200, 2_099_200, 2_099_200]


@pytest.mark.parametrize("kind", KINDS)
def test_start(kind):
    part = kind(Shape(5, 4, 1, 1), hidden=6, layers=2, bidirectional=True)
    for _, w_h, b_x, b_h in part.rnn.all_weights:
        biases = list((b_x + b_h).chunk(BLOCKS[kind]))
        if kind is LSTM:
            assert (biases.pop(1) == 1).all()  # i, f, g, o
        assert not torch.cat(biases).any()
        for gate in w_h.chunk(BLOCKS[kind]):
            torch.testing.assert_close(gate @ gate.T, torch.eye(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_bf16_and_pickle(kind, bidirectional):
    part = build(kind, bidirectional=bidirectional, dtype=torch.float32)
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


@pytest.mark.parametrize("kind", KINDS)
def test_meta(kind):
    with torch.device("meta"):
        part = kind(Shape(None, 4, 1, 1), hidden=6, layers=2)
        features = Features(torch.empty(2, 3, 4, 1, 1), torch.ones(2, 3, dtype=torch.bool))
        assert part(features).x.shape == (2, 3, 6, 1, 1)
        both = kind(Shape(None, 4, 1, 1), hidden=6, bidirectional=True, to="one")
        assert both.out == Shape(1, 12, 1, 1)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn")
@pytest.mark.parametrize("kind", KINDS)
def test_exported_one_that_reads_both_ways_refuses_padding(kind):
    part, full = build(kind, bidirectional=True).eval(), sequence(MASKS["all"])
    exported = torch.export.export(part, (full,)).module()
    torch.testing.assert_close(exported(full).x, part(full).x)
    with pytest.raises(RuntimeError, match="takes no padding"):
        exported(sequence(MASKS["prefix"]))


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, 4, 7, 7), {}, "one vector per step, but gets maps of 7x7; put spatial_pool"),
        (Shape(5, None, 1, 1), {}, "fixed number of channels"),
        (Shape(5, 4, 1, 1), {"dropout": 0.5}, "only one layer; set layers to 2"),
        (Shape(5, 4, 1, 1), {"dropout": 2.0, "layers": 2}, r"dropout"),
        (Shape(5, 4, 1, 1), {"layers": 0}, "1 or more hidden units and layers, but got 6 and 0"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_refuses(kind, inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(inp, hidden=6, **options)
