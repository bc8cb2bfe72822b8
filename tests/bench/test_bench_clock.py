"""The method: interleaved, a warm-up, medians, ratios of rounds, a band in which all is equal."""

import math

import cv2
import pytest
import torch

from actionkit.bench.clock import (
    Comparison,
    Row,
    Spent,
    compare,
    in_words,
    is_equal,
    one_thread,
    rounds_of,
    rows_of,
)


class FakeClock:
    """Stands still unless a function moves it."""

    def __init__(self):
        self.time = Spent(0.0, 0.0)

    def __call__(self):
        return self.time

    def move(self, cpu, wall):
        self.time = Spent(self.time.cpu + cpu, self.time.wall + wall)


def test_all_variants_run_in_every_round_and_each_round_starts_with_another():
    order = []
    variants = {n: (lambda n=n: (order.append(n), Spent(1, 1))[1]) for n in "abc"}
    ticks = []
    spent = rounds_of(variants, 3, lambda: ticks.append(1))
    assert order == [*"abc", *"bca", *"cab", *"abc"]  # the first is the warm-up
    assert len(ticks) == len(order)
    assert {name: len(found) for name, found in spent.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_warm_up_does_not_count():
    times = iter([100.0, 1.0, 2.0, 3.0])
    assert rounds_of({"a": lambda: Spent(next(times), 0)}, 3)["a"] == [(1, 0), (2, 0), (3, 0)]


def test_ratios_are_medians_of_the_rounds_ratios_and_not_ratios_of_medians():
    first = [Spent(cpu, 0) for cpu in (1.0, 2.0, 9.0)]
    second = [Spent(cpu, 0) for cpu in (1.0, 8.0, 3.0)]
    row = rows_of({"first": first, "second": second})[1]
    assert row.ratio == 1.0  # of 1, 1/4 and 3; the medians are 2 and 3
    assert row.cpu == 3000.0


def test_processor_time_makes_the_ratio_and_wall_time_stands_beside_it():
    clock = FakeClock()
    rows = compare(
        {"slow": lambda: clock.move(4.0, 5.0), "quick": lambda: clock.move(1.0, 50.0)},
        5,
        clock=clock,
    )
    assert [(r.name, r.cpu, r.wall, r.ratio) for r in rows] == [
        ("slow", 4e3, 5e3, 1.0),
        ("quick", 1e3, 50e3, 4.0),
    ]


def test_what_is_quick_is_called_until_a_measurement_lasts_long_enough():
    clock, calls = FakeClock(), []

    def quick():
        calls.append(1)
        clock.move(0.25, 0.25)

    (row,) = compare({"quick": quick}, 2, clock=clock, least=1.0)
    assert len(calls) == 1 + 2 * 4  # one in the warm-up, then four a measurement
    assert row.cpu == 250.0


def test_a_variant_that_takes_no_time_at_all_is_no_error():
    clock = FakeClock()
    rows = compare({"a": lambda: clock.move(1, 1), "b": lambda: None}, 2, clock=clock)
    assert rows[1].ratio == math.inf
    assert rows[1].as_json()["ratio"] is None


@pytest.mark.parametrize(("ratio", "equal"), [
    (1.0, True), (1.15, True), (1.16, False), (1 / 1.15, True), (0.86, False),
])  # fmt: skip
def test_what_differs_by_at_most_15_percent_is_equal_both_ways(ratio, equal):
    assert is_equal(ratio) is equal
    assert (in_words(ratio) == "=") is equal


def test_the_verdict_says_how_much_faster_or_slower_each_is():
    rows = [Row("a", 1, 1, 1.0), Row("b", 1, 1, 2.0), Row("c", 1, 1, 0.25), Row("d", 1, 1, 1.1)]
    assert Comparison("", rows).verdict == (
        "Against a: b is 2.0 times as fast, c takes 4.0 times as long, d is as fast."
    )
    assert Comparison("", rows[:1]).verdict == "Only a could be timed."
    assert Comparison("", [Row("a")]).verdict == "Nothing could be timed."


def test_the_verdict_tells_of_noise():
    rows = rows_of({"a": [Spent(cpu, 0) for cpu in (1, 2, 3, 4, 5)]})
    assert rows[0].spread == pytest.approx(2 / 3)
    assert "busy, rounds differ by 67%: repeat with more --rounds" in Comparison("", rows).verdict


def test_one_thread_is_one_thread_and_is_undone():
    before = torch.get_num_threads(), cv2.getNumThreads()
    with one_thread():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
