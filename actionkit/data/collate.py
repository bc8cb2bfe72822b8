"""Samples to a batch: lengths padded to the longest, memory kept channels-last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from actionkit.contracts import Batch, Clip, Sample, Target


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of the samples that have clips; what was unreadable is in `Batch.bad`."""
    readable = [s for s in samples if s.clips]
    modalities = readable[0].clips if readable else {}
    none = torch.empty(0, 0, 0, 4)
    boxes = [none if s.boxes is None else s.boxes for s in readable]
    return Batch(
        clips={m: _clip([s.clips[m] for s in readable]) for m in modalities},
        target=_target([s.target for s in readable]),
        boxes=_stack(boxes, float("nan"), axes=3) if any(map(len, boxes)) else None,
        id=[s.id for s in readable],
        index=torch.tensor([s.index for s in readable], dtype=torch.int64),
        seed=torch.tensor([s.seed for s in readable], dtype=torch.int64),
        bad=tuple(bad for s in samples for bad in s.bad),
    )


def _clip(clips: list[Clip]) -> Clip:
    last = [c.x.permute(0, 1, 3, 4, 2) for c in clips]  # [V, T, H, W, C], as decoders write it
    return Clip(
        _stack(last, 0).permute(0, 1, 2, 5, 3, 4),
        _stack([c.mask for c in clips], False),
        _stack([c.times for c in clips], float("nan")),
        clips[0].kind,
    )


def _stack(tensors: list[Tensor], fill: float, axes: int = 2) -> Tensor:
    """[...] to [B, ...], the first axes (views, steps, boxes) padded at their end."""
    longest = [max(tensor.shape[axis] for tensor in tensors) for axis in range(axes)]
    padded = []
    for tensor in tensors:
        if list(tensor.shape[:axes]) != longest:
            full = tensor.new_full((*longest, *tensor.shape[axes:]), fill)
            full[tuple(map(slice, tensor.shape[:axes]))] = tensor
            tensor = full
        padded.append(tensor)
    return default_collate(padded)  # in a worker, straight into shared memory


def _target(targets: list[Target]) -> Tensor | dict[str, Tensor]:
    if targets and isinstance(targets[0], dict):
        return {head: _column([t[head] for t in targets]) for head in targets[0]}  # type: ignore[index]
    return _column(targets)  # type: ignore[arg-type]


def _column(values: list[int | np.ndarray]) -> Tensor:
    """[B] int64 class numbers, or [B, K] float32."""
    if values and isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values).astype(np.float32))
    return torch.tensor(values, dtype=torch.int64)
