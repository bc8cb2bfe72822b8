import itertools
import math

import pytest
import torch
from makers import on_two_ranks
from torch.nn import functional as F

from actionkit.aggregators.hard_attention import HardALSTM
from actionkit.contracts import Features, Shape
from actionkit.losses.cross_entropy import CrossEntropy
from actionkit.losses.reinforce import Reinforce

TARGET = torch.tensor([2, 0, -1])
MASK = torch.tensor(
    [
        [[1, 1, 1], [1, 1, 0]],
        [[1, 0, 0], [0, 0, 0]],
        [[1, 1, 1], [1, 1, 1]],  # without a label
    ],
    dtype=torch.bool,
)
CLIPS = [(0, 0), (0, 1), (1, 0)]  # those that count
SOFT = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [math.nan] * 4]).double()


def scores(seed=0, padding=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 3, 4, 1, 1, generator=generator, dtype=torch.float64)
    x = x.masked_fill(~(MASK & (TARGET >= 0)[:, None, None])[..., None, None, None], padding)
    log_prob = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)  # of other steps
    return Features(x.requires_grad_(), MASK, log_prob=log_prob.requires_grad_())


def reward(kind, x, target, mask):
    """Of one clip: logits [T, 4], shares [4] and mask [T]."""
    steps = []
    for logits in x[mask]:
        of_class = logits.log_softmax(0)
        if kind == "correct":
            of_class = torch.tensor([float(k == logits.argmax()) for k in range(4)])
        steps.append(sum(share * v for share, v in zip(target, of_class, strict=True)))
    return sum(steps) / len(steps)


def shares(target):
    return target if target.is_floating_point() else torch.eye(4).double()[target]


@pytest.mark.parametrize("target", [TARGET, SOFT], ids=["class", "soft"])
@pytest.mark.parametrize("kind", ["log_likelihood", "correct"])
def test_choices_get_their_reward_beyond_the_baseline_and_scores_the_cross_entropy(kind, target):
    loss, s = Reinforce(reward=kind, factor=0.5).double(), scores()
    loss.baseline.fill_(-0.7)
    value = loss(s, target, MASK)
    plain = CrossEntropy()(s, target, MASK)
    torch.testing.assert_close(value, plain, rtol=0, atol=1e-12)
    got = torch.autograd.grad(value, [s.x, s.log_prob])
    assert torch.equal(got[0], *torch.autograd.grad(plain, s.x))
    wanted = torch.zeros(3, 2, 5).double()
    for b, v in CLIPS:
        gained = reward(kind, s.x[b, v].flatten(1), shares(target)[b], MASK[b, v]) + 0.7
        wanted[b, v] = -0.5 * gained.detach() / len(CLIPS)
    torch.testing.assert_close(got[1], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["log_likelihood", "correct"])
def test_the_baseline_is_a_moving_average_in_training_only(kind):
    loss, wanted = Reinforce(reward=kind).double(), 0.0
    for seed in range(4):
        s = scores(seed)
        found = [reward(kind, s.x[c].flatten(1), shares(TARGET)[c[0]], MASK[c]) for c in CLIPS]
        wanted = 0.9 * wanted + 0.1 * sum(found).item() / 3
        loss.train()(s, TARGET, MASK)
        loss.eval()(scores(9), TARGET, MASK)
        loss.train()(scores(9), torch.full((3,), -1), MASK)  # no clip has a label
        assert loss.baseline.item() == pytest.approx(wanted, abs=1e-12)
    other = Reinforce(reward=kind)
    other.load_state_dict(loss.state_dict())
    assert other.baseline.item() == pytest.approx(wanted, abs=1e-6)


def two_means(rank, folder):
    loss = Reinforce().double()
    counted = torch.tensor([[2, 0, -1], [-1, 1, -1]])[rank]  # 3 clips of one rank, 1 of the other
    found = [loss.baseline.item()]
    for target in (counted, counted, torch.full((3,), -1)):
        loss(scores(rank), target, MASK)
        found.append(loss.baseline.item())
    return found


def test_the_baseline_is_that_of_all_ranks(tmp_path):
    first, second = on_two_ranks(two_means, tmp_path, str(tmp_path))
    assert first == second
    s = [scores(0).x, scores(1).x]
    eye = torch.eye(4).double()
    found = [
        reward("log_likelihood", s[0][c].flatten(1), eye[TARGET[c[0]]], MASK[c]) for c in CLIPS
    ]
    found.append(reward("log_likelihood", s[1][1, 0].flatten(1), eye[1], MASK[1, 0]))
    mean = sum(found).item() / 4
    wanted = [0, 0.1 * mean, 0.19 * mean, 0.19 * mean]
    assert first == pytest.approx(wanted, abs=1e-12)


class Chosen(HardALSTM):
    """Reads the places it is told, steps after each other."""

    def look(self, weights, soft):
        place = torch.tensor([[next(self.places)]])
        each = weights.flatten(1)
        alone = torch.zeros_like(each).scatter(1, place, 1.0)
        return alone.view_as(weights), each.gather(1, place).log()


@pytest.mark.parametrize("kind", ["log_likelihood", "correct"])
def test_its_expected_gradient_is_that_of_the_expected_reward(kind):
    """Summed over all 4^3 ways to look at maps of 2x2 in 3 steps, with any baseline."""
    torch.manual_seed(0)
    part = Chosen(Shape(3, 2, 2, 2), hidden=3, soft=0.0, entropy=0.0).double()
    head = torch.nn.Linear(3, 4).double()
    parameters = [*part.parameters(), *head.parameters()]
    with torch.no_grad():
        for p in parameters:
            p.normal_()
        head.weight.mul_(4)
        head.bias.zero_()
    clip = Features(torch.randn(1, 3, 2, 2, 2).double(), torch.ones(1, 3, dtype=torch.bool))
    target, mask = torch.tensor([2]), torch.ones(1, 1, 3, dtype=torch.bool)
    loss = Reinforce(reward=kind).double().eval()
    estimates, expected, total = {-1.3: 0, 0.0: 0, 5.0: 0}, 0, 0
    for places in itertools.product(range(4), repeat=3):
        part.places = iter(places)
        y = part(clip)
        x = head(y.x.flatten(2))  # [B, T, K]
        given = Features(x[:, None, :, :, None, None], mask, log_prob=y.log_prob[:, None])
        probability = y.log_prob.sum().exp()
        for baseline in estimates:
            loss.baseline.fill_(baseline)
            found = loss(given, target, mask)
            if kind == "correct":  # the cross-entropy is no part of what is expected there
                found = found - CrossEntropy()(given, target, mask)
            gradient = torch.autograd.grad(
                found, parameters, retain_graph=True, materialize_grads=True
            )
            flat = torch.cat([g.flatten() for g in gradient])
            estimates[baseline] = estimates[baseline] + probability.detach() * flat
        rewards = loss.rewards(given.x, target, mask)[0].sum()
        if kind == "log_likelihood":
            rewards = -F.cross_entropy(x[0], target.expand(3))  # with gradients
        expected = expected + probability * rewards
        total = total + probability.detach()
    assert total.item() == pytest.approx(1)
    exact = torch.autograd.grad(-expected, parameters, materialize_grads=True)
    exact = torch.cat([g.flatten() for g in exact])
    assert exact.abs().max() > 1e-3
    for estimate in estimates.values():
        torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-10)


def test_choices_of_soft_clips_and_without_factor_change_nothing():
    s = scores()
    zeros = s._replace(log_prob=0 * s.log_prob)
    plain = torch.autograd.grad(CrossEntropy()(s, TARGET, MASK), s.x)[0]
    assert torch.equal(torch.autograd.grad(Reinforce()(zeros, TARGET, MASK), s.x)[0], plain)
    value = Reinforce(factor=0.0)(s, TARGET, MASK)
    assert not torch.autograd.grad(value, s.log_prob)[0].any()


@pytest.mark.parametrize("padding", [1e30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("target", [TARGET, SOFT], ids=["class", "soft"])
@pytest.mark.parametrize("kind", ["log_likelihood", "correct"])
def test_padding_reaches_neither_value_nor_gradients_nor_baseline(kind, target, padding):
    results = []
    for content in (0.0, padding):
        loss, s = Reinforce(reward=kind).double(), scores(padding=content)
        value = loss(s, target, MASK)
        results.append([value, loss.baseline, *torch.autograd.grad(value, [s.x, s.log_prob])])
    for plain, padded in zip(*results, strict=True):
        assert plain.isfinite().all()
        assert torch.equal(plain, padded)


@pytest.mark.parametrize("none", ["mask", "label", "soft label"])
def test_zero_where_nothing_counts(none):
    s, loss = scores(), Reinforce()
    target = {
        "mask": TARGET,
        "label": torch.full((3,), -1),
        "soft label": torch.full((3, 4), math.nan),
    }
    mask = torch.zeros_like(MASK) if none == "mask" else MASK
    value = loss(s, target[none], mask)
    assert value.item() == loss.baseline.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(value, [s.x, s.log_prob]))


def test_half_precision_scores():
    s = scores()
    half = s._replace(x=s.x.detach().bfloat16(), log_prob=s.log_prob.float())
    value = Reinforce()(half, TARGET, MASK)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(CrossEntropy()(s, TARGET, MASK).item(), rel=0.02)


def test_learns_to_look_at_the_place_that_tells_the_class():
    """A place has the class, others have noise; chance is 1/4."""
    torch.manual_seed(0)
    part = HardALSTM(Shape(1, 5, 3, 3), hidden=8, soft=0.0, width=8)
    head, loss = torch.nn.Linear(8, 4), Reinforce()
    parameters = [*part.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 0.02)
    mask = torch.ones(64, 1, 1, dtype=torch.bool)
    for _ in range(250):
        target, place = torch.randint(4, (64,)), torch.randint(9, (64,))
        x = torch.zeros(64, 5, 9)
        x[torch.arange(64), target, place] = 1.0
        x[:, 4] = 1.0
        x[torch.arange(64), 4, place] = -1.0  # marks the place
        y = part(Features(x.view(64, 1, 5, 3, 3), mask[:, 0]))
        logits = head(y.x.flatten(2))[:, None, :, :, None, None]
        value = loss(Features(logits, mask, log_prob=y.log_prob[:, None]), target, mask)
        optimizer.zero_grad()
        (value + y.penalty).backward()
        optimizer.step()
    found = y.attention.flatten(1)[torch.arange(64), place]
    assert found.mean() > 0.9
    assert (logits.flatten(1).argmax(1) == target).float().mean() > 0.9


def test_refuses():
    with pytest.raises(ValueError, match="factor of 0 or more, but got -1"):
        Reinforce(factor=-1.0)
    with pytest.raises(ValueError, match=r"label_smoothing in \[0, 1\), but got 1"):
        Reinforce(label_smoothing=1.0)
    bare = scores()._replace(log_prob=None)
    with pytest.raises(ValueError, match=r"log_prob is missing; put hard_alstm .* cross_entropy"):
        Reinforce()(bare, TARGET, MASK)
