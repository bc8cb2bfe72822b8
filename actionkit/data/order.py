"""Which items come when: a permutation of every epoch that is a function of seed and epoch."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from actionkit.data.seeds import generator, mix
from actionkit.errors import RunError


class Ask(NamedTuple):
    """What the loader asks of Clips: item, seed of its draws, and which part of its views."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    seed: int
    part: int = 0


class Order(torch.utils.data.Sampler[list[Ask]]):
    """Batches of one rank, in training.

    The permutation is f(seed, epoch); rank r takes every world-th item of it. A last, smaller batch
    is left out unless it is the only one, so that every step has the same weight. `done` tells how
    many batches of the epoch a resumed run has behind it; it is asked when the first is wanted.
    With `weights`, one an item, as many items are drawn with replacement instead, each time with
    other draws of its own. `most` bounds the batches of an epoch.

    Raises RunError for fewer items than ranks.
    """

    def __init__(
        self,
        items: int,
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        done: Callable[[], int] = lambda: 0,
        weights: Sequence[float] | None = None,
        most: int | None = None,
    ) -> None:
        if items < world:
            raise RunError(
                f"{items} clips to train are too few for {world} devices; set trainer.devices to "
                f"{max(1, items)} or less"
            )
        self.items, self.batch, self.seed = items, batch, seed
        self.rank, self.world, self.done = rank, world, done
        self.weights = None if weights is None else np.asarray(weights) / np.sum(weights)
        self.most = most
        self.epoch = 0

    @property
    def sampler(self) -> Order:
        """Itself: Lightning looks for `set_epoch` at `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches = max(1, self.items // self.world // self.batch)
        return batches if self.most is None else min(batches, self.most)

    def __iter__(self) -> Iterator[list[Ask]]:
        epoch, order = self.epoch, self._order()
        own = order[self.rank : self.items // self.world * self.world : self.world]
        for start in range(self.done() * self.batch, len(self) * self.batch, self.batch):
            chosen = own[start : start + self.batch]
            yield [Ask(index, mix(self.seed, epoch, index, draw)) for index, draw in chosen]

    def _order(self) -> list[tuple[int, int]]:
        """The epoch of all ranks: each item, and how often it has come in this epoch before."""
        rng = generator(self.seed, self.epoch)
        if self.weights is None:
            return [(index, 0) for index in rng.permutation(self.items).tolist()]
        came: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
        drawn = rng.choice(self.items, self.items, p=self.weights).tolist()
        return [(index, next(came[index])) for index in drawn]


class InTurn(torch.utils.data.Sampler[list[Ask]]):
    """Batches of one rank, in evaluation: item i once, in parts[i] parts, nothing repeated."""

    def __init__(self, parts: Sequence[int], batch: int, *, rank: int = 0, world: int = 1) -> None:
        asks = [Ask(index, 0, part) for index, count in enumerate(parts) for part in range(count)]
        own = asks[rank::world]
        self.batches = [own[start : start + batch] for start in range(0, len(own), batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Ask]]:
        return iter(self.batches)
