"""Which items come when: a permutation of every epoch that is a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
    is left out unless it is the only one, so that every step has the same weight.

    Raises RunError for fewer items than ranks.
    """

    def __init__(self, items: int, batch: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        if items < world:
            raise RunError(
                f"{items} clips to train are too few for {world} devices; set trainer.devices to "
                f"{max(1, items)} or less"
            )
        self.items, self.batch, self.seed = items, batch, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    @property
    def sampler(self) -> Order:
        """Itself: Lightning looks for `set_epoch` at `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self.items // self.world // self.batch)

    def __iter__(self) -> Iterator[list[Ask]]:
        epoch = self.epoch
        order = generator(self.seed, epoch).permutation(self.items).tolist()
        own = order[self.rank : self.items // self.world * self.world : self.world]
        for start in range(0, len(self) * self.batch, self.batch):
            chosen = own[start : start + self.batch]
            # the third number counts how often the item has come in this epoch
            yield [Ask(index, mix(self.seed, epoch, index, 0)) for index in chosen]


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
