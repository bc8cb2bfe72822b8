"""Multi-scale crops at the corners and the centre."""

from __future__ import annotations

from typing import Any

import numpy as np

from actionkit.data.transforms.boxes import Box, BoxCrop

FEW = ((0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5))  # x, y: the corners and the centre
MORE = (
    *FEW,
    (0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1),  # the middles of the sides
    (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75),
)  # fmt: skip


class CornerMultiScale(BoxCrop):
    """Cuts a box of a few fixed sizes at a corner or the centre and resizes it to `size`.

    The augmentation of Wang et al. (arXiv:1507.02159) and TSN (arXiv:1608.00859). Width and height
    are each one of `scales`, in short sides of the frame and at most `max_distort` places apart in
    that list; every such pair is as likely. The box lies in one of the four corners or the centre;
    `more_places` adds the middles of the sides and of the quarters, 13 in all. In evaluation it is
    the largest centred box of the output's ratio, its sides times `eval_scale`. TSN's frames are
    340x256 pixels; here they need no resizing before.

    Takes frames [B, V, T, C, H, W] uint8 or float32. All pixel modalities (rgb, gray, flow) get the
    same box, the vectors of flow are scaled with the picture; other kinds stay as they are, padded
    steps become zeros.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] | int,
        scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66),
        max_distort: int = 1,
        more_places: bool = False,
        eval_scale: float = 0.875,
    ) -> None:
        super().__init__(size)
        if not scales or not 0 < min(scales) <= max(scales) <= 1:
            raise ValueError(f"takes scales above 0 and at most 1, but gets {scales}")
        if max_distort < 0:
            raise ValueError(f"takes a max_distort of at least 0, but gets {max_distort}")
        if not 0 < eval_scale <= 1:
            raise ValueError(f"takes an eval_scale above 0 and at most 1, but gets {eval_scale}")
        self.sides = [
            (width, height)
            for i, width in enumerate(scales)
            for j, height in enumerate(scales)
            if abs(i - j) <= max_distort
        ]
        self.places = MORE if more_places else FEW
        self.eval_scale = eval_scale

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """Width and height in short sides, and a place in fractions; nothing in evaluation."""
        if rng is None:
            return {}
        side, place = rng.integers(len(self.sides)), rng.integers(len(self.places))
        return {"sides": self.sides[side], "place": self.places[place]}

    def box(self, draw: dict[str, Any], frame: float) -> Box:
        """The box for frames of the ratio (width / height) `frame`."""
        if not draw:
            return Box.largest(self.width / self.height, frame, self.eval_scale)
        return Box.of_short_side(*draw["sides"], *draw["place"], frame=frame)
