import pytest
import torch
from torch.nn import functional as F

from actionkit.contracts import Features
from actionkit.layers.convgru import ConvGRULayer, backwards

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "one": [[1], [0], [1]],
}


def build(kernel=3, dtype=torch.float64):
    torch.manual_seed(0)
    layer = ConvGRULayer(2, 4, kernel)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(std=0.7)
    return layer.to(dtype)


def sequence(mask, padding=0.0, dtype=torch.float64, size=(4, 3)):
    mask = torch.tensor(mask, dtype=torch.bool)
    x = torch.randn(*mask.shape, 2, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def equations(layer, x, h):
    """One step of one clip, x [1, C, H, W], as the paper writes it."""
    w_z, w_r, w = layer.input.weight.chunk(3)
    u_z, u_r = layer.gates.weight.chunk(2)
    u = layer.new.weight

    def conv(x, weight):
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    z = torch.sigmoid(conv(x, w_z) + conv(h, u_z))
    r = torch.sigmoid(conv(x, w_r) + conv(h, u_r))
    new = torch.tanh(conv(x, w) + conv(r * h, u))
    return (1 - z) * h + z * new


def naive(layer, features):
    """States [B, T, h, H, W] of each clip alone, and its last; a padded step repeats the state."""
    clips = []
    for x, mask in zip(features.x, features.mask, strict=True):
        h = torch.zeros(1, 4, *x.shape[2:], dtype=x.dtype)
        states = []
        for step, real in zip(x, mask, strict=True):
            h = equations(layer, step[None], h) if real else h
            states.append(h)
        clips.append(torch.cat(states))
    states = torch.stack(clips)
    return states, states[:, -1]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_equals_a_loop_over_the_equations_with_its_gradients(kernel, mask):
    layer, features = build(kernel), sequence(MASKS[mask])
    features.x.requires_grad_()
    states, (end,) = layer(features, layer.fresh(features.x))
    wanted, last = naive(layer, features)
    torch.testing.assert_close(states, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-10)
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    tensors = [features.x, *layer.parameters()]
    got = torch.autograd.grad((weights * states).sum(), tensors)
    for one, other in zip(got, torch.autograd.grad((weights * wanted).sum(), tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_goes_on_from_a_state():
    layer, features = build(), sequence(MASKS["any"])
    whole, (end,) = layer(features, layer.fresh(features.x))
    state, pieces = layer.fresh(features.x), []
    for part in (slice(0, 2), slice(2, 5)):
        x, state = layer(Features(features.x[:, part], features.mask[:, part]), state)
        pieces.append(x)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(state[0], end, rtol=0, atol=1e-10)


def test_an_open_update_gate_takes_the_new_state_and_a_shut_one_keeps_the_old():
    """The other way round than in torch's GRU."""
    layer, features = build(1), sequence(MASKS["all"])
    old = torch.rand(3, 4, 4, 3).double()
    with torch.no_grad():
        layer.gates.weight[:4] = 0
        for push, kept in ((-1e3, True), (1e3, False)):
            layer.input.weight[:4] = push
            above = features.x.abs()
            share = layer.input(above[:, 0])
            h = layer.step(share, old)
            r = (share[:, 4:8] + layer.gates(old)[:, 4:]).sigmoid()
            new = (share[:, 8:] + layer.new(r * old)).tanh()
            torch.testing.assert_close(h, old if kept else new, rtol=0, atol=1e-10)


def test_backwards_reads_each_clip_from_its_own_last_real_step():
    layer, features = build(), sequence(MASKS["any"])
    turned = backwards(features)
    states, (end,) = layer(turned, layer.fresh(features.x))
    for b, real in enumerate(features.mask):
        alone = Features(features.x[b : b + 1, real].flip(1), torch.ones(1, int(real.sum())) > 0)
        wanted, last = naive(layer, alone)
        torch.testing.assert_close(states.flip(1)[b, real], wanted[0].flip(0), rtol=0, atol=1e-10)
        torch.testing.assert_close(end[b], last[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
def test_padding_reaches_neither_values_nor_gradients(padding):
    results = []
    for content in (0.0, padding):
        layer, features = build(), sequence(MASKS["prefix"], content)
        features.x.requires_grad_()
        states, _ = layer(features, layer.fresh(features.x))
        tensors = [features.x, *layer.parameters()]
        results.append((states, *torch.autograd.grad(states.square().sum(), tensors)))
    for plain, padded in zip(*results, strict=True):
        assert plain.isfinite().all()
        assert torch.equal(plain, padded)


@pytest.mark.parametrize(("kernel", "hidden"), [(1, 6), (3, 5)])
def test_parameters(kernel, hidden):
    layer = ConvGRULayer(2, hidden, kernel)
    assert sum(p.numel() for p in layer.parameters()) == 3 * kernel**2 * (2 + hidden) * hidden


def test_start():
    layer = ConvGRULayer(2, 4, 3)
    for weight in (*layer.gates.weight.chunk(2), layer.new.weight):
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(4), rtol=0, atol=1e-5)


def test_in_half_precision_the_state_still_adds_up_in_float32():
    layer, features = build(dtype=torch.float32), sequence(MASKS["any"], dtype=torch.float32)
    wanted, _ = layer(features, layer.fresh(features.x))
    with torch.autocast("cpu", torch.bfloat16):
        y, (end,) = layer(features, layer.fresh(features.x))
    assert (y.dtype, end.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(y, wanted, rtol=0.05, atol=0.05)
    half = features._replace(x=features.x.bfloat16())
    y, (end,) = layer.bfloat16()(half, layer.fresh(half.x))
    assert (y.dtype, end.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("hidden", [0, -1])
def test_refuses_no_hidden_channels(hidden):
    with pytest.raises(ValueError, match=f"1 or more hidden channels, but got {hidden}"):
        ConvGRULayer(2, hidden, 3)
