"""Rates and batches found by steps of a training: what is set, measured, and refused."""

import math
import weakref

import numpy as np
import pytest
import torch
from recipes_for_tests import TWO_STREAMS, changed, write

from actionkit import builder, grammar, run
from actionkit.errors import RunError
from actionkit.tasks.recognition import Recognition
from actionkit.training import tuner
from actionkit.training.memory import NoMemoryError
from actionkit.training.optimizer import scaled
from actionkit.training.tuner import RangeTest, as_written, largest, largest_batch, range_test

SMALL = {
    "data.dataset.train_scenes": 2,
    "data.dataset.val_scenes": 1,
    "data.dataset.size": 32,
    "data.train.sampler.count": 1,
    "data.train.per_sample.0.size": 24,
    "data.batch": 8,
    "data.workers": 0,
    "trainer": {"accelerator": "cpu"},
    "model": {
        "streams": {
            "rgb": {
                "backbone": {"use": "timm", "arch": "test_resnet", "lr": 0.1},
                "aggregate": ["spatial_pool", "mean"],
                "head": "linear",
            }
        }
    },
    "loss": "cross_entropy",
    "optimizer": {"use": "sgd", "schedule": {"use": "cosine", "warmup": 0.5}},
}


@pytest.fixture
def recipe(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.getbasetemp() / "tuner"))
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, changed(TWO_STREAMS, SMALL))


def made(recipe, *overrides):
    """The task, the data, the plan and the trainer of a recipe, as a tuner takes them."""
    found = builder.blueprint(recipe, overrides)
    task, data = builder.build(found)
    data.prepare_data()
    return task, data, found.plan, lambda *a, **options: run.make_trainer(found, *a, **options)


def swept(recipe, *overrides, steps=10, first=1e-4, last=0.1):
    return range_test(*made(recipe, *overrides), steps=steps, first=first, last=last)


# ------------------------------------------------------------------------------- the range test


def of_losses(losses, wanted=None):
    found = RangeTest(wanted or len(losses))
    found.losses = list(losses)
    found.rates = np.geomspace(1e-6, 1.0, len(losses)).tolist()
    return found


def test_the_suggestion_is_where_a_curve_falls_fastest():
    at = np.linspace(-6, 0, 121)
    sigmoid = 4.0 / (1.0 + np.exp(4.0 * (at + 3.0)))  # steepest at 1e-3
    rise = np.where(at > -1, 200 * (at + 1), 0.0)  # and falls no more behind 0.1
    found = of_losses(sigmoid + rise)
    assert math.log10(found.suggestion) == pytest.approx(-3, abs=0.06)


def test_noise_moves_the_suggestion_little_and_a_fall_behind_the_lowest_point_does_not():
    at = np.linspace(-6, 0, 121)
    clean = 4.0 / (1.0 + np.exp(4.0 * (at + 3.0)))
    spike = np.where((at > -1) & (at < -0.5), 50.0, 0.0)  # its end is by far the steepest fall
    noise = np.random.default_rng(0).normal(0, 0.1, len(at))
    found = of_losses(clean + noise + spike)
    assert math.log10(found.suggestion) == pytest.approx(-3, abs=0.5)


def test_a_loss_that_only_rises_suggests_nothing():
    assert of_losses(np.linspace(1, 2, 40)).suggestion is None
    assert of_losses([], wanted=40).suggestion is None
    assert of_losses([1.0], wanted=40).suggestion is None


def test_smoothing_is_a_weighted_mean_that_leaves_lines_alone():
    line = np.linspace(3, 1, 50)
    found = of_losses(line)
    half = 50 // tuner.WIDTH
    np.testing.assert_allclose(found.smooth[half:-half], line[half:-half])
    np.testing.assert_allclose(of_losses(np.full(7, 2.5), 100).smooth, 2.5)  # fewer than wanted


def test_divergence_is_a_rise_of_three_times_the_first_loss():
    assert not of_losses([2.0] * 20 + [7.9] * 20).diverges()
    assert of_losses([2.0] * 20 + [8.1] * 20).diverges()
    assert not of_losses([-2.0] * 20 + [-1.0] * 20).diverges()  # losses may be less than 0


def test_each_step_has_the_rate_it_is_told_and_parts_keep_their_factors(recipe, monkeypatch):
    seen = []

    def note(self, epoch, batch_idx, optimizer, closure=None):
        seen.append({g["lr_scale"]: g["lr"] for g in optimizer.param_groups})
        optimizer.step(closure=closure)

    monkeypatch.setattr(Recognition, "optimizer_step", note)
    found = swept(recipe)
    wanted = np.geomspace(1e-4, 0.1, 10)
    np.testing.assert_allclose(found.rates, wanted)
    assert all(set(rates) == {1.0, 0.1} for rates in seen)
    np.testing.assert_allclose([rates[1.0] for rates in seen], wanted)
    np.testing.assert_allclose([rates[0.1] for rates in seen], 0.1 * wanted)


def test_it_is_the_same_test_twice_and_leaves_no_file(recipe, tmp_path):
    first, again = swept(recipe), swept(recipe)
    assert first.losses == again.losses
    assert len(first.losses) == 10
    assert first.end == "all steps were done"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_accumulated_batches_are_one_step_with_their_mean_loss(recipe, monkeypatch):
    losses, step = [], Recognition.training_step

    def note(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        losses.append((len(batch.id), float(loss.detach())))
        return loss

    monkeypatch.setattr(Recognition, "training_step", note)
    found = swept(recipe, "trainer.accumulate_grad_batches=2")
    assert [clips for clips, _ in losses] == [4] * 20
    means = np.array([loss for _, loss in losses]).reshape(10, 2).mean(1)
    np.testing.assert_allclose(found.losses, means, rtol=1e-6)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 0.1, 10))


def test_a_loss_that_is_no_number_ends_the_test_well(recipe, monkeypatch):
    step = Recognition.training_step

    def fail(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.global_step == 4 else loss

    monkeypatch.setattr(Recognition, "training_step", fail)
    found = swept(recipe)
    assert len(found.losses) == len(found.rates) == 4
    assert np.isfinite(found.losses).all()
    assert found.end == "the loss is NaN or infinite at 0.0022"


def test_a_rate_far_too_high_diverges_and_ends_the_test(recipe):
    found = swept(recipe, steps=40, first=1e-3, last=1e4)
    assert len(found.losses) < 40
    assert found.end.startswith(("the loss has diverged at", "the loss is NaN or infinite at"))


def test_the_rate_to_write_is_that_for_the_batch_of_lr_for():
    for rule in ("linear", "sqrt"):
        settings = grammar.Optimizer(lr=9.0, lr_for=64, lr_rule=rule)
        written = as_written(3e-3, settings, batch=16)
        trained = scaled(grammar.Optimizer(lr=written, lr_for=64, lr_rule=rule), batch=16).lr
        assert trained == pytest.approx(3e-3)
    assert as_written(3e-3, grammar.Optimizer(lr=9.0, lr_for=None), batch=16) == 3e-3


def test_a_recipe_without_gradients_has_nothing_to_tune(recipe):
    task, *others = made(recipe)
    task.network.requires_grad_(False)
    with pytest.raises(RunError, match="trains nothing by gradients, so it has no rate to tune"):
        range_test(task, *others, steps=10, first=1e-4, last=1.0)
    with pytest.raises(RunError, match="so it has no step to tune"):
        largest_batch(task, *others, most=8)


# ------------------------------------------------------------------------------------ the batch


@pytest.mark.parametrize("most", [1, 5, 8, 20, 64, 1000])
@pytest.mark.parametrize("limit", [0, 1, 3, 7, 8, 15, 16, 100, 512, 519, 5000])
def test_largest_finds_what_trying_all_would(limit, most):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    found = largest(fits, most)
    powers = [min(8, most) >> n for n in range(4)]
    sizes = [*range(8, most + 1, 8)] if min(limit, most) >= 8 else powers
    assert found == max((size for size in sizes if size and size <= limit), default=0)
    assert max(tried) <= most
    assert len(tried) == len(set(tried)) <= 4 + 2 * math.log2(most)
    assert found in tried or found == 0


@pytest.fixture
def small_memory(monkeypatch):
    """A CPU that stands for a device on which a step of more than so many clips has no room."""
    step = Recognition.training_step
    limit = {"clips": 17, "error": torch.OutOfMemoryError, "seen": []}

    def take(self, batch, batch_idx):
        limit["seen"].append(len(batch.id))
        loss = step(self, batch, batch_idx)
        if len(batch.id) > limit["clips"]:
            raise limit["error"]("a bug or no room")
        return loss

    monkeypatch.setattr(Recognition, "training_step", take)
    monkeypatch.setattr(tuner, "NO_LIMIT", ())
    return limit


def test_the_largest_batch_is_found_with_real_batches_of_every_size(recipe, small_memory):
    task, data, plan, make = made(recipe, "data.dataset.train_scenes=4")
    assert len(data.datasets["train"]) >= 32
    said = []
    trials = largest_batch(task, data, plan, make, most=32, say=said.append)
    assert [(t.batch, t.fits) for t in trials] == [(8, True), (16, True), (32, False), (24, False)]
    assert said == [8, 16, 32, 24]
    assert small_memory["seen"] == [8] * 3 + [16] * 3 + [32, 24]
    assert [t.speed > 0 for t in trials] == [True, True, False, False]
    assert all(p.grad is None for p in task.parameters())


def test_it_is_the_part_of_an_accumulated_batch_that_has_to_fit(recipe, small_memory):
    small_memory["clips"] = 8
    overrides = ("trainer.accumulate_grad_batches=2", "trainer.ema=0.9")
    trials = largest_batch(*made(recipe, *overrides), most=32)
    assert [(t.batch, t.fits) for t in trials] == [(16, True), (32, False)]
    assert small_memory["seen"] == [8] * 6 + [16]


def test_a_device_that_holds_nothing_and_one_without_a_limit_are_said(recipe, small_memory):
    small_memory["clips"] = 0
    with pytest.raises(NoMemoryError, match=r"does not hold even a batch of 1; trainer\.precision"):
        largest_batch(*made(recipe), most=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "NO_LIMIT", ("cpu",))
        with pytest.raises(RunError, match="there is no limit to find on a CPU"):
            largest_batch(*made(recipe), most=2)


def test_nothing_of_a_trial_is_held_when_the_next_begins(recipe, small_memory, monkeypatch):
    small_memory["clips"] = 8
    held, alive = [], []
    step, free = Recognition.training_step, tuner.garbage_collection_cuda

    def hold(self, batch, batch_idx):
        held.append(weakref.ref(self.trainer))
        held.extend(weakref.ref(clip.x) for clip in batch.clips.values())
        return step(self, batch, batch_idx)

    def count():
        free()
        alive.append(sum(thing() is not None for thing in held))

    monkeypatch.setattr(Recognition, "training_step", hold)
    monkeypatch.setattr(tuner, "garbage_collection_cuda", count)
    trials = largest_batch(*made(recipe, "trainer.ema=0.9"), most=16)
    assert [t.fits for t in trials] == [True, False]
    assert len(held) == 8
    assert alive == [0, 0]


def test_one_clip_that_batch_norms_cannot_take_is_no_batch():
    with pytest.raises(ValueError, match="per channel") as caught:
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    assert tuner._is_limit(caught.value)
    assert not tuner._is_limit(ValueError("another"))


def test_an_error_that_is_no_lack_of_memory_is_not_swallowed(recipe, small_memory):
    small_memory["clips"], small_memory["error"] = 0, RuntimeError
    with pytest.raises(RuntimeError, match="a bug"):
        largest_batch(*made(recipe), most=2)
