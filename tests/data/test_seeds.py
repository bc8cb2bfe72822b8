import subprocess
import sys

import numpy as np
import pytest

from actionkit.data.seeds import generator, mix


@pytest.mark.parametrize(
    ("numbers", "value"),
    [
        ((), 8238016292129134938),
        ((0,), 4761921975702974394),
        ((0, 0, 0, 0), 8000154919901005727),
        ((42, 7, 123456, 0), 5266191229787655411),
    ],
)
def test_values_are_pinned_since_a_resumed_run_relies_on_them(numbers, value):
    assert mix(*numbers) == value


def test_first_draws_are_pinned():
    assert generator(3, 1).permutation(8).tolist() == [0, 6, 3, 1, 4, 7, 2, 5]


def test_the_same_in_another_process():
    code = "from actionkit.data.seeds import mix; print(mix(1, 2, 3))"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(there) == mix(1, 2, 3)


def test_63_bits_all_of_them_used():
    seeds = [mix(0, i) for i in range(2000)]
    assert len(set(seeds)) == 2000
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    bits = np.array([[seed >> b & 1 for b in range(63)] for seed in seeds])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.06


def test_order_and_grouping_of_the_numbers_matter():
    assert len({mix(1, 2), mix(2, 1), mix(12), mix(1, 2, 0), mix(0, 1, 2), mix(-1, 2)}) == 6


def test_generators_of_neighbouring_purposes_are_unrelated():
    draws = np.stack([generator(0, 0, i, 0).random(200) for i in range(40)])
    correlations = np.corrcoef(draws)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 0.35
    assert (generator(5).random(3) == generator(5).random(3)).all()
