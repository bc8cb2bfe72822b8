"""Differences of neighbouring frames."""

from __future__ import annotations

from typing import Any, Literal

import torch

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.fields import find
from actionkit.data.transforms.modalities import between, require_free, snippets
from actionkit.data.transforms.normalize import as_float


class RGBDiff(Transform):
    """Adds the modality `name`: differences of neighbouring frames, as TSN (arXiv:1608.00859).

    The steps of `source` [B, V, K * (length + 1), C, H, W] are K snippets of length + 1 successive
    frames, as the sampler `segments` gives them; each has `length` differences, the later frame
    less the earlier. With `stack` they are laid into the channels of one step, first difference
    first, [B, V, K, length * C, H, W] float32, the input of TSN's temporal network (5 differences
    of 3 channels); else they stay steps, [B, V, K * length, C, H, W]. Of the source is kept the
    `first` frame of each snippet, or `all`.

    It belongs behind `normalize`, whose mean then falls out and whose deviation stays: what comes
    out has about zero mean. Before it, normalize would take a difference for a colour. Of uint8 it
    takes the differences of 0 to 1. The kind stays the source's: a mirrored difference keeps its
    sign. A difference is real if both its frames are, a stack if all its differences are; it has
    the time of its first frame.
    """

    runs_on = "batch"

    def __init__(
        self,
        *,
        length: int = 5,
        stack: bool = True,
        keep: Literal["first", "all"] = "first",
        source: str = "rgb",
        name: str = "rgb_diff",
    ) -> None:
        if length < 1:
            raise ValueError(f"takes a length of at least 1, but gets {length}")
        self.length, self.stack = length, stack
        self.kept = {"first": 1, "all": length + 1}[keep]  # of each snippet
        self.source, self.name = source, name

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Adds the differences and leaves the kept steps of their source.

        Raises ValueError if the source is not there, its steps are no whole snippets, or the name
        of the differences is taken.
        """
        inp = find(shapes, self.source)
        require_free(shapes, [self.name])
        count = snippets(inp.steps, self.length + 1, "length + 1")
        kept, diff = inp, inp
        if count is not None:
            kept = inp._replace(steps=count * self.kept)
            diff = inp._replace(steps=count if self.stack else count * self.length)
        if self.stack and inp.channels is not None:
            diff = diff._replace(channels=self.length * inp.channels)
        return {**shapes, self.source: kept, self.name: diff}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Computes all differences; nothing is random."""
        source = clips[self.source]
        size = self.length + 1
        frames = as_float(source).x.unflatten(2, (-1, size))  # [B, V, K, size, C, H, W]
        x = frames[:, :, :, 1:] - frames[:, :, :, :-1]
        real, times = between(source, size)
        if self.stack:
            whole = real.all(-1)
            times = times[..., 0].masked_fill(~whole, torch.nan)
            diff = Clip(x.flatten(3, 4), whole, times, source.kind)
        else:
            diff = Clip(x.flatten(2, 3), real.flatten(2), times.flatten(2), source.kind)
        x, mask, times = (
            t.unflatten(2, (-1, size))[:, :, :, : self.kept].flatten(2, 3) for t in source[:3]
        )
        return {**clips, self.source: Clip(x, mask, times, source.kind), self.name: diff}
