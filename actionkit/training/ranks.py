"""Several processes that train together: how they meet, and agree before the training starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

PATIENCE = timedelta(days=7)  # of the ranks that wait for rank 0
T = TypeVar("T")


def join() -> None:
    """Brings together the processes that torchrun has started, which Lightning would do later."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not distributed.is_initialized():
        both = "cpu:gloo,cuda:nccl"
        distributed.init_process_group(both if torch.cuda.is_available() else "gloo")


def of_rank_zero(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0; the other ranks wait for it, as long as it takes.

    Where the processes have not met yet, each has its own.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return make()
    group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
    found: list[Any] = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(found, src=0, group=group)
    distributed.destroy_process_group(group)
    return found[0]
