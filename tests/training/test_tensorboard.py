import pytest
import torch
from makers import trainer
from test_loggers import Counts

from actionkit.training.tensorboard import TensorBoard

events = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
)


def curves(folder):
    read = events.EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {n: [(e.step, e.value) for e in read.Scalars(n)] for n in read.Tags()["scalars"]}


def test_numbers_are_read_from_the_run_folder(tmp_path):
    logger = TensorBoard(tmp_path)
    run = trainer(tmp_path, max_epochs=1, log_every_n_steps=2, logger=logger)
    run.fit(Counts(), torch.utils.data.DataLoader(range(6), batch_size=None))
    assert curves(tmp_path)["train/loss"] == [(1, 1), (3, 3), (5, 5)]
    files = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert len(files) == 1
    assert files[0].startswith("events.out.tfevents")


def test_a_run_that_goes_on_keeps_its_numbers_up_to_there(tmp_path):
    first = TensorBoard(tmp_path)
    for step in (1, 3, 5):
        first.log_metrics({"train/loss": step / 2}, step=step)
    first.finalize("failed")
    again = TensorBoard(tmp_path)
    again.rewind(4)
    again.log_metrics({"train/loss": 9.0}, step=4)
    again.finalize("success")
    again.log_metrics({"train/loss": 7.0}, step=5)  # as the evaluation behind a training does
    again.finalize("success")
    assert curves(tmp_path)["train/loss"] == [(1, 0.5), (3, 1.5), (4, 9.0), (5, 7.0)]


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{name}", False)
    with pytest.raises(ValueError, match=r"pip install 'actionkit\[tensorboard\]'"):
        TensorBoard(tmp_path)
