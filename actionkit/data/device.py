"""The last stretch of the data path: transforms on the device, seeded clip by clip."""

from __future__ import annotations

from collections.abc import Sequence

from actionkit.contracts import Batch, Clip, Transform
from actionkit.data.seeds import generator
from actionkit.data.transforms.normalize import as_float

ON_DEVICE = 1  # draws in the worker and on the device must differ


def on_device(batch: Batch, transforms: Sequence[Transform], *, train: bool) -> dict[str, Clip]:
    """What the network takes: transformed, float, padded steps zero.

    Each sample's draws come from its own seed, so they depend on neither batch nor rank.
    """
    clips = batch.clips
    seeds = batch.seed.tolist()
    rngs = [generator(seed, ON_DEVICE) if train else None for seed in seeds]
    for transform in transforms:
        clips = transform.apply(clips, [transform.draw(rng) for rng in rngs])
    return {modality: _clear_padding(as_float(clip)) for modality, clip in clips.items()}


def _clear_padding(clip: Clip) -> Clip:
    if bool(clip.mask.all()):
        return clip
    return clip._replace(x=clip.x.masked_fill(~clip.mask[..., None, None, None], 0))
