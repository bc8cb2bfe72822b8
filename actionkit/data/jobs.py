"""Work on many files by several processes, the results in the files' own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Mapped

from actionkit.data.loader import start_worker

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Jobs(Mapped[Any], Generic[Item, Result]):
    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.work, self.items = work, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Result:
        return self.work(self.items[index])


def in_turn(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """`work(item)` of every item, in their order, done by so many processes (0: by this one).

    `work` must pickle, as must its results, which should be small. What it raises is raised here.
    """
    loader = DataLoader(
        _Jobs(work, items),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=start_worker,
        collate_fn=_as_it_is,
    )
    yield from loader


def _as_it_is(result: Any) -> Any:
    return result
