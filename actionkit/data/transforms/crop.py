"""Crop and resize on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from actionkit.data.transforms.boxes import Box, BoxCrop, draw_boxes


class CropResize(BoxCrop):
    """Cuts one box out of all frames of a sample and resizes it to `size` (height, width).

    In training the box covers a share `scale` of the frame's area at an aspect ratio (width /
    height) log-uniform in `ratio`, as Inception's random resized crop (arXiv:1409.4842). What is
    drawn knows no frame size: it is ten (area, ratio) pairs, of which the first that fits the frame
    is used, and a place. Fits none, it is the largest box of the nearest allowed ratio. In
    evaluation it is the largest centred box of the output's ratio, its sides times `eval_scale`
    (0.875 gives the usual 224 out of a short side of 256).

    Takes frames [B, V, T, C, H, W] uint8 or float32 of any H x W, larger or smaller than `size`.
    All pixel modalities (rgb, gray, flow) get the same box, in fractions of the frame; the vectors
    of flow are scaled with the picture. Other kinds stay as they are, padded steps become zeros.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] | int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 1.3333),
        eval_scale: float = 1.0,
    ) -> None:
        super().__init__(size)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"takes a scale (least, most) within 0 and 1, but gets {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"takes a ratio (least, most) above 0, but gets {ratio}")
        if not 0 < eval_scale <= 1:
            raise ValueError(f"takes an eval_scale above 0 and at most 1, but gets {eval_scale}")
        self.scale, self.ratio, self.eval_scale = scale, ratio, eval_scale

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """Ten areas and ratios [10] and a place [2] in fractions; nothing in evaluation."""
        return {} if rng is None else draw_boxes(rng, self.scale, self.ratio)

    def box(self, draw: dict[str, Any], frame: float) -> Box:
        """The box for frames of the ratio (width / height) `frame`."""
        if not draw:
            return Box.largest(self.width / self.height, frame, self.eval_scale)
        fitting = Box.first_that_fits(draw, frame)
        return fitting or Box.largest(float(np.clip(frame, *self.ratio)), frame)
