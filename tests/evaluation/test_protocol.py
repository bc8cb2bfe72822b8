import numpy as np
import pytest
import torch
from makers import on_two_ranks
from torch import Tensor

from actionkit.aggregators.pooling import Last, Max, Mean
from actionkit.contracts import Features, Shape
from actionkit.evaluation.protocol import Protocol, Tally, of_all_ranks
from actionkit.losses.cross_entropy import CrossEntropy

STEPS = {"mean": Mean, "max": Max, "last": Last}
REDUCE = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0), "last": lambda x: x[-1]}


def scores(batch=3, views=2, steps=5, classes=4, seed=0) -> Features:
    """Logits with at least one real step a view, and NaN at padded ones."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(batch, views, steps, classes, 1, 1, generator=generator)
    length = torch.randint(1, steps + 1, (batch, views, 1), generator=generator)
    mask = torch.arange(steps) < length
    return Features(x.masked_fill(~mask[..., None, None, None], torch.nan), mask)


def naive(features: Features, steps: str, of: str) -> np.ndarray:
    """[B, V, K] in float64, view by view."""
    x = features.x.double().numpy()[..., 0, 0]
    out = np.zeros((*x.shape[:2], x.shape[3]))
    for b in range(x.shape[0]):
        for v in range(x.shape[1]):
            real = x[b, v][features.mask[b, v].numpy()]
            if of == "probabilities":
                real = np.exp(real) / np.exp(real).sum(1, keepdims=True)
            out[b, v] = REDUCE[steps](real)
    return out


def protocol(steps="mean", **options) -> Protocol:
    return Protocol(STEPS[steps](Shape(None, 4, 1, 1)), **options)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_equals_a_naive_loop(steps, of):
    features = scores()
    found = protocol(steps, of=of).view_scores(features, CrossEntropy())
    assert found.shape == (3, 2, 4)
    np.testing.assert_allclose(found.numpy(), naive(features, steps, of), rtol=1e-5, atol=1e-6)


def test_amount_of_padding_is_harmless():
    features = scores()
    more = Features(
        torch.cat([features.x, torch.full((3, 2, 3, 4, 1, 1), torch.nan)], 2),
        torch.cat([features.mask, torch.zeros(3, 2, 3, dtype=torch.bool)], 2),
    )
    for steps in STEPS:
        found = [protocol(steps).view_scores(f, CrossEntropy()) for f in (features, more)]
        torch.testing.assert_close(found[0], found[1])


def test_probabilities_and_logits_can_disagree():
    sure, doubtful = [9.0, 0.0], [0.0, 4.0]
    x = torch.tensor([sure, doubtful, doubtful])[None, None, :, :, None, None]
    features = Features(x, torch.ones(1, 1, 3, dtype=torch.bool))
    best = {
        of: protocol(of=of).view_scores(features, CrossEntropy()).argmax(-1).item()
        for of in ("probabilities", "logits")
    }
    assert best == {"probabilities": 1, "logits": 0}


def test_vote_gives_each_view_one_voice():
    features = scores()
    found = protocol(views="vote").view_scores(features, CrossEntropy())
    expected = naive(features, "mean", "probabilities").argmax(-1)
    assert (found.argmax(-1).numpy() == expected).all()
    assert (found.sum(-1) == 1).all()
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_half_precision_logits_give_float32_scores():
    features = scores()._replace(x=scores().x.bfloat16())
    for of in ("probabilities", "logits"):
        found = protocol(of=of).view_scores(features, CrossEntropy())
        assert found.dtype == torch.float32


def test_protocol_says_what_it_does():
    assert str(protocol("max", of="logits", views="vote")) == "logits, steps max, views vote"


# ------------------------------------------------------------------------------------- tally


def views(count=6, classes=3, seed=0) -> Tensor:
    return torch.rand(count, classes, generator=torch.Generator().manual_seed(seed))


def tally(*items: tuple[list[str], Tensor, Tensor, Tensor]) -> Tally:
    made = Tally()
    for item in items:
        made.add(*item)
    return made


def every(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def test_score_of_a_video_is_the_mean_of_its_views():
    x = views(10).unflatten(0, (2, 5))
    ids, found, targets = tally((["b", "a"], x, every(x), torch.tensor([1, 0]))).result()
    assert ids == ["a", "b"]
    assert targets.tolist() == [0, 1]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), x.double().mean(1).flip(0).numpy(), rtol=1e-6)


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1), (1, 1, 1, 1, 1), (1, 4)])
def test_items_of_one_video_merge_to_the_same_bits(sizes):
    x = views(5)[None]
    items = [
        (["a"], part, every(part), torch.tensor([2]))
        for part in x.split(sizes, 1)  # type: ignore[arg-type]
    ]
    whole = tally((["a"], x, every(x), torch.tensor([2]))).result()
    for order in (items, items[::-1]):
        ids, found, targets = tally(*order).result()
        assert (ids, targets.tolist()) == (["a"], [2])
        assert torch.equal(found, whole[1])


def test_padded_views_do_not_count():
    x = views(6).unflatten(0, (2, 3))
    real = torch.tensor([[True, True, True], [True, False, False]])
    x[~real] = torch.nan
    _, found, _ = tally((["a", "b"], x, real, torch.tensor([0, 1]))).result()
    torch.testing.assert_close(found[1], x[1, 0])
    torch.testing.assert_close(found[0], x[0].mean(0))


def test_votes_are_counted():
    ballots = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 2]]), 3).float()
    _, found, _ = tally((["a"], ballots, every(ballots), torch.tensor([0]))).result()
    assert found.tolist() == [[0.25, 0.5, 0.25]]


def test_soft_targets_are_kept():
    soft = torch.tensor([[0.25, 0.75, 0.0]])
    _, _, targets = tally((["a"], views(2)[None], every(views(2)[None]), soft)).result()
    assert torch.equal(targets, soft)


def test_missing_videos_are_left_out():
    x = views(3)[:, None]
    made = tally((["a", "b", "c"], x, every(x), torch.arange(3)))
    ids, found, targets = made.result(missing={"b"})
    assert (ids, targets.tolist()) == (["a", "c"], [0, 2])
    assert torch.equal(found, x[[0, 2], 0])


def test_nothing_tallied():
    ids, found, targets = Tally().result()
    assert ids == []
    assert len(found) == len(targets) == 0


def test_one_process_gathers_itself():
    x = views(3)[:, None]
    made = tally((["a", "b", "c"], x, every(x), torch.arange(3)))
    for a, b in zip(made.gather().result(), made.result(), strict=True):
        assert (a == b) if isinstance(a, list) else torch.equal(a, b)
    assert of_all_ranks(5) == [5]


ASKED = [("a", 0), ("a", 1), ("b", 2), ("c", 3), ("c", 4)]  # id and view, in turn


def share(rank: int, world: int) -> Tally:
    """The tally of every world-th item; rank 1 of 2 has fewer."""
    made = Tally()
    for name, view in ASKED[rank::world]:
        x = views()[view][None, None]
        made.add([name], x, every(x), torch.tensor([ord(name)]))
    return made


def gathered(rank: int) -> tuple[list[str], Tensor, Tensor]:
    return share(rank, 2).gather().result()


def test_two_ranks_gather_what_one_process_has(tmp_path):
    alone = share(0, 1).result()
    for ids, found, targets in on_two_ranks(gathered, tmp_path):
        assert ids == alone[0] == ["a", "b", "c"]
        assert torch.equal(found, alone[1])
        assert torch.equal(targets, alone[2])
