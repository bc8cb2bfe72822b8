"""Trainings of a network with a batch norm on ready batches, stopped and resumed."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from makers import batch, chain, loader, system, trainer
from torch import nn

from actionkit import grammar
from actionkit.contracts import Aggregator, Features, Shape, pack, unpack
from actionkit.network import Network, freeze
from actionkit.tasks.recognition import Recognition
from actionkit.training.engine import callbacks
from actionkit.training.optimizer import scaled
from actionkit.training.saves import Last
from actionkit.training.signals import Signals

METRICS = [grammar.Node("evaluation.metrics.0", "x:1", "top1")]


class Normed(Aggregator):
    """Two batch norms over the real steps, a mask that is infinite, and drop-out."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.out = inp
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Conv2d(3, 3, 1)
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("infinite", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("indices", torch.arange(5))

    def forward(self, features: Features) -> Features:
        x = self.first(pack(features))
        return unpack(self.dropout(self.second(self.fc(x))), features)


class Data(lightning.LightningDataModule):
    """Ready batches to train, to validate and for statistics."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.batches = [batch(6, first=6 * i, steps=3, real=2) for i in range(count)]

    def train_dataloader(self) -> Any:
        return loader(self.batches)

    def val_dataloader(self) -> Any:
        return loader(self.batches[:1])

    def statistics_dataloader(self, batches: int, epoch: int) -> Any:
        found = loader([self.batches[(epoch + i) % len(self.batches)] for i in range(batches)])
        found.close = lambda: None
        return found


def plan(schedule: dict[str, Any] | None = None, **options: Any) -> grammar.Plan:
    """Settings as the recipe's reader makes them; options are those of the trainer."""
    stop = grammar.EarlyStopping(**options.pop("early_stopping", {}))
    optimizer = grammar.Optimizer(
        use="momentum", lr=0.1, schedule=grammar.Schedule(**(schedule or {}))
    )
    return grammar.Plan(
        data=None,  # type: ignore[arg-type]
        model=None,  # type: ignore[arg-type]
        loss={"scores": METRICS[0]},
        evaluation=grammar.Evaluation(metrics=METRICS),
        optimizer=optimizer,
        trainer=grammar.Trainer(early_stopping=stop, **options),
    )


def network(frozen: bool = False) -> Network:
    torch.manual_seed(0)
    part = Normed(Shape(None, 3, 1, 1))
    made = Network({"rgb": chain(Shape(None, 3, None, None), part)}, {"rgb": "rgb"})
    if frozen:
        freeze(made, part, [part.first])
    return made


def fit(
    folder: Any,
    settings: grammar.Plan,
    *more: lightning.Callback,
    epochs: int = 3,
    resume: Any = None,
    frozen: bool = False,
    count: int = 4,
    **options: Any,
) -> tuple[Recognition, lightning.Trainer]:
    """A training, which leaves `last.ckpt` in the folder."""
    made = system(network(frozen), optimizer=scaled(settings.optimizer, 6))
    task = Recognition(made)
    last = Last(folder / "last.ckpt", Signals(), every=1000)
    last.signals.listen = lambda: None  # type: ignore[method-assign]
    run = trainer(
        folder,
        callbacks=[*callbacks(settings, "top1"), *more, last],
        max_epochs=epochs,
        enable_checkpointing=True,
        **options,
    )
    run.fit(task, datamodule=Data(count), ckpt_path=resume, weights_only=True)
    return task, run


def weights(task: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
