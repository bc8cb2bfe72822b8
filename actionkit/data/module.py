"""The data module: datasets, what is done to their clips, and the loaders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import lightning.pytorch as lightning

from actionkit.contracts import Dataset, Reader, Sampler, Transform
from actionkit.data.clips import Clips
from actionkit.data.loader import Loader
from actionkit.data.order import InTurn, Order

MAX_WORKERS = 8


@dataclass
class Stage:
    """From a video to what the network takes, in training or in evaluation."""

    sampler: Sampler
    per_sample: list[Transform] = field(default_factory=list)
    per_batch: list[Transform] = field(default_factory=list)


class DataModule(lightning.LightningDataModule):
    """Loaders over the datasets of the splits `train`, `val` and `test`.

    `batch` counts clips per optimizer step over all devices. The order of training clips and all
    their random draws are functions of `seed`, whatever the number of workers.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        reader: Reader,
        train: Stage,
        eval: Stage,
        *,
        batch: int,
        workers: int | str = "auto",
        views_per_item: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.datasets, self.reader = datasets, reader
        self.train_stage, self.eval_stage = train, eval
        self.batch, self.views_per_item, self.seed = batch, views_per_item, seed
        self.workers = min(MAX_WORKERS, cpus()) if workers == "auto" else int(workers)
        self._loaders: list[Loader] = []

    def prepare_data(self) -> None:
        """Lets every dataset make its files, once on each machine."""
        for dataset in self.datasets.values():
            dataset.prepare()

    def train_dataloader(self) -> Loader:
        """Batches of the training split, each epoch in another order."""
        stage, dataset = self.train_stage, self.datasets["train"]
        clips = Clips(dataset, self.reader, stage.sampler, stage.per_sample, train=True)
        rank, world = self._place()
        own = max(1, self.batch // world // self._accumulate())
        return self._loader(clips, Order(len(clips), own, seed=self.seed, rank=rank, world=world))

    def val_dataloader(self) -> Loader:
        """Batches of the validation split, every video once."""
        return self.eval_dataloader("val")

    def test_dataloader(self) -> Loader:
        """Batches of the test split, every video once."""
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> Loader:
        """Batches of one split as evaluation sees it: same frames every time, nothing repeated."""
        stage, views, limit = self.eval_stage, self.eval_stage.sampler.views, self.views_per_item
        parts = 1 if views is None else -(-views // limit)
        clips = Clips(
            self.datasets[split],
            self.reader,
            stage.sampler,
            stage.per_sample,
            train=False,
            views_per_item=limit if parts > 1 else None,
        )
        rank, world = self._place()
        own = max(1, self.batch // world // min(views or 1, limit))
        return self._loader(clips, InTurn(len(clips), own, parts=parts, rank=rank, world=world))

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def _accumulate(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def _loader(self, clips: Clips, batches: Order | InTurn) -> Loader:
        loader = Loader(clips, batches, self.workers)
        self._loaders.append(loader)
        return loader

    def close(self) -> None:
        """Ends the workers of all loaders; they start again when a loader is asked."""
        for loader in self._loaders:
            loader.close()


def cpus() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
