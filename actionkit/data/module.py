"""The data module: datasets, what is done to their clips, and the loaders."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from actionkit.contracts import Dataset, Reader, Sample, Sampler, Transform
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.order import InTurn, Order

MAX_WORKERS = 8


class Loader(DataLoader[Sample]):
    """Starts when its first batch is wanted.

    Lightning makes the iterator of a resumed run before it sets the epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


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

    def prepare_data(self) -> None:
        """Lets every dataset make its files, once on each machine."""
        for dataset in self.datasets.values():
            dataset.prepare()

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of the training split, each epoch in another order."""
        stage, dataset = self.train_stage, self.datasets["train"]
        clips = Clips(dataset, self.reader, stage.sampler, stage.per_sample, train=True)
        rank, world = self._place()
        own = max(1, self.batch // world // self._accumulate())
        return self._loader(clips, Order(len(clips), own, seed=self.seed, rank=rank, world=world))

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of the validation split, every video once."""
        return self.eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, every video once."""
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> DataLoader[Sample]:
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

    def _loader(self, clips: Clips, batches: Order | InTurn) -> DataLoader[Sample]:
        return Loader(
            clips,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            worker_init_fn=_start_worker,
        )


def cpus() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(_: int) -> None:
    """One thread a worker; a signal to the process group is the main process's to answer."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
