"""Crops of evaluation, cut on the device."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.kinds import PIXELS
from actionkit.data.transforms.mirror import Mirror

PLACES = {  # number of crops -> of those not mirrored, from 0 (top, left) to 1 (bottom, right)
    1: [(0.5, 0.5)],
    3: [(0.5, 0), (0.5, 0.5), (0.5, 1)],  # of landscape frames
    10: [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)],
}


class Crops(Transform):
    """Cuts every clip into 1, 3 or 10 crops of `size` (height, width), as published tests do.

    `count` 1 is the centre; 3 are the two ends and the centre of the frame's longer side, in the
    middle of the other (left, centre, right; of portrait frames top, centre, bottom), which see the
    whole frame where `size` is its short side; 10 are the four corners and the centre, then the
    mirror images of these five, in which flow has dx negated as in `mirror` (AlexNet; two-stream
    networks, arXiv:1406.2199).

    Crops become views, whose scores the evaluation averages: [B, V, T, C, H, W] -> [B, V * count,
    T, C, height, width], the crops of a view together. Or steps, to be joined inside the network:
    [B, V, count * T, C, height, width], crop by crop, the T steps of one crop together. All pixel
    modalities (rgb, gray, flow) are cut alike, so they must be of one size; what has no picture
    (1x1, score, pose, audio) is repeated. Mask and times go along.

    It belongs under `eval.per_batch`, behind frames that per_sample left larger than `size`:
    frames are decoded, and flow computed, once for all crops. `evaluation.views_per_item` counts
    views before it. Nothing is random: in training it gives all crops too, each of them a sample
    of the loss.
    """

    runs_on = "batch"

    def __init__(
        self,
        *,
        size: tuple[int, int] | int,
        count: Literal[1, 3, 10] = 10,
        into: Literal["views", "steps"] = "views",
    ) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 1:
            raise ValueError(f"takes a size of at least 1 pixel, but gets {size}")
        self.count, self.into = count, into
        self.copies = count  # of each clip: what a batch of evaluation grows by

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Fixes height and width, except of vectors (1x1); multiplies steps where crops are steps.

        Raises ValueError for frames smaller than the crops, and for pictures of several sizes.
        """
        sizes = {name: (s.height, s.width) for name, s in shapes.items() if not _vector(s)}
        for name, (height, width) in sizes.items():
            if height is not None and width is not None:
                self._require_room(height, width)
            if (height, width) != next(iter(sizes.values())):
                raise ValueError(
                    f"cuts all pictures alike, but they are of {_text(sizes)} pixels; let "
                    f"crop_resize bring {name!r} to the size of the others"
                )
        return {name: self._out(shape) for name, shape in shapes.items()}

    def _out(self, shape: Shape) -> Shape:
        if self.into == "steps" and shape.steps is not None:
            shape = shape._replace(steps=shape.steps * self.count)
        return shape if _vector(shape) else shape._replace(height=self.height, width=self.width)

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Cuts all clips; nothing is random."""
        pieces = [self._cut(clips, place) for place in PLACES[self.count]]
        if len(pieces) < self.count:
            mirror, chosen = Mirror(), [{"mirror": True}] * len(draws)
            pieces += [mirror.apply(piece, chosen) for piece in pieces]
        return {name: self._join([piece[name] for piece in pieces]) for name in clips}

    def _cut(self, clips: dict[str, Clip], place: tuple[float, float]) -> dict[str, Clip]:
        """One crop of all clips, a view of them."""
        cut = {}
        for name, clip in clips.items():
            height, width = clip.x.shape[-2:]
            if clip.kind in PIXELS and (height, width) != (1, 1):
                self._require_room(height, width)
                down, across = place[::-1] if height > width else place
                top, left = int(down * (height - self.height)), int(across * (width - self.width))
                x = clip.x[..., top : top + self.height, left : left + self.width]
                clip = clip._replace(x=x)
            cut[name] = clip
        return cut

    def _require_room(self, height: int, width: int) -> None:
        if height < self.height or width < self.width:
            raise ValueError(
                f"cuts crops of {self.height}x{self.width} pixels, but gets frames of "
                f"{height}x{width}; give crop_resize a larger size"
            )

    def _join(self, pieces: list[Clip]) -> Clip:
        x = self._stack([piece.x.movedim(-3, -1) for piece in pieces]).movedim(-1, -3)
        mask = self._stack([piece.mask for piece in pieces])
        return Clip(x, mask, self._stack([piece.times for piece in pieces]), pieces[0].kind)

    def _stack(self, pieces: list[Tensor]) -> Tensor:
        """[B, V, T, ...] of every crop as [B, V * count, T, ...] or [B, V, count * T, ...]."""
        stacked = torch.stack(pieces, 2)
        return stacked.flatten(1, 2) if self.into == "views" else stacked.flatten(2, 3)


def _vector(shape: Shape) -> bool:
    return shape.height == shape.width == 1


def _text(sizes: dict[str, tuple[int | None, int | None]]) -> str:
    return " and ".join(f"{h or '?'}x{w or '?'} ({name})" for name, (h, w) in sizes.items())
