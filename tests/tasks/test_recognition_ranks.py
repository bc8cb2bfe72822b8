"""Recognition on two ranks is recognition in one process."""

from pathlib import Path

import numpy as np
import pytest
import torch
from makers import batch, loader, on_two_ranks, sample, saves, system, trainer
from test_recognition import Note, bad, run

from actionkit.data.collate import collate
from actionkit.network import SCORES
from actionkit.tasks.recognition import Recognition, _share

RANK_TARGETS = {0: [0, -1, 2, 1], 1: [-1, -1, 1, -1]}  # three labelled clips, and one


def loss_of(given) -> torch.Tensor:
    """The loss, not scaled, and of how many steps it is the mean."""
    task = Recognition(system())
    output = task(given)
    return task._losses(output, given)[SCORES]


def scaled_loss(rank: int) -> float:
    value, count = loss_of(batch(4, 4 * rank, RANK_TARGETS[rank]))
    return (value * _share(count)).item()


def test_mean_over_ranks_is_the_loss_of_one_process(ranks):
    whole, count = loss_of(batch(8, targets=RANK_TARGETS[0] + RANK_TARGETS[1]))
    assert count == 8
    assert np.mean([loss for loss, _ in ranks]) == pytest.approx(whole.item(), rel=1e-6)
    assert _share(count) == 1


def uneven_fit(rank: int, folder: str):
    """A fit in which rank 1 has fewer batches to validate, one of them unreadable."""
    lost = collate([sample(9)._replace(clips={}, bad=(bad("v9"),))])
    train = [batch(2, 2 * rank + 4 * i) for i in range(3)]
    val = [batch(2), batch(2, 2), batch(1, 4)] if rank == 0 else [lost]
    task = Recognition(system())
    note = Note()
    run = trainer(
        Path(folder),
        max_epochs=2,
        devices=2,
        strategy="ddp",
        callbacks=[*saves(Path(folder)), note],
        enable_checkpointing=True,
    )
    run.fit(task, loader(train), loader(val))
    results = task.results
    return note.evaluations, results.ids, results.scores, results.coverage, task.state_dict()


def work(rank: int, folder: str):
    return scaled_loss(rank), uneven_fit(rank, folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks return of their work; they start together since starting takes seconds."""
    folder = tmp_path_factory.mktemp("ranks")
    return on_two_ranks(work, folder, str(folder))


def test_ranks_with_other_numbers_of_batches(ranks, tmp_path):
    (mine, *ours), (other, *theirs) = (fit for _, fit in ranks)
    task = Recognition(system())
    lost = collate([sample(9)._replace(clips={}, bad=(bad("v9"),))])
    train = [batch(4, 4 * i) for i in range(3)]
    alone = run(task, tmp_path, train, [batch(5), lost], epochs=2)
    for here, there, expected in zip(mine, other, alone.evaluations, strict=True):
        for name in ("val/loss", "val/top1"):
            assert here[name] == there[name] == pytest.approx(expected[name], rel=1e-5)
    for ids, scores, coverage, weights in (ours, theirs):
        assert ids == task.results.ids
        assert coverage == task.results.coverage == 5 / 6
        torch.testing.assert_close(scores[SCORES], task.results.scores[SCORES])
        for name, weight in task.state_dict().items():
            torch.testing.assert_close(weights[name], weight)
