"""The loader by its number of workers."""

import pytest
from makers import Listed, good_files, records

from actionkit.bench import loader as bench
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize


@pytest.fixture
def data(tmp_path):
    stage = Stage(Segments(count=2), [CropResize(size=16)])
    dataset = Listed(records(good_files(tmp_path, 4)))
    return DataModule({"train": dataset}, Sources(PyAV()), stage, stage, batch=2, workers=0)


@pytest.mark.parametrize(("cores", "numbers"), [
    (1, [0, 1]), (2, [0, 1, 2]), (6, [0, 1, 2, 4, 6]), (8, [0, 1, 2, 4, 8]),
])  # fmt: skip
def test_workers_double_until_all_cores_are_used(cores, numbers):
    assert bench.counts(cores) == numbers


def test_a_row_for_each_number_of_workers(data):
    ticks = []
    found = bench.compare_workers(data, 1, 2, cores=1, tick=lambda: ticks.append(1))
    assert [row.name for row in found.rows] == ["no worker", "1 worker"]
    assert len(ticks) == 4
    for row in found.rows:
        assert row.facts["clips/s"] > 0
        assert row.facts["first batch s"] > 0
        assert row.cpu > 0
    none, one = found.rows
    assert one.ratio == pytest.approx(one.facts["clips/s"] / none.facts["clips/s"])
    assert "batches of 2" in found.title


def test_the_processor_time_of_workers_counts(data):
    done = bench.one_pass(data, 1, 3)
    assert done.spent.cpu > 0
    assert done.rate > 0
    assert done.first <= 8 * done.spent.wall  # four batches of two
