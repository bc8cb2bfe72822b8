import itertools
import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.convgru import ConvGRU
from actionkit.contracts import Features, Shape

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
}
VARIANTS = [  # kernel, bidirectional, layers
    (3, False, 1),
    (3, True, 1),
    (1, False, 2),
    (3, True, 2),
]
INP = Shape(5, 2, 4, 3)


def build(kernel=3, bidirectional=False, layers=1, inp=INP, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = ConvGRU(
        inp, hidden=4, kernel=kernel, bidirectional=bidirectional, layers=layers, **options
    )
    with torch.no_grad():
        for p in part.parameters():
            p.normal_(std=0.5)
    return part.to(dtype)


def sequence(mask, padding=0.0, dtype=torch.float64, size=(4, 3)):
    mask = torch.tensor(mask, dtype=torch.bool)
    x = torch.randn(*mask.shape, 2, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def one_way(layer, steps):
    """The states of one clip's real steps [1, C, H, W], in a loop over the equations."""
    w_z, w_r, w = layer.input.weight.chunk(3)
    u_z, u_r = layer.gates.weight.chunk(2)
    pad = w.shape[-1] // 2
    h = torch.zeros(1, 4, 4, 3, dtype=torch.float64)
    states = []
    for x in steps:
        z = torch.sigmoid(F.conv2d(x, w_z, padding=pad) + F.conv2d(h, u_z, padding=pad))
        r = torch.sigmoid(F.conv2d(x, w_r, padding=pad) + F.conv2d(h, u_r, padding=pad))
        new = F.conv2d(x, w, padding=pad) + F.conv2d(r * h, layer.new.weight, padding=pad)
        h = (1 - z) * h + z * torch.tanh(new)
        states.append(h)
    return states


def both_ways(part, steps):
    """The states of one clip through all layers."""
    for number, layer in enumerate(part.layers):
        ahead = one_way(layer, steps)
        if part.back:
            behind = one_way(part.back[number], steps[::-1])[::-1]
            steps = [torch.cat(pair, 1) for pair in zip(ahead, behind, strict=True)]
        else:
            steps = ahead
    return steps


def naive(part, x, mask):
    """Each clip's real steps alone."""
    channels = 8 if part.back else 4
    clips = []
    for b in range(len(x)):
        found = iter(both_ways(part, [step[None] for step in x[b][mask[b]]]))
        nothing = torch.zeros(1, channels, 4, 3, dtype=torch.float64)
        clips.append(torch.cat([next(found) if real else nothing for real in mask[b]]))
    return torch.stack(clips)


def gradients(part, features, y):
    """Of a sum with fixed weights, for the input and every parameter."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    tensors = [features.x, *part.parameters()]
    return torch.autograd.grad((weights * y).sum(), tensors, materialize_grads=True)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kernel", "bidirectional", "layers"), VARIANTS)
def test_equals_a_loop_with_its_gradients(kernel, bidirectional, layers, mask):
    part, features = build(kernel, bidirectional, layers), sequence(MASKS[mask])
    features.x.requires_grad_()
    y, wanted = part(features), naive(part, features.x, features.mask)
    assert y.x.shape == (3, *part.out)
    assert y.mask is features.mask
    torch.testing.assert_close(y.x, wanted, rtol=0, atol=1e-10)
    assert (y.x[~y.mask] == 0).all()
    pairs = zip(
        gradients(part, features, y.x),
        gradients(part, features, wanted + 0 * features.x.sum()),
        strict=True,
    )
    for got, naive_one in pairs:
        torch.testing.assert_close(got, naive_one, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_to_one_is_the_state_at_the_end_of_each_direction(bidirectional, mask):
    part = build(bidirectional=bidirectional, layers=2, to="one")
    features = sequence(MASKS[mask])
    y, every = part(features), naive(part, features.x, features.mask)
    channels = 8 if bidirectional else 4
    assert part.out == Shape(1, channels, 4, 3)
    for b, real in enumerate(features.mask):
        assert y.mask[b].tolist() == [bool(real.any())]
        wanted = torch.zeros(channels, 4, 3).double()
        if real.any():
            first, last = every[b][real][0], every[b][real][-1]
            wanted = torch.cat([last[:4], first[4:]])
        torch.testing.assert_close(y.x[b, 0], wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["prefix", "any", "none"])
def test_padding_reaches_neither_values_nor_gradients(mask, padding, bidirectional):
    results = []
    for content in (0.0, padding):
        part = build(bidirectional=bidirectional, layers=2)
        features = sequence(MASKS[mask], content)
        features.x.requires_grad_()
        y = part(features).x
        results.append((y, *gradients(part, features, y)))
    for plain, padded in zip(*results, strict=True):
        assert plain.isfinite().all()
        assert torch.equal(plain, padded)


@pytest.mark.parametrize("mask", ["all", "any"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_windows_one_after_the_other_are_the_whole(length, mask):
    """Row 0 is one video, rows 1 and 2 are two, laid end to end."""
    part, features = build(layers=2).eval(), sequence(MASKS[mask])
    start = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)
    pieces = []
    for first in range(0, 5, length):
        seen = (tensor[:, first : first + length] for tensor in (*features[:2], start))
        x, real, starts = seen
        pieces.append(part(Features(x, real, extra={"start": starts})).x)
    wanted = torch.zeros_like(torch.cat(pieces, 1))
    for b, row in enumerate(start):
        for first, last in itertools.pairwise([*row.nonzero().flatten().tolist(), 5]):
            at = slice(b, b + 1), slice(first, last)
            wanted[at] = part(Features(features.x[at], features.mask[at])).x
    torch.testing.assert_close(torch.cat(pieces, 1), wanted, rtol=0, atol=1e-10)


def test_does_not_go_on_where_it_reads_from_both_ends():
    features = sequence(MASKS["all"])
    starts = features._replace(extra={"start": torch.zeros(3, 5, dtype=torch.bool)})
    with pytest.raises(ValueError, match="set bidirectional to false, or leave extra"):
        build(bidirectional=True)(starts)


@pytest.mark.parametrize(("kernel", "bidirectional", "layers"), VARIANTS)
def test_parameters(kernel, bidirectional, layers):
    part = ConvGRU(INP, hidden=6, kernel=kernel, bidirectional=bidirectional, layers=layers)
    ways = 2 if bidirectional else 1
    inputs = [2, 6 * ways][:layers]
    wanted = sum(ways * 3 * kernel**2 * (channels + 6) * 6 for channels in inputs)
    assert sum(p.numel() for p in part.parameters()) == wanted


def test_dropout_is_between_layers_and_in_training_only():
    features = sequence(MASKS["all"])
    part = build(layers=2, dropout=1.0)
    silent = naive(part.eval(), features.x, features.mask)
    torch.testing.assert_close(part(features).x, silent, rtol=0, atol=1e-10)
    assert not part.train()(features).x.any()  # without biases, one that hears nothing says nothing
    alone = build(layers=1)
    assert torch.equal(alone.train()(features).x, alone.eval()(features).x)


def test_maps_may_have_any_size():
    part = build(inp=Shape(None, 2, None, None))
    assert part.out == Shape(None, 4, None, None)
    for size in ((1, 1), (2, 7), (9, 4)):
        assert part(sequence(MASKS["any"], size=size)).x.shape == (3, 5, 4, *size)


@pytest.mark.parametrize("to", ["many", "one"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_step_and_pickle(to, bidirectional):
    part, features = build(bidirectional=bidirectional, to=to), sequence([[1], [0], [1]])
    y = part(features).x
    torch.testing.assert_close(y, naive(part, *features[:2]), rtol=0, atol=1e-10)
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, y)


def test_works_under_autocast():
    part, features = build(layers=2, dtype=torch.float32), sequence(MASKS["any"]).x.float()
    features = Features(features, torch.tensor(MASKS["any"], dtype=torch.bool))
    wanted = part(features).x
    with torch.autocast("cpu", torch.bfloat16):
        y = part(features).x
    y.sum().backward()
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_exported_one_holds_the_state_too(bidirectional):
    part = build(bidirectional=bidirectional, layers=2).eval()
    exported = torch.export.export(part, (sequence(MASKS["all"]),)).module()
    for mask in MASKS.values():
        features = sequence(mask, padding=7.0)
        torch.testing.assert_close(exported(features).x, part(features).x, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, None, 4, 3), {}, "fixed number of channels"),
        (INP, {"kernel": 4}, "odd kernels.* but got 4; set it to 5"),
        (INP, {"hidden": 0}, "1 or more hidden channels, but got 0"),
        (INP, {"layers": 0}, "1 or more layers, but got 0"),
        (INP, {"dropout": 0.5}, "only one layer; set layers to 2"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConvGRU(inp, **{"hidden": 6, **options})
