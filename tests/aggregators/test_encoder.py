import math
import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.encoder import Encoder
from actionkit.contracts import Features, Shape

LENGTHS = (6, 3, 1, 0)
POOLS = ["mean", "class", "attention", "none"]
POSITIONS = ["sinusoidal", "learned", "none"]


def clips(padding=0.0, extra=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 8, 1, 1, generator=generator, dtype=dtype)
    x = torch.cat([x, x[:, :1].expand(-1, extra, -1, -1, -1)], 1)
    mask = torch.arange(6 + extra)[None] < torch.tensor(LENGTHS)[:, None]
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def build(pool="mean", positions="sinusoidal", steps=None, dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"heads": 2, "longest": 20, **options}
    part = Encoder(Shape(steps, 8, 1, 1), pool=pool, positions=positions, **options).to(dtype)
    with torch.no_grad():  # what is 0 or 1 at start is too kind for a test
        for p in part.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return part.eval()


def norm(x, layer):
    centred = x - x.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + layer.eps).sqrt()
    return centred / scale * layer.weight + layer.bias


def naive(part, steps):
    """A clip's real steps [n, D] through the equations, clip by clip."""
    n, size = steps.shape
    if part.positions is not None and hasattr(part.positions, "table"):
        steps = steps + part.positions.table.weight[:n]
    elif part.positions is not None:
        table = [
            [
                (math.cos if c % 2 else math.sin)(p / 10000 ** (c // 2 * 2 / size))
                for c in range(size)
            ]
            for p in range(n)
        ]
        steps = steps + torch.tensor(table)
    if part.token is not None:
        steps = torch.cat([part.token[0], steps])
    for layer in part.layers:
        attention = layer.self_attn
        q, k, v = F.linear(
            norm(steps, layer.norm1), attention.in_proj_weight, attention.in_proj_bias
        ).chunk(3, 1)
        heads = []
        for h in range(attention.num_heads):
            own = slice(h * size // attention.num_heads, (h + 1) * size // attention.num_heads)
            shares = q[:, own] @ k[:, own].T / (size / attention.num_heads) ** 0.5
            heads.append(shares.softmax(1) @ v[:, own])
        steps = steps + attention.out_proj(torch.cat(heads, 1))
        inner = F.linear(norm(steps, layer.norm2), layer.linear1.weight, layer.linear1.bias)
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        steps = steps + F.linear(inner, layer.linear2.weight, layer.linear2.bias)
    return norm(steps, part.norm)


@pytest.mark.parametrize("grad", [True, False])  # torch has other kernels without
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_equals_the_equations(positions, pool, grad):
    part, features = build(pool, positions), clips(padding=math.nan)
    with torch.set_grad_enabled(grad):
        y = part(features)
    assert y.x.shape == (4, 6 if pool == "none" else 1, 8, 1, 1)
    assert part.out == Shape(None if pool == "none" else 1, 8, 1, 1)
    for b, n in enumerate(LENGTHS):
        assert y.mask[b].sum() == (n if pool == "none" else min(n, 1))
        if not n:
            assert not y.x[b].any()
            continue
        steps = naive(part, features.x[b, :n].flatten(1))
        if pool == "attention":
            weights = (steps @ part.pool.query[0] / 8**0.5).softmax(0)
            wanted = weights[None] @ steps
        else:
            wanted = {"none": steps, "class": steps[:1], "mean": steps.mean(0, keepdim=True)}[pool]
        got = y.x[b].flatten(1)[: len(wanted)]
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)  # angles are float32


@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("padding", [1e4, math.nan, math.inf])
@pytest.mark.parametrize("pool", POOLS)
def test_padding_reaches_neither_values_nor_gradients(pool, padding, extra):
    results = []
    for given in (clips(), clips(padding, extra)):
        part = build(pool, "learned")
        given.x.requires_grad_()
        y = part(given)
        y.x[y.mask].square().sum().backward()
        assert given.x.grad.isfinite().all()
        grads = [p.grad for p in part.parameters()]
        results.append([y.x[y.mask], given.x.grad[given.mask], *grads])
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain)


def test_where_padding_stands_is_of_no_account():
    part, features = build("none"), clips()
    order = torch.tensor([5, 0, 1, 4, 2, 3])
    spread = torch.zeros(1, 6, dtype=torch.bool)
    spread[0, [1, 2, 4]] = True
    x = features.x[1:2, order]  # steps 0, 1, 2 of the clip of three stand at 1, 2, 4
    y, z = part(features), part(Features(x, spread))
    torch.testing.assert_close(z.x[z.mask], y.x[1][y.mask[1]])


@pytest.mark.parametrize("pool", ["mean", "class", "attention"])
def test_order_counts_only_by_positions(pool):
    torch.manual_seed(0)
    x = torch.randn(2, 9, 8, 1, 1, dtype=torch.float64)
    mask, order = torch.rand(2, 9) < 0.7, torch.randperm(9)
    mask[:, :3] = True
    for positions in POSITIONS:
        part = build(pool, positions)
        y, z = part(Features(x, mask)).x, part(Features(x[:, order], mask[:, order])).x
        assert torch.allclose(y, z, atol=1e-9) == (positions == "none")


@pytest.mark.parametrize(("size", "wanted"), [(768, 7_087_872), (64, 12 * 64**2 + 13 * 64)])
def test_parameters_of_a_layer(size, wanted):
    with torch.device("meta"):
        part = Encoder(Shape(8, size, 1, 1), layers=3)
    assert [sum(p.numel() for p in layer.parameters()) for layer in part.layers] == [wanted] * 3


def test_width_bf16_one_step_and_pickle():
    part = build(width=12, heads=3, dtype=torch.float32, pool="class")
    features = clips(dtype=torch.float32)
    y = part(features).x
    assert y.shape == (4, 1, 12, 1, 1)
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, y)
    with torch.autocast("cpu", torch.bfloat16):
        z = part(features).x
    torch.testing.assert_close(z.float(), y, rtol=0.05, atol=0.05)
    one = Features(features.x[:, :1], features.mask[:, :1])
    assert part(one).x.shape == (4, 1, 12, 1, 1)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, 8, 7, 7), {}, "gets maps of 7x7"),
        (Shape(5, 8, 1, 1), {"heads": 3}, "into 3 heads, but 8 cannot be divided"),
        (Shape(5, 9, 1, 1), {"heads": 3}, "even width with sinusoidal positions, but got 9"),
        (Shape(5, 8, 1, 1), {"positions": "learned", "longest": 4}, "4 places, but gets 5 steps"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Encoder(inp, **options)


def test_more_steps_than_places_are_told_when_run():
    with pytest.raises(ValueError, match="knows 5 places, but gets 6 steps; set longest to 6"):
        build(positions="learned", longest=5)(clips())
