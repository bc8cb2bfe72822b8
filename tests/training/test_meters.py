"""Meters with a clock that is told the time, and in a real fit."""

import csv

import makers
import pytest
from makers import batch, loader, system, trainer

from actionkit.contracts import Bad
from actionkit.tasks.recognition import Recognition
from actionkit.training import meters
from actionkit.training.loggers import CSV
from actionkit.training.meters import Meters


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def numbers(found, name):
    return [float(row[f"train/{name}"]) for row in found if row[f"train/{name}"]]


def fitted(folder, batches, *, every=1, **options):
    run = trainer(
        folder, logger=CSV(folder), log_every_n_steps=every, callbacks=[Meters()], **options
    )
    slow = makers.optimizer(lr=0.1, schedule="cosine")
    run.fit(Recognition(system(optimizer=slow)), loader(batches), loader(batches[:1]))
    return rows(folder)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes one second a look."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(meters.time, "perf_counter", lambda: float(next(seconds)))


def test_they_stand_beside_the_loss_in_every_logger(tmp_path):
    found = fitted(tmp_path, [batch(4, first=i) for i in range(4)], max_epochs=2, every=2)
    logged = [row for row in found if row["train/loss"]]
    assert len(logged) == 4
    for name in ("lr", "clips_per_second", "data_wait", "unreadable"):
        assert all(row[f"train/{name}"] for row in logged)
    assert all(0 <= share <= 1 for share in numbers(found, "data_wait"))
    assert all(rate > 0 for rate in numbers(found, "clips_per_second"))


def test_half_of_the_time_is_waited_where_wait_and_step_take_a_second_each(tmp_path, clock):
    found = fitted(tmp_path, [batch(4, first=i) for i in range(6)], max_epochs=2, every=3)
    assert numbers(found, "data_wait") == [0.5] * 4
    assert numbers(found, "clips_per_second") == [4 / 2] * 4  # four clips in two seconds


def test_evaluations_are_no_part_of_it(tmp_path, clock):
    often = fitted(
        tmp_path, [batch(4, first=i) for i in range(4)], max_epochs=1, val_check_interval=1
    )
    assert numbers(often, "data_wait") == [0.5] * 4


def test_the_rate_is_the_one_of_the_step(tmp_path):
    found = fitted(tmp_path, [batch(4, first=i) for i in range(4)], max_epochs=2)
    rates = numbers(found, "lr")
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]


def test_a_clip_that_cannot_be_read_counts_once(tmp_path):
    bad = [Bad(name, f"{name}.mp4", "", "pyav", "empty") for name in "ab"]
    batches = [batch(4)._replace(bad=(bad[0],)), batch(4)._replace(bad=tuple(bad))]
    found = fitted(tmp_path, batches, max_epochs=2)
    assert numbers(found, "unreadable") == [1, 2, 2, 2]


def test_several_batches_a_step_count_together(tmp_path, clock):
    found = fitted(
        tmp_path, [batch(4, first=i) for i in range(4)], max_epochs=1, accumulate_grad_batches=2
    )
    assert numbers(found, "clips_per_second") == [2.0, 2.0]
