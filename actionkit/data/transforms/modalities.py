"""What makers of modalities ask of names and steps, and what lies between two frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape


def require_free(shapes: Mapping[str, Shape], names: Iterable[str]) -> None:
    """Raises ValueError for a name to be added that is taken."""
    for name in names:
        if name in shapes:
            raise ValueError(f"adds {name!r}, which is there already; give it another name")


def snippets(steps: int | None, size: int, says: str) -> int | None:
    """How many snippets of `size` steps there are, None = varies; `says` is what the size is.

    Raises ValueError where they are not whole.
    """
    if steps is not None and steps % size:
        raise ValueError(
            f"takes snippets of {size} frames ({says}), but gets {steps} steps; set the sampler's "
            f"length to {size}"
        )
    return None if steps is None else steps // size


def between(clip: Clip, size: int) -> tuple[Tensor, Tensor]:
    """Mask and times [B, V, K, size - 1] of what lies between neighbours in snippets of `size`.

    It is real if both its frames are, and has the time of the first.
    """
    mask, times = (t.unflatten(2, (-1, size)) for t in (clip.mask, clip.times))
    real = mask[..., :-1] & mask[..., 1:]
    return real, times[..., :-1].masked_fill(~real, torch.nan)
