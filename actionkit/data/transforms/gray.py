"""Gray frames."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.fields import find
from actionkit.data.transforms.modalities import require_free


class Gray(Transform):
    """Replaces the modality `source` by gray frames `name`: [B, V, T, 1, H, W] uint8.

    Gray is 0.299 R + 0.587 G + 0.114 B, as OpenCV rounds it. For frames that are gray by chance in
    training and keep their three channels, see `grayscale`.
    """

    runs_on = "sample"

    def __init__(self, *, source: str = "rgb", name: str = "gray") -> None:
        self.source, self.name = source, name

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Puts the gray frames in the place of the source.

        Raises ValueError if it is not there, its frames are no pictures, or the name is taken.
        """
        inp = find(shapes, self.source)
        rest = {name: shape for name, shape in shapes.items() if name != self.source}
        require_free(rest, [self.name])
        require_pictures(inp, self.source)
        return {**rest, self.name: inp._replace(channels=1)}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Makes all frames gray; nothing is random."""
        rest = {name: clip for name, clip in clips.items() if name != self.source}
        return {**rest, self.name: as_gray(clips[self.source])}


def require_pictures(inp: Shape, source: str) -> None:
    """Raises ValueError for frames that have other than 1 or 3 channels."""
    if inp.channels not in (1, 3, None):
        raise ValueError(
            f"takes frames of 1 or 3 channels, but {source!r} has {inp.channels}; put it before "
            "what stacks them"
        )


def as_gray(clip: Clip) -> Clip:
    """Frames x [..., 3 or 1, H, W] uint8 as [..., 1, H, W] uint8."""
    return clip._replace(x=_gray(clip.x), kind="gray")


def _gray(x: Tensor) -> Tensor:
    if x.shape[-3] == 1:
        return x
    height, width = x.shape[-2:]
    rows = np.ascontiguousarray(x.movedim(-3, -1).numpy()).reshape(-1, width, 3)
    gray = torch.from_numpy(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY))
    return gray.view(*x.shape[:-3], 1, height, width)
