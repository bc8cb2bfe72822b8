import lightning.pytorch as lightning
import pytest
import torch
from small_fits import fit, plan


def ends(folder, *values, name="top1", resume=None, **options):
    """How many epochs there were, of one step each."""
    metric = {"metric": name} if name != "top1" else {}
    settings = plan(early_stopping={**metric, **options})
    _, run = fit(
        folder, settings, Told(f"val/{name}", values), epochs=len(values), count=1, resume=resume
    )
    return run.global_step


class Told(lightning.Callback):
    """Puts values in the place of a metric."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_validation_start(self, trainer, task):
        def log(name, value, *rest, **options):
            if name == self.name:
                value = self.values[trainer.current_epoch]
            type(task).log(task, name, torch.tensor(float(value)), *rest, **options)

        task.log = log

    def on_validation_end(self, trainer, task):
        vars(task).pop("log", None)


def test_ends_behind_so_many_validations_without_a_gain(tmp_path):
    assert ends(tmp_path, 0.1, 0.3, 0.2, 0.3, 0.9, patience=2) == 4
    assert ends(tmp_path, 0.1, 0.3, 0.2, 0.3, 0.9, patience=3) == 5
    assert ends(tmp_path, 0.1, 0.2, 0.1, 0.1, 0.1, patience=None) == 5


def test_a_small_gain_is_none(tmp_path):
    assert ends(tmp_path, 0.1, 0.15, 0.19, 0.5, patience=2, min_delta=0.1) == 3


def test_less_is_more_of_a_loss(tmp_path):
    assert ends(tmp_path, 3.0, 2.0, 1.0, 0.5, name="loss", patience=1) == 4
    assert ends(tmp_path, 1.0, 2.0, 3.0, 0.5, name="loss", patience=1) == 2


@pytest.mark.parametrize(("patience", "epochs"), [(2, 4), (3, 6)])
def test_an_ended_run_stays_ended_unless_it_may_go_on_longer(tmp_path, patience, epochs):
    values = (0.1, 0.3, 0.2, 0.3, 0.9, 0.9)
    assert ends(tmp_path, *values, patience=2) == 4
    again = ends(tmp_path, *values, patience=patience, resume=tmp_path / "last.ckpt")
    assert again == epochs
