"""The data module: datasets, what is done to their clips, and the loaders."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning.pytorch as lightning

from actionkit.contracts import Dataset, Record, Sampler, Transform, VideoReadError
from actionkit.data.balance import balanced
from actionkit.data.clips import Clips
from actionkit.data.loader import Loader
from actionkit.data.order import InTurn, Order
from actionkit.data.preflight import THREADS
from actionkit.data.seeds import mix
from actionkit.data.sources import Sources

MAX_WORKERS = 8
STATISTICS = 2  # their draws and those of training must differ


@dataclass
class Stage:
    """From a video to what the network takes, in training or in evaluation."""

    sampler: Sampler
    per_sample: list[Transform] = field(default_factory=list)
    per_batch: list[Transform] = field(default_factory=list)


class DataModule(lightning.LightningDataModule):
    """Loaders over the datasets of the splits `train`, `val` and `test`.

    `batch` counts clips per optimizer step over all devices. The order of training clips and all
    their random draws are functions of `seed`, whatever the number of workers. With `balance` more
    than 0 clips of rare classes come more often, see `balanced`.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        sources: Sources,
        train: Stage,
        eval: Stage,
        *,
        batch: int,
        workers: int | str = "auto",
        views_per_item: int = 10,
        balance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.datasets, self.sources = dict(datasets), sources
        self.train_stage, self.eval_stage = train, eval
        self.batch, self.views_per_item, self.seed = batch, views_per_item, seed
        self.balance = balance
        self.workers = min(MAX_WORKERS, cpus()) if workers == "auto" else int(workers)
        self._loaders: list[Loader] = []

    def prepare_data(self) -> None:
        """Lets every dataset make its files, once on each machine."""
        for dataset in self.datasets.values():
            dataset.prepare()

    def train_dataloader(self) -> Loader:
        """Batches of the training split, each epoch in another order."""
        dataset = self.datasets["train"]
        weights = balanced(dataset, self.balance) if self.balance else None
        # by a weak reference: in a circle its workers would be waited for when garbage is collected
        done = partial(_batches_done, weakref.ref(self))
        return self._training(self.seed, done=done, weights=weights)

    def statistics_dataloader(self, batches: int, epoch: int) -> Loader:
        """So many batches of the training split, others than training has, each of so many clips.

        For what is to be measured while training stands still; to be closed behind it.
        """
        loader = self._training(mix(self.seed, STATISTICS), most=batches * self._accumulate())
        self._loaders.remove(loader)
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        return loader

    def _training(self, seed: int, **options: Any) -> Loader:
        stage = self.train_stage
        clips = Clips(
            self.datasets["train"], self.sources, stage.sampler, stage.per_sample, train=True
        )
        rank, world = self._place()
        own = max(1, self.batch // world // self._accumulate())
        return self._loader(
            clips, Order(len(clips), own, seed=seed, rank=rank, world=world, **options)
        )

    def val_dataloader(self) -> Loader:
        """Batches of the validation split, every video once."""
        return self.eval_dataloader("val")

    def test_dataloader(self) -> Loader:
        """Batches of the test split, every video once."""
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> Loader:
        """Batches of one split as evaluation sees it: same frames every time, nothing repeated."""
        stage, dataset, limit = self.eval_stage, self.datasets[split], self.views_per_item
        clips = Clips(
            dataset,
            self.sources,
            stage.sampler,
            stage.per_sample,
            train=False,
            views_per_item=limit,
        )
        rank, world = self._place()
        views = min(stage.sampler.views or limit, limit)
        copies = math.prod(transform.copies for transform in stage.per_batch)
        own = max(1, self.batch // world // self._accumulate() // views // copies)
        return self._loader(clips, InTurn(self._parts(dataset), own, rank=rank, world=world))

    def _parts(self, dataset: Dataset) -> list[int]:
        """In how many items each video comes, so that none holds more than `views_per_item`."""
        views, limit = self.eval_stage.sampler.views, self.views_per_item
        if views is not None:
            return [-(-views // limit)] * len(dataset)
        with ThreadPoolExecutor(THREADS) as pool:
            counts = list(pool.map(self._views, (dataset[i] for i in range(len(dataset)))))
        return [-(-count // limit) for count in counts]

    def _views(self, record: Record) -> int:
        """How many views the sampler makes of a video."""
        try:
            return len(self.eval_stage.sampler(*self.sources.timeline(record), None))
        except VideoReadError:
            return 1  # which will fail again, and be told, when it is read

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
        while self._loaders:
            self._loaders.pop().close()


def _batches_done(module: weakref.ref[DataModule]) -> int:
    """Of the epoch: more than 0 at the start of a run that goes on in the middle of one."""
    alive = module()
    trainer = alive and alive.trainer
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer else 0


def cpus() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
