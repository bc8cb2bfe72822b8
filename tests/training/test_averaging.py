import lightning.pytorch as lightning
import pytest
import torch
from small_fits import fit, plan, same, weights

DECAY = 0.8


class Steps(lightning.Callback):
    """The raw weights behind every step of the optimizer, and those that are evaluated."""

    def __init__(self):
        self.raw, self.evaluated = {}, []

    def on_train_batch_end(self, trainer, task, *_):
        self.raw.setdefault(trainer.global_step, weights(task))  # not those of half a step

    def on_validation_batch_start(self, trainer, task, *_):
        self.evaluated.append(weights(task))


def expected(steps):
    """The average, and each buffer that is no statistic as it is now."""
    first, *others = steps
    found = dict(first)
    for step in others:
        for name, value in step.items():
            averaged = value.is_floating_point() and "infinite" not in name
            found[name] = DECAY * found[name] + (1 - DECAY) * value if averaged else value
    return found


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_of_every_step_is_evaluated_and_saved(tmp_path, accumulate):
    steps = Steps()
    task, _ = fit(tmp_path, plan(ema=DECAY), steps, accumulate_grad_batches=accumulate)
    assert list(steps.raw) == list(range(0 if accumulate > 1 else 1, 12 // accumulate + 1))
    steps.raw.pop(0, None)  # before the first step
    wanted = expected(list(steps.raw.values()))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for found in (saved["state_dict"], weights(task), steps.evaluated[-1]):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, msg=name)
    assert not same(saved["current_model_state"], saved["state_dict"])
    assert same(saved["current_model_state"], list(steps.raw.values())[-1])


def test_training_is_that_without_an_average(tmp_path):
    plain, averaged = Steps(), Steps()
    fit(tmp_path, plan(), plain)
    fit(tmp_path, plan(ema=DECAY), averaged)
    assert all(same(plain.raw[step], averaged.raw[step]) for step in plain.raw)


def test_what_is_frozen_stays_to_the_bit(tmp_path):
    start, _ = fit(tmp_path, plan(), epochs=0, frozen=True)
    task, _ = fit(tmp_path, plan(ema=0.999), frozen=True)
    for name, value in weights(start).items():
        if ".first." in name or "infinite" in name or "indices" in name:
            assert torch.equal(task.state_dict()[name], value), name


def test_a_checkpoint_evaluated_behind_the_training_is_that_checkpoint(tmp_path):
    """Lightning's own would evaluate the average of the whole training instead."""
    steps = Steps()
    task, run = fit(tmp_path, plan(ema=DECAY), steps)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["state_dict"] = {k: torch.zeros_like(v) for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "zero.ckpt")
    run.validate(
        task, datamodule=run.datamodule, ckpt_path=tmp_path / "zero.ckpt", weights_only=True
    )
    assert same(steps.evaluated[-1], content["state_dict"])
    assert same(weights(task), content["state_dict"])
