"""Recurrent parts over windows of long videos."""

import copy
import itertools
import pickle

import pytest
import torch
from makers import on_two_ranks
from torch import nn

from actionkit.aggregators.recurrent import GRU, LSTM, RNN
from actionkit.contracts import Features, Shape

KINDS = [RNN, GRU, LSTM]
ROWS = [  # lengths of the videos laid end to end in each row, 12 steps a row
    [12],
    [5, 7],
    [4, 4, 4],
    [1, 1, 1, 9],
]


def build(kind, layers=2, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = kind(Shape(None, 4, 1, 1), hidden=6, layers=layers, **options).to(dtype)
    with torch.no_grad():
        for p in part.parameters():
            p.normal_(std=0.5)
    return part


def rows(dtype=torch.float64, padded=()):
    """All videos, [4, 12, 4, 1, 1], with True where one starts, and padding at the places given."""
    x = torch.randn(4, 12, 4, 1, 1, generator=torch.Generator().manual_seed(1)).to(dtype)
    start = torch.zeros(4, 12, dtype=torch.bool)
    for row, lengths in enumerate(ROWS):
        start[row, [0, *itertools.accumulate(lengths[:-1])]] = True
    mask = torch.ones(4, 12, dtype=torch.bool)
    for place in padded:
        mask[place] = False
    return Features(x, mask, extra={"start": start})


def window(features, first, last):
    extra = {"start": features.extra["start"][:, first:last]}
    x, mask = features.x[:, first:last], features.mask[:, first:last]
    return features._replace(x=x, mask=mask, extra=extra)


def alone(part, features):
    """Every video read by itself."""
    y = torch.zeros(4, 12, 6, 1, 1, dtype=features.x.dtype)
    for row, lengths in enumerate(ROWS):
        ends = list(itertools.accumulate(lengths))
        for first, last in itertools.pairwise([0, *ends]):
            at = slice(row, row + 1), slice(first, last)
            y[at] = part(Features(features.x[at], features.mask[at])).x
    return y


PADDED = {"none": (), "gaps": ((0, 3), (1, 4), (1, 5), (3, slice(3, 9)), (2, slice(4, 8)))}


@pytest.mark.parametrize("padded", PADDED)
@pytest.mark.parametrize("length", [1, 3, 4, 5, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_one_after_the_other_are_the_whole(kind, length, padded):
    part, features = build(kind).eval(), rows(padded=PADDED[padded])
    pieces = [part(window(features, i, min(i + length, 12))) for i in range(0, 12, length)]
    y = torch.cat([piece.x for piece in pieces], 1)
    torch.testing.assert_close(y, alone(part, features), rtol=0, atol=1e-10)
    assert torch.equal(
        pieces[-1].extra["start"], features.extra["start"][:, -pieces[-1].x.shape[1] :]
    )


def test_without_start_every_clip_is_its_own():
    part, features = build(GRU), rows()
    part(window(features, 0, 6))
    plain = features._replace(extra=None)
    assert torch.equal(part(plain).x, build(GRU)(plain).x)


def test_gradients_end_at_the_window():
    part, features = build(LSTM), rows()
    first, second = window(features, 0, 6), window(features, 6, 12)
    first.x.requires_grad_(), second.x.requires_grad_()
    part(first)
    part(second).x.sum().backward()
    assert first.x.grad is None
    assert second.x.grad.any()


def test_evaluation_between_leaves_the_training_s_state():
    part, features = build(GRU), rows()
    wanted = torch.cat([part(window(features, i, i + 6)).x for i in (0, 6)], 1)
    first = part(window(features, 0, 6)).x
    part.eval()(window(features, 0, 5))
    second = part.train()(window(features, 6, 12)).x
    assert torch.equal(torch.cat([first, second], 1), wanted)


def test_state_is_not_saved_but_copied_and_pickled():
    part, features = build(LSTM), rows()
    names = set(part.state_dict())
    part(window(features, 0, 6))
    assert set(part.state_dict()) == names
    copies = [copy.deepcopy(part), pickle.loads(pickle.dumps(part))]
    wanted = part(window(features, 6, 12)).x
    assert all(torch.equal(c(window(features, 6, 12)).x, wanted) for c in copies)


def test_to_one_gives_the_last_state_of_the_row():
    features = rows()
    many, one = build(LSTM), build(LSTM, to="one")
    one.load_state_dict(many.state_dict())
    for first in (0, 6):
        seen = window(features, first, first + 6)
        torch.testing.assert_close(one(seen).x, many(seen).x[:, -1:])


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_in_bf16(kind):
    part, features = build(kind, dtype=torch.float32), rows(torch.float32, PADDED["gaps"])
    with torch.autocast("cpu", torch.bfloat16):
        y = torch.cat([part(window(features, i, i + 4)).x for i in (0, 4, 8)], 1)
    y.sum().backward()
    torch.testing.assert_close(y.float(), alone(part, features), rtol=0.1, atol=0.1)


def test_other_rows_must_start():
    part, features = build(GRU), rows()
    part(features)
    two = Features(features.x[:2], features.mask[:2], extra={"start": torch.zeros(2, 12).bool()})
    with pytest.raises(
        ValueError, match="the state of 4 rows, but gets 2; keep the number of rows"
    ):
        part(two)
    two.extra["start"][:, 0] = True
    part(two)


def test_two_directions_cannot_go_on():
    part = build(GRU, bidirectional=True)
    with pytest.raises(ValueError, match=r"from both ends.* set bidirectional to false"):
        part(rows())


def of_a_rank(rank):
    part, features = build(GRU), rows()
    part.load_state_dict(build(GRU).state_dict())
    features = features._replace(x=features.x + rank)
    ranked = nn.parallel.DistributedDataParallel(part)
    y = torch.cat([ranked(window(features, i, i + 6)).x for i in (0, 6)], 1)
    return torch.equal(y, torch.cat([part(window(features, i, i + 6)).x for i in (0, 6)], 1))


def test_ranks_keep_their_own_state(tmp_path):
    assert on_two_ranks(of_a_rank, tmp_path) == [True, True]
