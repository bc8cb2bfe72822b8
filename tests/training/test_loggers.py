import csv

import lightning.pytorch as lightning
import torch
from makers import trainer

from actionkit.training.loggers import CSV


class Counts(lightning.LightningModule):
    """Logs the number of its step."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.log("train/loss", float(self.global_step))
        return self.layer(torch.full((1,), float(batch))).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_numbers_stand_in_metrics_csv_in_the_run_folder(tmp_path):
    run = trainer(tmp_path, max_epochs=1, log_every_n_steps=2, logger=CSV(tmp_path))
    run.fit(Counts(), torch.utils.data.DataLoader(range(6), batch_size=None))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    found = rows(tmp_path / "metrics.csv")
    assert [(int(r["step"]), float(r["train/loss"])) for r in found] == [(1, 1), (3, 3), (5, 5)]


def test_a_run_that_goes_on_keeps_its_lines_up_to_there(tmp_path):
    first = CSV(tmp_path)
    for step in (1, 3, 5):
        first.log_metrics({"train/loss": step / 2}, step=step)
    first.log_metrics({"val/top1": 0.5}, step=3)
    again = CSV(tmp_path)
    again.rewind(4)
    again.log_metrics({"train/loss": 9.0, "new": 1.0}, step=4)
    again.save()
    found = rows(tmp_path / "metrics.csv")
    assert [(row["step"], row["train/loss"]) for row in found] == [
        ("1", "0.5"), ("3", "1.5"), ("3", ""), ("4", "9.0"),
    ]  # fmt: skip
    assert [row["new"] for row in found] == ["", "", "", "1.0"]


def test_there_may_be_nothing_to_go_back_in(tmp_path):
    CSV(tmp_path).rewind(4)
    assert list(tmp_path.iterdir()) == []


def test_written_every_so_many_lines(tmp_path):
    logger = CSV(tmp_path, flush_every=2)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.save()
    logger.log_metrics({"train/loss": 2.0, "val/top1": 0.5}, step=2)
    logger.finalize("success")
    found = rows(tmp_path / "metrics.csv")
    assert [row["train/loss"] for row in found] == ["1.0", "2.0"]
    assert [row["val/top1"] for row in found] == ["", "0.5"]
