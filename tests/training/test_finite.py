"""A loss that is no number ends a run."""

from types import SimpleNamespace

import pytest
import torch
from makers import batch, loader, system, trainer

from actionkit.errors import RunError
from actionkit.tasks.recognition import Recognition
from actionkit.training.finite import FiniteLoss
from actionkit.training.saves import Best, Last, finite
from actionkit.training.signals import Signals


class Breaks(Recognition):
    """Its loss is NaN in some steps."""

    bad = ()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.global_step in self.bad else loss


def fit(folder, bad, steps=8, kind=Breaks):
    task = kind(system())
    task.bad = bad
    saves = [
        Best(folder / "best.ckpt", "val/top1"),
        Last(folder / "last.ckpt", Signals(), every=1),
    ]
    made = trainer(
        folder, max_epochs=2, callbacks=[FiniteLoss(), *saves], enable_checkpointing=True
    )
    made.fit(task, loader([batch(2, 2 * i) for i in range(steps)]), loader([batch(4)]))


def test_three_in_a_row_end_the_run_and_name_the_batch(tmp_path):
    with pytest.raises(RunError) as caught:
        fit(tmp_path, bad=range(3, 20))
    said = str(caught.value)
    assert "NaN or infinite since step 4 (learning rate" in said
    assert "The batch of that step: v6, v7." in said
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 3  # the last one of finite weights
    assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_weights_that_are_no_numbers_are_neither_saved_nor_measured(tmp_path, capsys):
    with pytest.raises(RunError, match=r"since step 7 .*, 2 times in a row"):
        fit(tmp_path, bad=[6, 7])  # the last steps of the first epoch
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 6
    assert not (tmp_path / "best.ckpt").exists()
    assert "last.ckpt is not written: weights are NaN or infinite" in capsys.readouterr().out


def test_one_bad_loss_that_spoils_no_weight_does_not_end_a_run(tmp_path):
    class Skipped(Breaks):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure=None):
            closure()
            if self.global_step not in self.bad:
                optimizer.step()

    fit(tmp_path, bad=[2], kind=Skipped)


@pytest.mark.parametrize("others", [True, False])
def test_ranks_save_together_or_not_at_all(tmp_path, capsys, others):
    """Where each holds a share of the weights, one that saves alone would wait for ever."""
    asked = []

    def agree(own, all):
        asked.append((own, all))
        return own and others

    ranks = SimpleNamespace(
        strategy=SimpleNamespace(reduce_boolean_decision=agree),
        lightning_module=torch.nn.Linear(2, 2),
        print=print,
    )
    assert finite(ranks, tmp_path / "last.ckpt") is others
    assert asked == [(True, True)]
    assert ("last.ckpt is not written" in capsys.readouterr().out) is not others
