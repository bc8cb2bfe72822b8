"""Real steps of a small recipe, split into parts that make a whole."""

import pytest
from recipes_for_tests import TWO_STREAMS, changed, write

from actionkit import builder
from actionkit.bench import recipe as bench
from actionkit.bench.advice import AROUND, COMPUTE, TRANSFER, WAIT
from actionkit.bench.clock import Spent

SMALL = {
    "data.dataset.train_scenes": 1,
    "data.dataset.val_scenes": 1,
    "data.dataset.size": 32,
    "data.batch": 4,
    "data.workers": 0,
    "trainer": {"accelerator": "cpu"},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(folder))
        patch.chdir(folder)
        recipe = builder.blueprint(write(folder, changed(TWO_STREAMS, SMALL)))
        recipe.require()
        ticks, totals = [], []
        measured = bench.measure(
            recipe, 1, 3, tick=lambda: ticks.append(1), expect=totals.append
        )  # fmt: skip
        yield measured, ticks, totals, folder


def test_the_parts_of_a_step_make_the_step(found):
    measured, *_ = found
    assert list(measured.parts) == [WAIT, TRANSFER, "device: normalize", COMPUTE, AROUND]
    whole = sum(spent.wall for spent in measured.parts.values())
    assert whole == pytest.approx(measured.step.wall, rel=1e-6)
    assert all(measured.parts[name].wall > 0 for name in (WAIT, "device: normalize", COMPUTE))


def test_device_batch_and_worker_are_those_of_the_recipe(found):
    measured, *_ = found
    assert (measured.device, measured.batch, measured.workers) == ("cpu", 4, 0)
    assert {share.name for share in measured.worker.shares} >= {"read", "crop_resize"}


def test_progress_is_told_as_it_was_promised(found):
    _, ticks, totals, _ = found
    assert totals == [len(ticks)]


def test_nothing_is_left_behind(found):
    *_, folder = found
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "probes"}


def test_a_step_lasts_from_one_wait_to_the_next():
    time = iter(range(0, 1000))
    watched = bench.Steps(lambda: Spent(next(time), 0))
    fetch, move = "[_TrainingEpochLoop].train_dataloader_next", "[Strategy]X.batch_to_device"
    for _ in range(3):
        with watched.profile(fetch):
            next(time)
        with watched.profile(move), watched.profile("[Callback]other.on_train_batch_start"):
            pass
        with watched.profile("run_training_batch"):
            next(time), next(time)
    # the third has no end; each takes 3 ticks of reading and what passes between
    assert len(watched.steps) == 2
    for step in watched.steps:
        assert {name: spent.cpu for name, spent in step.items()} == {
            WAIT: 2, TRANSFER: 1, bench.TRAIN: 3, bench.STEP: 9,
        }  # fmt: skip
