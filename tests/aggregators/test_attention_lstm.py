import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actionkit.aggregators.attention_lstm import ALSTM, ConvALSTM
from actionkit.aggregators.convlstm import ConvLSTM
from actionkit.contracts import Features, Shape
from actionkit.layers.attention import AdditiveAttention

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "any": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
}
VARIANTS = [
    (ALSTM, {}),
    (ALSTM, {"initial": "mean", "width": 7}),
    (ALSTM, {"initial": "mean", "layers": 3}),
    (ALSTM, {"by": "state", "layers": 2}),
    (ConvALSTM, {}),
    (ConvALSTM, {"initial": "mean", "kernel": 1, "width": 7}),
    (ConvALSTM, {"weights": "scaled", "attention_kernel": 3}),
    (ConvALSTM, {"weights": "sigmoid", "initial": "mean", "attention_kernel": 5}),
]
KINDS = [ALSTM, ConvALSTM]
INP = Shape(5, 2, 4, 3)


def build(kind=ConvALSTM, inp=INP, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = kind(inp, hidden=6, **options)
    with torch.no_grad():
        for p in part.parameters():
            p.normal_(std=0.5)
    return part.to(dtype)


def sequence(mask, padding=0.0, dtype=torch.float64, size=(4, 3)):
    mask = torch.tensor(mask, dtype=torch.bool)
    x = torch.randn(*mask.shape, 2, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def conv(x, layer):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def weigh(part, scores):
    """Weights [4, 3] of scores [4, 3], as the equations have them."""
    if getattr(part, "weights", "") == "sigmoid":
        return 1 / (1 + (-scores).exp())
    return scores.exp() / scores.exp().sum()


def score(part, x, h):
    """Scores [4, 3] of a step [1, C, 4, 3] with the state before it."""
    if not isinstance(part.attention, AdditiveAttention):
        return (part.attention.score.weight @ h.flatten()).view(4, 3)
    query = conv(h, part.attention.queries[0]).expand(1, -1, 4, 3)
    return conv((conv(x, part.attention.content) + query).tanh(), part.attention.score)[0, 0]


def one_clip(part, steps, read=lambda t, weights: weights):
    """States and weights of one clip's real steps [N, C, 4, 3], in a loop.

    `read` says by what a step's map is read, the weights or another.
    """
    summed, states, maps = isinstance(part, ALSTM), [], []
    layers = [part.lstm, *part.above]
    zero = torch.zeros(1, 6, *((1, 1) if summed else (4, 3)), dtype=torch.float64)
    state = [zero] * 2 * len(layers)  # h and c of each layer in turn
    if part.start is not None:
        mean = steps.mean((0, 2, 3) if summed else 0).view(1, 2, *zero.shape[2:])
        state = list(conv(mean, part.start).tanh().split(6, 1))
    for t, x in enumerate(steps.split(1)):
        maps.append(weigh(part, score(part, x, state[-2])))
        seen = read(t, maps[-1]) * x
        if getattr(part, "weights", "") == "scaled":
            seen = 12 * seen
        if summed:
            seen = seen.sum((2, 3), keepdim=True)
        for n, layer in enumerate(layers):
            h, c = state[2 * n : 2 * n + 2]
            i, f, g, o = (conv(seen, layer.input) + conv(h, layer.state)).split(6, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            seen = o.sigmoid() * c.tanh()
            state[2 * n : 2 * n + 2] = seen, c
        states.append(seen)
    return states, maps


def naive(part, x, mask):
    """Each clip's real steps alone."""
    y = torch.zeros(3, 5, 6, *part.out[2:], dtype=torch.float64)
    attention = torch.zeros(3, 5, 1, 4, 3, dtype=torch.float64)
    for b in range(len(x)):
        if mask[b].any():
            states, maps = one_clip(part, x[b][mask[b]])
            y[b, mask[b]] = torch.cat(states)
            attention[b, mask[b]] = torch.stack(maps)[:, None]
    return y, attention


def gradients(part, features, *results):
    """Of a sum with fixed weights, for the input and every parameter."""
    y = torch.cat([result.flatten() for result in results])
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype)
    tensors = [features.x, *part.parameters()]
    loss = (weights * y).sum() + 0 * features.x.sum()
    return torch.autograd.grad(loss, tensors, materialize_grads=True)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_equals_a_loop_with_its_gradients(kind, options, mask):
    part, features = build(kind, **options), sequence(MASKS[mask])
    features.x.requires_grad_()
    y, (states, maps) = part(features), naive(part, features.x, features.mask)
    assert y.x.shape == (3, *part.out)
    assert y.mask is features.mask
    torch.testing.assert_close(y.x, states, rtol=0, atol=1e-10)
    torch.testing.assert_close(y.attention, maps, rtol=0, atol=1e-10)
    pairs = zip(
        gradients(part, features, y.x, y.attention),
        gradients(part, features, states, maps),
        strict=True,
    )
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_attention_sums_to_1_at_real_steps_and_is_0_at_padded_ones(kind, options, mask):
    y = build(kind, **options)(sequence(MASKS[mask]))
    assert y.attention.shape == (3, 5, 1, 4, 3)
    assert (y.x[~y.mask] == 0).all()
    assert (y.attention[~y.mask] == 0).all()
    if options.get("weights") != "sigmoid":
        sums = y.attention.sum((2, 3, 4))
        torch.testing.assert_close(sums, y.mask.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_to_one_is_the_state_after_the_last_real_step_and_keeps_all_weights(kind):
    part, features = build(kind, to="one", initial="mean"), sequence(MASKS["prefix"])
    y, (states, maps) = part(features), naive(part, features.x, features.mask)
    assert part.out == part.last.out == Shape(1, 6, *part.out[2:])
    assert y.x.shape == (3, *part.out)
    assert y.mask.tolist() == [[True], [True], [False]]
    wanted = torch.stack([states[0, 4], states[1, 1], 0 * states[2, 0]])[:, None]
    torch.testing.assert_close(y.x, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(y.attention, maps, rtol=0, atol=1e-10)


def even(part):
    with torch.no_grad():
        part.attention.score.weight.zero_()
    return part


def test_even_attention_makes_alstm_torch_s_lstm_over_the_mean_of_places():
    part, features = even(build(ALSTM)), sequence(MASKS["all"])
    lstm = nn.LSTM(2, 6, batch_first=True).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(part.lstm.input.weight.flatten(1))
        lstm.weight_hh_l0.copy_(part.lstm.state.weight.flatten(1))
        lstm.bias_ih_l0.copy_(part.lstm.input.bias)
        lstm.bias_hh_l0.zero_()
    wanted = lstm(features.x.mean((3, 4)))[0]
    torch.testing.assert_close(part(features).x.flatten(2), wanted, rtol=0, atol=1e-10)


def test_even_attention_makes_scaled_conv_alstm_a_convlstm():
    part, features = even(build(weights="scaled")), sequence(MASKS["any"])
    plain = ConvLSTM(INP, hidden=6).double()
    plain.layers[0].load_state_dict(part.lstm.state_dict())
    torch.testing.assert_close(part(features).x, plain(features).x, rtol=0, atol=1e-10)
    softmax = even(build(weights="softmax"))
    twelfth = plain(features._replace(x=features.x / 12)).x
    torch.testing.assert_close(softmax(features).x, twelfth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_depends_on_what_was_seen_before_and_with_mean_on_what_comes(kind):
    features = sequence(MASKS["all"])
    changed = {t: features.x.clone() for t in (0, 4)}
    for t, x in changed.items():
        x[:, t] += 1
    for initial in ("zero", "mean"):
        part = build(kind, initial=initial)
        plain = part(features).attention
        earlier, later = (part(features._replace(x=changed[t])).attention[:, 2] for t in (0, 4))
        assert not torch.equal(earlier, plain[:, 2])
        assert torch.equal(later, plain[:, 2]) == (initial == "zero")


@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_padding_reaches_neither_values_nor_gradients(kind, options, padding):
    for mask in ("prefix", "any", "none"):
        results = []
        for content in (0.0, padding):
            part, features = build(kind, **options), sequence(MASKS[mask], content)
            features.x.requires_grad_()
            y = part(features)
            grads = gradients(part, Features(features.x, y.mask), y.x, y.attention)[1:]
            results.append((y.x, y.attention, *grads))
        for plain, padded in zip(*results, strict=True):
            assert plain.isfinite().all()
            assert torch.equal(plain, padded)


@pytest.mark.parametrize("mask", ["all", "any"])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_one_after_the_other_are_the_whole(kind, length, mask):
    """Row 0 is one video, rows 1 and 2 are two, laid end to end."""
    part, features = build(kind).eval(), sequence(MASKS[mask])
    start = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)
    pieces = []
    for first in range(0, 5, length):
        window = slice(first, first + length)
        extra = {"start": start[:, window]}
        seen = Features(features.x[:, window], features.mask[:, window], extra=extra)
        pieces.append(part(seen))
    for field in ("x", "attention"):
        got = torch.cat([getattr(piece, field) for piece in pieces], 1)
        wanted = torch.zeros_like(got)
        for b, row in enumerate(start):
            for first, last in itertools.pairwise([*row.nonzero().flatten().tolist(), 5]):
                at = slice(b, b + 1), slice(first, last)
                alone = part(Features(features.x[at], features.mask[at]))
                wanted[at] = getattr(alone, field)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def test_mean_of_a_window_with_two_videos_is_that_of_each():
    part, features = build(initial="mean"), sequence(MASKS["all"])
    start = torch.zeros(3, 5, dtype=torch.bool)
    start[:, [0, 3]] = True
    y = part(features._replace(extra={"start": start})).x
    alone = [
        part(Features(features.x[:, s], features.mask[:, s])).x for s in (slice(3), slice(3, 5))
    ]
    torch.testing.assert_close(y, torch.cat(alone, 1), rtol=0, atol=1e-10)


def sizes(part):
    return {
        name: sum(p.numel() for p in child.parameters()) for name, child in part.named_children()
    }


def test_videolstm_has_its_sizes():
    with torch.device("meta"):
        found = sizes(ConvALSTM(Shape(30, 512, 7, 7), hidden=512, initial="mean"))
    assert found["lstm"] == 18_876_416
    assert found["attention"] == 525_313
    assert found["start"] == 4_719_616


def test_soft_attention_has_its_sizes():
    with torch.device("meta"):
        found = sizes(ALSTM(Shape(30, 1024, 7, 7), hidden=512, initial="mean"))
    assert found["lstm"] == 3_147_776
    assert found["attention"] == 1_574_913
    assert found["start"] == 1_049_600


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])  # even maps, others, and ones of a single place
def test_entropy_is_that_of_the_real_steps_maps(size):
    part, features = build(ALSTM), sequence(MASKS["any"])
    with torch.no_grad():
        part.attention.score.weight.mul_(size)
    maps = naive(part, features.x, features.mask)[1][features.mask]
    wanted = -sum(w * math.log(w) for w in maps.flatten().tolist() if w > 0) / len(maps)
    found = part(features).extra["attention_entropy"]
    assert found.shape == ()
    assert not found.requires_grad
    assert found.item() == pytest.approx(wanted, abs=1e-10)
    if not size:
        assert found.item() == pytest.approx(math.log(12))


def test_entropy_joins_what_is_there_and_is_0_without_real_steps():
    features = sequence(MASKS["none"])._replace(extra={"note": torch.tensor(2.0)})
    extra = build(ALSTM)(features).extra
    assert extra["note"].item() == 2
    assert extra["attention_entropy"].item() == 0


@pytest.mark.parametrize("by", ["content", "state"])
@pytest.mark.parametrize("mask", MASKS)
def test_balance_adds_the_published_penalty_of_clips_with_a_real_step(mask, by):
    features = sequence(MASKS[mask])._replace(penalty=torch.tensor(2.0, dtype=torch.float64))
    part = build(ALSTM, balance=0.3, by=by)
    found, maps = part(features).penalty, naive(part, features.x, features.mask)[1]
    each = [
        sum((1 - maps[b, :, 0, i, j].sum()) ** 2 for i in range(4) for j in range(3))
        for b in range(3)
        if features.mask[b].any()
    ]
    wanted = 2 + 0.3 * sum(each) / max(len(each), 1)
    torch.testing.assert_close(found, torch.as_tensor(wanted).double(), rtol=0, atol=1e-10)
    with torch.no_grad():
        part.attention.score.weight.zero_()
    if mask == "all":  # even maps have the least that 5 steps over 12 places can
        assert part(features).penalty.item() - 2 == pytest.approx(0.3 * 12 * (1 - 5 / 12) ** 2)


def test_balance_spreads_the_maps_over_the_places():
    part, features = build(ALSTM, balance=1.0, by="state", initial="mean"), sequence(MASKS["all"])
    with torch.no_grad():
        part.attention.score.weight.mul_(9)
    optimizer = torch.optim.Adam(part.attention.parameters(), 0.1)
    penalties = []
    for _ in range(30):
        penalties.append(part(features).penalty)
        optimizer.zero_grad()
        penalties[-1].backward()
        optimizer.step()
    assert penalties[-1] < 0.8 * penalties[0]


def test_without_balance_no_penalty_is_made():
    part = build(ALSTM)
    assert part(sequence(MASKS["any"])).penalty is None


def test_by_state_knows_nothing_of_the_step_that_it_weighs():
    features = sequence(MASKS["all"])
    changed = features.x.clone()
    changed[:, 2] += torch.randn(3, 2, 4, 3, dtype=torch.float64)
    for by in ("state", "content"):
        part = build(ALSTM, by=by)
        before, after = part(features).attention, part(features._replace(x=changed)).attention
        assert torch.equal(before[:, 2], after[:, 2]) == (by == "state")
        assert not torch.equal(before[:, 3], after[:, 3])


def test_parameters_are_as_written():
    part = ConvALSTM(INP, hidden=6, kernel=5, width=7, attention_kernel=3, initial="mean")
    c, h, a, k, q = 2, 6, 7, 5, 3
    lstm, attention = 4 * k**2 * (c + h) * h + 4 * h, q**2 * a * (c + h + 1) + a + 1
    wanted = lstm + attention + 2 * h * (k**2 * c + 1)
    assert sum(p.numel() for p in part.parameters()) == wanted
    part = ALSTM(INP, hidden=6, width=7, initial="mean")
    lstm, attention = 4 * h * (c + h) + 4 * h, a * (c + h) + 2 * a + 1
    assert sum(p.numel() for p in part.parameters()) == lstm + attention + 2 * h * (c + 1)
    part = ALSTM(INP, hidden=6, layers=3, by="state", initial="mean")
    lstms, start = lstm + 2 * (8 * h**2 + 4 * h), 2 * 3 * h * (c + 1)
    assert sum(p.numel() for p in part.parameters()) == lstms + 12 * h + start


@pytest.mark.parametrize("kind", KINDS)
def test_maps_may_have_any_size(kind):
    part = build(kind, inp=Shape(None, 2, None, None), initial="mean")
    assert part.out[2:] == ((1, 1) if kind is ALSTM else (None, None))
    for size in ((2, 7), (9, 4)):
        y = part(sequence(MASKS["any"], size=size))
        assert y.x.shape == (3, 5, 6, *((1, 1) if kind is ALSTM else size))
        assert y.attention.shape == (3, 5, 1, *size)


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_one_step_bf16_and_pickle(kind, options):
    part, features = build(kind, dtype=torch.float32, **options), sequence(MASKS["any"])
    one = Features(features.x[:, 1:2].float(), features.mask[:, 1:2])
    y = part(one)
    states, maps = one_clip(part.double(), one.x[0].double())
    torch.testing.assert_close(y.x[0].double(), states[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(y.attention[0, 0, 0].double(), maps[0], rtol=0, atol=1e-5)
    part, features = part.float(), features._replace(x=features.x.float())
    y = part(features)
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, y.x)
    with torch.autocast("cpu", torch.bfloat16):
        z = part(features)
    z.x.sum().backward()
    half = part.bfloat16()(features._replace(x=features.x.bfloat16()))
    assert half.x.dtype == torch.bfloat16
    for got in (z, half):
        torch.testing.assert_close(got.x.float(), y.x, rtol=0.1, atol=0.1)
        assert got.attention.dtype == torch.float32
        torch.testing.assert_close(got.attention, y.attention, rtol=0.1, atol=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_one_holds_the_state_too(kind):
    part = build(kind, initial="mean").eval()
    exported = torch.export.export(part, (sequence(MASKS["all"]),)).module()
    for mask in MASKS.values():
        features = sequence(mask, padding=7.0)
        got, wanted = exported(features), part(features)
        torch.testing.assert_close(got.x, wanted.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(got.attention, wanted.attention, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, 2, 1, 1), {}, "gets maps of 1x1; take away the spatial_pool before it"),
        (Shape(5, None, 4, 3), {}, "fixed number of channels"),
        (INP, {"hidden": 0}, "1 or more hidden channels, but got 0"),
        (INP, {"width": 0}, "1 or more channels for its attention, but got 0"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_refuses(kind, inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(inp, **{"hidden": 6, **options})


@pytest.mark.parametrize("option", ["kernel", "attention_kernel"])
def test_refuses_even_kernels(option):
    with pytest.raises(ValueError, match=r"odd kernels.* but got 2; set it to 3"):
        ConvALSTM(INP, hidden=6, **{option: 2})


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (INP, {"layers": 0}, "1 or more layers, but got 0"),
        (INP, {"balance": -1.0}, "balance of 0 or more, but got -1.0"),
        (INP, {"by": "state", "width": 7}, "width 7.* leave width out, or set by to content"),
        (Shape(5, 2, None, 3), {"by": "state"}, r"maps of \?x3; set by to content"),
    ],
)
def test_alstm_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ALSTM(inp, hidden=6, **options)
