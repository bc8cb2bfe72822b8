import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actionkit.aggregators.convlstm import ConvLSTM
from actionkit.contracts import Features, Shape

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
}
VARIANTS = [  # kernel, peepholes, layers
    (3, False, 1),
    (3, True, 1),
    (1, False, 2),
    (5, True, 3),
]
INP = Shape(5, 2, 4, 3)


def build(kernel=3, peepholes=False, layers=1, inp=INP, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = ConvLSTM(inp, hidden=4, kernel=kernel, peepholes=peepholes, layers=layers, **options)
    with torch.no_grad():  # biases and peepholes at start are 0 or 1, too kind for a test
        for p in part.parameters():
            p.normal_(std=0.5)
    return part.to(dtype)


def sequence(mask, padding=0.0, dtype=torch.float64, size=(4, 3)):
    mask = torch.tensor(mask, dtype=torch.bool)
    x = torch.randn(*mask.shape, 2, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def gate(layer, number, x, h):
    """The convolutions of one gate, i, f, g, o = 0, 1, 2, 3, as the equations have them."""
    w_x, w_h, b = (
        tensor.chunk(4)[number]
        for tensor in (layer.input.weight, layer.state.weight, layer.input.bias)
    )
    pad = w_x.shape[-1] // 2
    return F.conv2d(x, w_x, padding=pad) + F.conv2d(h, w_h, padding=pad) + b[:, None, None]


def one_layer(layer, steps):
    """The states of one clip's real steps, in a loop."""
    h = c = torch.zeros(1, 4, 4, 3, dtype=torch.float64)
    w = layer.peepholes if layer.peepholes is not None else torch.zeros(3)
    states = []
    for x in steps:
        i = torch.sigmoid(gate(layer, 0, x, h) + w[0] * c)
        f = torch.sigmoid(gate(layer, 1, x, h) + w[1] * c)
        c = f * c + i * torch.tanh(gate(layer, 2, x, h))
        o = torch.sigmoid(gate(layer, 3, x, h) + w[2] * c)
        h = o * torch.tanh(c)
        states.append(h)
    return states


def naive(part, x, mask):
    """Each clip's real steps alone."""
    clips = []
    for b in range(len(x)):
        states = [step[None] for step in x[b][mask[b]]]
        for layer in part.layers:
            states = one_layer(layer, states)
        found = iter(states)
        nothing = torch.zeros(1, 4, 4, 3, dtype=torch.float64)
        clips.append(torch.cat([next(found) if real else nothing for real in mask[b]]))
    return torch.stack(clips)


def gradients(part, features, y):
    """Of a sum with fixed weights, for the input and every parameter."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    tensors = [features.x, *part.parameters()]
    return torch.autograd.grad((weights * y).sum(), tensors, materialize_grads=True)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kernel", "peepholes", "layers"), VARIANTS)
def test_equals_a_loop_with_its_gradients(kernel, peepholes, layers, mask):
    part, features = build(kernel, peepholes, layers), sequence(MASKS[mask])
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
def test_to_one_is_the_state_after_the_last_real_step(mask):
    part, features = build(peepholes=True, layers=2, to="one"), sequence(MASKS[mask])
    y, every = part(features), naive(part, features.x, features.mask)
    assert part.out == Shape(1, 4, 4, 3)
    for b, real in enumerate(features.mask):
        assert y.mask[b].tolist() == [bool(real.any())]
        wanted = every[b][real][-1] if real.any() else torch.zeros(4, 4, 3).double()
        torch.testing.assert_close(y.x[b, 0], wanted, rtol=0, atol=1e-10)


def test_on_maps_of_one_place_it_is_torch_s_lstm():
    part = build(1, layers=2, inp=Shape(5, 2, 1, 1))
    lstm = nn.LSTM(2, 4, 2, batch_first=True).double()
    with torch.no_grad():
        for layer, (w_x, w_h, b_x, b_h) in zip(part.layers, lstm.all_weights, strict=True):
            w_x.copy_(layer.input.weight.flatten(1))
            w_h.copy_(layer.state.weight.flatten(1))
            b_x.copy_(layer.input.bias)
            b_h.zero_()
    features = sequence(MASKS["all"], size=(1, 1))
    wanted = lstm(features.x.flatten(2))[0]
    torch.testing.assert_close(part(features).x.flatten(2), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["prefix", "any", "none"])
def test_padding_reaches_neither_values_nor_gradients(mask, padding):
    results = []
    for content in (0.0, padding):
        part, features = build(peepholes=True, layers=2), sequence(MASKS[mask], content)
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
    part, features = build(peepholes=True, layers=2).eval(), sequence(MASKS[mask])
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


@pytest.mark.parametrize(("kernel", "peepholes", "layers"), VARIANTS)
def test_parameters(kernel, peepholes, layers):
    part = ConvLSTM(INP, hidden=6, kernel=kernel, peepholes=peepholes, layers=layers)
    wanted = sum(
        4 * kernel**2 * (channels + 6) * 6 + 4 * 6 + peepholes * 3 * 6 * 4 * 3
        for channels in [2, 6, 6][:layers]
    )
    assert sum(p.numel() for p in part.parameters()) == wanted


def test_the_cell_of_videolstm_has_its_size():
    with torch.device("meta"):
        part = ConvLSTM(Shape(30, 512, 7, 7), hidden=512)
    assert sum(p.numel() for p in part.parameters()) == 18_876_416


def test_start():
    part = ConvLSTM(INP, hidden=4, peepholes=True, layers=2)
    for layer in part.layers:
        i, f, g, o = layer.input.bias.chunk(4)
        assert (f == 1).all()
        assert not torch.cat([i, g, o, layer.peepholes.flatten()]).any()
        for weight in layer.state.weight.chunk(4):
            rows = weight.flatten(1)
            torch.testing.assert_close(rows @ rows.T, torch.eye(4), rtol=0, atol=1e-5)


def test_dropout_is_between_layers_and_in_training_only():
    features = sequence(MASKS["all"])
    part = build(layers=2, dropout=1.0)
    silent = naive(part.eval(), features.x, features.mask)
    torch.testing.assert_close(part(features).x, silent, rtol=0, atol=1e-10)
    deaf = part.train()(features).x  # the upper layer hears nothing, but its own output is whole
    assert deaf.all()
    other = part(features._replace(x=features.x + 1)).x
    assert torch.equal(deaf, other)


def test_maps_may_have_any_size_without_peepholes():
    part = build(inp=Shape(None, 2, None, None))
    assert part.out == Shape(None, 4, None, None)
    for size in ((1, 1), (2, 7), (9, 4)):
        assert part(sequence(MASKS["any"], size=size)).x.shape == (3, 5, 4, *size)


@pytest.mark.parametrize("to", ["many", "one"])
def test_one_step_and_pickle(to):
    part, features = build(layers=2, to=to), sequence([[1], [0], [1]])
    y = part(features).x
    torch.testing.assert_close(y, naive(part, *features[:2]), rtol=0, atol=1e-10)
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, y)


def test_in_half_precision_the_cell_state_still_adds_up_in_float32():
    part = build(peepholes=True, dtype=torch.float32)
    features = sequence(MASKS["any"], dtype=torch.float32)
    wanted = part(features).x
    with torch.autocast("cpu", torch.bfloat16):
        y = part(features).x
    y.sum().backward()
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)
    half = features._replace(x=features.x.bfloat16())
    h, c = part.bfloat16().read(half, None)[1]
    assert (h.dtype, c.dtype) == (torch.bfloat16, torch.float32)
    assert part(half).x.dtype == torch.bfloat16
    torch.testing.assert_close(part(half).x.float(), wanted, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore")
def test_an_exported_one_holds_the_state_too():
    part = build(peepholes=True, layers=2).eval()
    exported = torch.export.export(part, (sequence(MASKS["all"]),)).module()
    for mask in MASKS.values():
        features = sequence(mask, padding=7.0)
        torch.testing.assert_close(exported(features).x, part(features).x, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, None, 4, 3), {}, "fixed number of channels"),
        (INP, {"kernel": 4}, "odd kernels.* but got 4; set it to 5"),
        (INP, {"kernel": 0}, "odd kernels.* but got 0; set it to 1"),
        (INP, {"hidden": 0}, "1 or more hidden channels, but got 0"),
        (INP, {"layers": 0}, "1 or more layers, but got 0"),
        (INP, {"dropout": 0.5}, "only one layer; set layers to 2"),
        (Shape(5, 2, None, 3), {"peepholes": True}, r"maps of \?x3; set peepholes to false"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConvLSTM(inp, **{"hidden": 6, **options})
