"""Stacking of flow fields into channels, the input of a temporal network."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.fields import find, sample
from actionkit.data.transforms.kinds import dequantize_flow


class FlowStack(Transform):
    """Stacks `length` successive flow fields into channels, the input of a temporal network.

    [B, V, K * length, 2, H, W] -> [B, V, K, 2 * length, H, W], channels dx_1, dy_1, dx_2, dy_2, ...
    (Two-stream networks, arXiv:1406.2199). A stack is real if all its fields are, and has the time
    of the first. Which fields a stack has is said where the flow is made: by `direction`, and
    `keep` tells where its frame lies; `keep: middle` with forward fields is the centred stack. Flow
    that comes stacked, [B, V, K, 2 * length, H, W] as from a store, keeps its shape.

    `along` pixels, every channel is a whole field, and uint8 stays as it is, a view of what the
    maker of flow gives. Along trajectories, field k is sampled where the fields before it have
    carried the pixel: I_k(p) = d_k(p_k), p_1 = p, p_(k+1) = p_k + d_k(p_k); bilinear, and at the
    border's value outside. That needs the `bound` the flow was made with, in pixels. Each half of a
    bidirectional stack is a path of its own: give its `paths` as 2. Float flow counts as fractions
    of the bound.

    `mean_subtraction` takes each field's own mean vector from it, against the camera's motion.
    Both turn uint8 into float32, in fractions of the flow's bound, -2 to 2, so they are best done
    on the device, under `per_batch`.
    """

    def __init__(
        self,
        *,
        length: int,
        along: Literal["pixels", "trajectories"] = "pixels",
        bound: float | None = None,
        paths: int = 1,
        mean_subtraction: bool = False,
        name: str = "flow",
    ) -> None:
        if length < 1:
            raise ValueError(f"takes a length of at least 1, but gets {length}")
        if along == "trajectories" and (bound is None or bound <= 0):
            raise ValueError(
                f"follows trajectories in pixels, but its bound is {bound}; give it the bound of "
                "what makes the flow"
            )
        if paths < 1 or length % paths:
            raise ValueError(
                f"takes paths of equal length, but gets {paths} in a length of {length}; 1 is for "
                "forward flow, 2 for bidirectional"
            )
        self.length, self.paths, self.name = length, paths, name
        self.bound = bound if along == "trajectories" else None
        self.mean_subtraction = mean_subtraction
        self.as_is = self.bound is None and not mean_subtraction

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Raises ValueError if the flow is not there, is no flow, or is no whole stacks."""
        inp = find(shapes, self.name)
        if inp.channels == 2 * self.length:
            return shapes
        if inp.channels not in (2, None):
            raise ValueError(
                f"stacks flow of 2 channels, or takes stacks of {2 * self.length}, but "
                f"{self.name!r} has {inp.channels}; set its length to half of what a stack has"
            )
        if inp.steps is not None and inp.steps % self.length:
            raise ValueError(
                f"stacks {self.length} fields, but gets {inp.steps}; set its length to what the "
                "flow's snippets have"
            )
        steps = None if inp.steps is None else inp.steps // self.length
        return {**shapes, self.name: inp._replace(steps=steps, channels=2 * self.length)}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Stacks; nothing is random."""
        x, mask, times, kind = clips[self.name]
        size = (-1, self.length)
        if x.shape[3] == 2 * self.length:
            if self.as_is:
                return clips
            fields = self._values(x.unflatten(3, (self.length, 2)).flatten(2, 3))
            stacks = fields.unflatten(2, size).flatten(3, 4)
            return {**clips, self.name: Clip(stacks, mask, times, kind)}
        real = mask.unflatten(2, size).all(-1)
        stack = Clip(
            self._values(x).unflatten(2, size).flatten(3, 4),
            real,
            times[:, :, :: self.length].masked_fill(~real, torch.nan),
            kind,
        )
        return {**clips, self.name: stack}

    def _values(self, x: Tensor) -> Tensor:
        """The fields [B, V, K * length, 2, H, W], each as it stands in its stack."""
        if self.as_is:
            return x
        x = dequantize_flow(x) if x.dtype == torch.uint8 else x
        means = x.mean((-2, -1), keepdim=True)
        if self.bound is not None:
            paths = x.flatten(0, 2).unflatten(0, (-1, self.length // self.paths))
            x = along_trajectories(paths, self.bound).flatten(0, 1).unflatten(0, x.shape[:3])
        return x - means if self.mean_subtraction else x


def along_trajectories(fields: Tensor, bound: float) -> Tensor:
    """Fields [N, L, 2, H, W], fractions of `bound` pixels, sampled along the paths they make."""
    height, width = fields.shape[-2:]
    x = torch.arange(width, device=fields.device, dtype=fields.dtype).expand(height, width)
    y = torch.arange(height, device=fields.device, dtype=fields.dtype)[:, None].expand_as(x)
    points = torch.stack((x, y)).expand(len(fields), 2, height, width)
    met: list[Tensor] = []
    for field in fields.unbind(1):
        met.append(sample(field, *points.unbind(1)) if met else field)
        points = points + bound * met[-1]
    return torch.stack(met, 1)
