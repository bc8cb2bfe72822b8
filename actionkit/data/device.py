"""The last stretch of the data path: transforms on the device, seeded clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from actionkit.contracts import Batch, Classes, Clip, Transform
from actionkit.data.seeds import generator
from actionkit.data.transforms.normalize import as_float

ON_DEVICE = 1  # draws in the worker and on the device must differ


def on_device(batch: Batch, transforms: Sequence[Transform], *, train: bool) -> Batch:
    """What the network takes: transformed, float, padded steps zero.

    Each sample's draws come from its own seed, so they depend on neither batch nor rank. Where
    transforms mix clips, targets must be shares of classes already: see `as_shares`.
    """
    clips, target = batch.clips, batch.target
    seeds = batch.seed.tolist()
    rngs = [generator(seed, ON_DEVICE) if train else None for seed in seeds]
    for transform in transforms:
        draws = [transform.draw(rng) for rng in rngs]
        clips = transform.apply(clips, draws)
        if transform.mixes:
            target = _each(target, lambda shares: transform.mix(shares, draws))  # noqa: B023
    ready = {modality: _clear_padding(as_float(clip)) for modality, clip in clips.items()}
    return batch._replace(clips=ready, target=target)


def as_shares(batch: Batch, classes: Classes) -> Batch:
    """The batch with class numbers [B] int64 as shares of classes [B, K] float32; -1 becomes NaN.

    Targets that are shares already stay as they are.
    """
    if isinstance(classes, Mapping) and isinstance(batch.target, Mapping):
        shares = {h: _shares(t, len(classes[h])) for h, t in batch.target.items()}
        return batch._replace(target=shares)
    return batch._replace(target=_each(batch.target, lambda target: _shares(target, len(classes))))


def _each(
    target: Tensor | dict[str, Tensor], change: Callable[[Tensor], Tensor]
) -> Tensor | dict[str, Tensor]:
    """The targets, of every head where there are several, changed."""
    if isinstance(target, Mapping):
        return {head: change(one) for head, one in target.items()}
    return change(target)


def _shares(target: Tensor, classes: int) -> Tensor:
    if target.is_floating_point():
        return target
    shares = functional.one_hot(target.clamp(min=0), classes).float()
    return shares.masked_fill((target < 0)[:, None], torch.nan)


def _clear_padding(clip: Clip) -> Clip:
    if bool(clip.mask.all()):
        return clip
    return clip._replace(x=clip.x.masked_fill(~clip.mask[..., None, None, None], 0))
