"""Where a worker's time goes: every part gets its own time, and the rest is the rest."""

import numpy as np
import pytest
import torch
from makers import Listed, good_files, records

from actionkit.bench import parts
from actionkit.bench.clock import Spent
from actionkit.contracts import Transform
from actionkit.data.module import DataModule, Stage
from actionkit.data.order import Order
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize


class Slow(Transform):
    """Takes a second of a clock that is not real, and half of it in drawing."""

    def __init__(self, clock):
        self.clock = clock

    def draw(self, rng):
        self.clock.move(0.5)
        return {}

    def apply(self, clips, draws):
        self.clock.move(0.5)
        return clips


class FakeClock:
    def __init__(self):
        self.cpu = 0.0

    def __call__(self):
        return Spent(self.cpu, 2 * self.cpu)

    def move(self, cpu):
        self.cpu += cpu


def module(folder, *transforms, files=None):
    found = good_files(folder, 4) if files is None else files
    stage = Stage(Segments(count=2), [CropResize(size=16), *transforms])
    dataset = Listed(records(found))
    return DataModule({"train": dataset}, Sources(PyAV()), stage, stage, batch=2, workers=0)


def test_every_part_is_timed_by_its_name_and_the_shares_make_a_whole(tmp_path):
    ticks = []
    found = parts.worker(
        module(tmp_path), ["crop_resize"], 3, 2, tick=lambda: ticks.append(1)
    )  # fmt: skip
    names = {share.name for share in found.shares}
    assert names == {"read", "sampler", "crop_resize", "collate", "rest"}
    assert sum(share.share for share in found.shares) == pytest.approx(1)
    assert [s.share for s in found.shares] == sorted((s.share for s in found.shares), reverse=True)
    assert found.bytes == 2 * 3 * 16 * 16
    assert found.types == {"rgb": "uint8"}
    assert len(ticks) == 3
    assert found.first.wall > 0


def test_drawing_and_applying_a_transform_are_one_part(tmp_path):
    clock = FakeClock()
    found = parts.worker(
        module(tmp_path, Slow(clock)), ["crop_resize", "slow"], 4, 3, clock=clock
    )  # fmt: skip
    first, *others = found.shares
    assert (first.name, first.cpu, first.wall, first.share) == ("slow", 1000.0, 2000.0, 1.0)
    assert all(share.wall == 0 for share in others)
    assert (found.cpu, found.wall) == (1000.0, 2000.0)


def test_timed_components_do_as_they_did(tmp_path):
    data = module(tmp_path)
    watch = parts.Watch()
    reader = parts.Timed(data.sources.readers, "read", watch)
    path = data.datasets["train"][0].sources["rgb"]
    assert reader.probe(path) == data.sources.readers.probe(path)
    assert torch.equal(
        reader.read(path, np.array([1])), data.sources.readers.read(path, np.array([1]))
    )
    assert reader.limits is data.sources.readers.limits  # what is no method comes as it is
    assert watch.spent["read"].wall > 0


def test_time_is_counted_even_where_a_call_fails(tmp_path):
    clock = FakeClock()
    watch = parts.Watch(clock)

    def fails():
        clock.move(1.0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        watch.call("it", fails)
    assert watch.spent["it"] == (1.0, 2.0)


def test_unreadable_files_do_not_end_it(tmp_path):
    files = [*good_files(tmp_path, 2), tmp_path / "missing.mp4"]
    found = parts.worker(module(tmp_path, files=files), ["crop_resize"], 3, 1)
    assert found.bytes == 2 * 3 * 16 * 16


def test_batches_go_on_over_epochs_in_the_training_s_order():
    order = Order(5, 2, seed=3)
    batches = parts.asks(order, 5)
    assert [len(batch) for batch in batches] == [2] * 5
    assert batches[:2] == list(order)
    order.set_epoch(1)
    assert batches[2:4] == list(order)


def test_a_transform_that_comes_twice_is_told_apart():
    from types import SimpleNamespace

    nodes = [SimpleNamespace(use=use) for use in ("mirror", "crop_resize", "mirror")]
    assert parts.names_of(nodes) == ["mirror 0", "crop_resize", "mirror 2"]
