import itertools
import math

import pytest
import torch
from test_attention_lstm import INP, MASKS, build, gradients, one_clip, sequence

from actionkit.aggregators.attention_lstm import ALSTM
from actionkit.aggregators.hard_attention import HardALSTM
from actionkit.contracts import Features, Shape

# by state from zero, the first step would like all places alike, and not show which was read
VARIANTS = [{}, {"initial": "mean", "layers": 2}, {"by": "state", "initial": "mean"}]


def hard(**options):
    return build(HardALSTM, **{"soft": 0.0, **options})


def drawn(y):
    """Places that were read [B, T], from the log-probabilities; asserts that each is of a place."""
    weights, log_prob = y.attention.flatten(2).log(), y.log_prob[..., None]
    gaps = (weights - log_prob).abs()
    assert (gaps.amin(2)[y.mask] < 1e-10).all()
    return gaps.argmin(2)


def naive(part, x, mask, places):
    """States and log-probabilities of each clip's real steps alone, places [B, T] being read."""
    y, log_prob = torch.zeros(3, 5, 6, 1, 1).double(), torch.zeros(3, 5).double()
    for b in range(len(x)):
        if not mask[b].any():
            continue
        own = places[b][mask[b]]

        def alone(t, weights, own=own):
            return torch.eye(12, dtype=torch.float64)[own[t]].view(4, 3)

        states, maps = one_clip(part, x[b][mask[b]], alone)
        y[b, mask[b]] = torch.cat(states)
        chosen = [w.flatten()[i].log() for w, i in zip(maps, own, strict=True)]
        log_prob[b, mask[b]] = torch.stack(chosen)
    return y, log_prob


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", VARIANTS)
def test_equals_a_loop_over_the_places_that_were_read(options, mask, train):
    part, features = hard(**options).train(train), sequence(MASKS[mask])
    features.x.requires_grad_()
    y = part(features)
    assert y.x.shape == (3, *part.out)
    assert y.log_prob.shape == (3, 5)
    states, log_prob = naive(part, features.x, features.mask, drawn(y))
    torch.testing.assert_close(y.x, states, rtol=0, atol=1e-10)
    torch.testing.assert_close(y.log_prob, log_prob, rtol=0, atol=1e-10)
    assert (y.log_prob[~y.mask] == 0).all()
    pairs = zip(
        gradients(part, features, y.x, y.log_prob),
        gradients(part, features, states, log_prob),
        strict=True,
    )
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def test_places_are_drawn_with_the_probabilities_of_the_attention():
    part = hard(by="state", initial="mean").train()
    x = torch.randn(1, 1, 2, 4, 3, dtype=torch.float64).expand(40_000, 2, 2, 4, 3)
    torch.manual_seed(0)
    y = part(Features(x, torch.ones(x.shape[:2], dtype=torch.bool)))
    counts = drawn(y)[:, 0].bincount(minlength=12) / len(x)
    wanted = y.attention[0, 0].flatten()
    assert (counts - wanted).abs().max() < 4 * math.sqrt(0.25 / len(x))
    assert wanted.max() - wanted.min() > 0.05
    first, second = drawn(y).unbind(1)  # one draw says nothing of the next but by the state
    assert (first == second).double().mean() < 0.9


@pytest.mark.parametrize("options", VARIANTS)
def test_with_soft_1_and_by_the_mean_in_evaluation_it_is_alstm(options):
    features, plain = sequence(MASKS["any"]), build(ALSTM, **options)
    wanted = plain(features)
    for part in (hard(soft=1.0, **options), hard(read="mean", **options).eval()):
        part.load_state_dict(plain.state_dict())
        y = part(features)
        assert torch.equal(y.x, wanted.x)
        assert torch.equal(y.attention, wanted.attention)
        assert torch.equal(y.extra["attention_entropy"], wanted.extra["attention_entropy"])
        assert not y.log_prob.any()


def test_a_clip_is_soft_at_all_its_steps_or_at_none():
    part = hard(soft=0.25).train()
    x = torch.randn(2000, 5, 2, 4, 3, dtype=torch.float64)
    y = part(Features(x, torch.ones(x.shape[:2], dtype=torch.bool)))
    none = (y.log_prob == 0).sum(1)
    assert set(none.tolist()) == {0, 5}
    assert (none == 5).double().mean().item() == pytest.approx(0.25, abs=0.05)


def test_the_best_place_is_read_in_evaluation_and_nothing_is_drawn():
    part, features = hard().eval(), sequence(MASKS["any"])
    state = torch.get_rng_state()
    y = part(features)
    assert torch.equal(torch.get_rng_state(), state)
    best = y.attention.flatten(2).amax(2)[y.mask]
    torch.testing.assert_close(y.log_prob[y.mask], best.log(), rtol=0, atol=1e-12)


def test_one_seed_is_one_result_however_much_padding_is_behind():
    part, features = hard(soft=0.5).train(), sequence(MASKS["prefix"])
    longer = Features(
        torch.cat([features.x, torch.full((3, 4, 2, 4, 3), 7.0).double()], 1),
        torch.cat([features.mask, torch.zeros(3, 4, dtype=torch.bool)], 1),
    )
    found = []
    for given in (features, features, longer):
        torch.manual_seed(5)
        found.append(part(given))
    for other in found[1:]:
        assert torch.equal(other.x[:, :5], found[0].x)
        assert torch.equal(other.log_prob[:, :5], found[0].log_prob)
    torch.manual_seed(6)
    assert not torch.equal(part(features).log_prob, found[0].log_prob)


def test_the_bonus_is_minus_the_factor_times_the_entropy():
    features = sequence(MASKS["any"])._replace(penalty=torch.tensor(2.0).double())
    part = hard(entropy=0.3)
    y = part(features)
    wanted = 2 - 0.3 * y.extra["attention_entropy"]
    torch.testing.assert_close(y.penalty, wanted, rtol=0, atol=1e-12)
    before = y.extra["attention_entropy"].item()
    y.penalty.backward()
    with torch.no_grad():
        for p in part.attention.parameters():
            p -= 0.1 * p.grad if p.grad is not None else 0
    torch.manual_seed(0)
    assert part.eval()(features).extra["attention_entropy"].item() > before
    assert hard(entropy=0.0)(sequence(MASKS["any"])).penalty is None


def test_places_without_probability_leave_gradients_finite():
    part, features = hard(entropy=0.3), sequence(MASKS["any"])
    with torch.no_grad():
        part.attention.score.weight.mul_(1e4)
    y = part(features)
    assert (y.attention[y.mask] == 0).any()
    (y.x.sum() + y.log_prob.sum() + y.penalty).backward()
    assert all(p.grad.isfinite().all() for p in part.parameters() if p.grad is not None)


@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
def test_padding_reaches_neither_values_nor_gradients(padding):
    for mask in ("prefix", "any", "none"):
        results = []
        for content in (0.0, padding):
            part, features = hard(initial="mean"), sequence(MASKS[mask], content)
            features.x.requires_grad_()
            torch.manual_seed(3)
            y = part(features)
            grads = gradients(part, Features(features.x, y.mask), y.x, y.log_prob, y.penalty)[1:]
            results.append((y.x, y.attention, y.log_prob, y.penalty, *grads))
        for plain, padded in zip(*results, strict=True):
            assert plain.isfinite().all()
            assert torch.equal(plain, padded)


@pytest.mark.parametrize("length", [1, 2])
def test_windows_one_after_the_other_are_the_whole(length):
    part, features = hard().eval(), sequence(MASKS["any"])
    start = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)
    pieces = []
    for first in range(0, 5, length):
        at = slice(None), slice(first, first + length)
        pieces.append(part(Features(features.x[at], features.mask[at], extra={"start": start[at]})))
    for field in ("x", "attention", "log_prob"):
        got = torch.cat([getattr(piece, field) for piece in pieces], 1)
        for b, row in enumerate(start):
            for first, last in itertools.pairwise([*row.nonzero().flatten().tolist(), 5]):
                at = slice(b, b + 1), slice(first, last)
                wanted = getattr(part(Features(features.x[at], features.mask[at])), field)
                torch.testing.assert_close(got[at], wanted, rtol=0, atol=1e-10)


def test_log_probabilities_of_choices_before_it_are_added():
    features = sequence(MASKS["any"])
    part, before = hard().eval(), -torch.rand(3, 5).double()
    own = part(features).log_prob
    assert torch.equal(part(features._replace(log_prob=before)).log_prob, before + own)
    with pytest.raises(ValueError, match="at 5 steps, but a part before it has chosen at 7; keep"):
        part(features._replace(log_prob=torch.zeros(3, 7)))


def test_to_one_keeps_the_choices_of_all_steps():
    many, one = hard(), hard(to="one")
    features, found = sequence(MASKS["prefix"]), []
    for part in (many, one):
        torch.manual_seed(2)
        found.append(part(features))
    assert found[1].x.shape == (3, *one.out) == (3, 1, 6, 1, 1)
    assert torch.equal(found[1].log_prob, found[0].log_prob)
    assert torch.equal(found[1].x[0, 0], found[0].x[0, 4])


def test_bf16_gives_log_probabilities_in_float32():
    part = build(HardALSTM, dtype=torch.float32, soft=0.5).train()
    features = sequence(MASKS["any"], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = part(features)
    assert y.x.dtype == y.log_prob.dtype == torch.float32
    (y.x.sum() + y.log_prob.sum() + y.penalty).backward()
    y = part.bfloat16()(features._replace(x=features.x.bfloat16()))
    assert (y.x.dtype, y.log_prob.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("read", ["best", "mean"])
def test_an_exported_one_reads_as_in_evaluation(read):
    part = hard(read=read).eval()
    exported = torch.export.export(part, (sequence(MASKS["all"]),)).module()
    for mask in MASKS.values():
        features = sequence(mask, padding=7.0)
        got, wanted = exported(features), part(features)
        torch.testing.assert_close(got.x, wanted.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(got.log_prob, wanted.log_prob, rtol=0, atol=1e-10)


def test_it_has_the_parameters_of_alstm():
    with torch.device("meta"):
        parts = [
            kind(Shape(30, 1024, 7, 7), hidden=512, initial="mean") for kind in (ALSTM, HardALSTM)
        ]
    names = [{n: p.shape for n, p in part.named_parameters()} for part in parts]
    assert names[0] == names[1]
    assert sum(p.numel() for p in parts[0].parameters()) == 3_147_776 + 1_049_600 + 1_574_913


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(5, 2, 1, 1), {}, "gets maps of 1x1; take away the spatial_pool before it"),
        (INP, {"soft": 1.5}, r"soft clips in \[0, 1\], but got 1.5"),
        (INP, {"entropy": -1.0}, "entropy factor of 0 or more, but got -1.0"),
        (INP, {"by": "state", "width": 7}, "leave width out, or set by to content"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        HardALSTM(inp, hidden=6, **options)
