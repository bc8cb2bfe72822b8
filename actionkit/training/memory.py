"""A device that has too little memory: what was asked of it, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from actionkit import grammar
from actionkit.contracts import Shape
from actionkit.errors import RunError


class NoMemoryError(RunError):
    """The memory of a device does not suffice."""

    exit_code = 3


@contextmanager
def explained(plan: grammar.Plan, shapes: Mapping[str, Shape], clips: int) -> Iterator[None]:
    """Turns a lack of memory into NoMemoryError; `clips` are those of a device in one go."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        used = f", of which this run took {peak / 1e9:.1f} GB at its peak" if peak else ""
        sizes = ", ".join(f"{m} {_written(shape)}" for m, shape in shapes.items())
        first = str(error).split(". ")[0]
        raise NoMemoryError(
            f"the device has too little memory{used}: {first}. In one go it has {clips} clips of "
            f"{sizes} in {plan.trainer.precision} precision. Try, in this order: "
            f"trainer.precision=bf16-mixed; trainer.accumulate_grad_batches="
            f"{2 * plan.trainer.accumulate_grad_batches}, with which the same batch comes in "
            "smaller parts; grad_checkpointing: true at the backbone; a smaller data.batch; fewer "
            "or smaller frames"
        ) from error


def _written(shape: Shape) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
