"""Scale jitter: the short side of a random length, then a crop of a fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np

from actionkit.data.transforms.boxes import Box, BoxCrop


class ShortSideScale(BoxCrop):
    """Cuts `size` out of frames whose short side is scaled to a random length.

    The scale jitter of VGG (arXiv:1409.1556), ResNet and SlowFast (arXiv:1812.03982): the short
    side becomes `short_side` (least, most) pixels long, uniformly, and a box of `size` (height,
    width) is taken anywhere. In evaluation it is `eval_short_side` pixels long and the box lies in
    the centre. No frame is resized as a whole: the box is cut first, as the share of the frame that
    it is, and resized once.

    Takes frames [B, V, T, C, H, W] uint8 or float32. All pixel modalities (rgb, gray, flow) get the
    same box, the vectors of flow are scaled with the picture; other kinds stay as they are, padded
    steps become zeros.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] | int,
        short_side: tuple[float, float] = (256, 320),
        eval_short_side: float = 256,
    ) -> None:
        super().__init__(size)
        if short_side[0] > short_side[1]:
            raise ValueError(f"takes a short_side (least, most), but gets {short_side}")
        shortest, longest = min(*short_side, eval_short_side), max(self.height, self.width)
        if longest > shortest:
            raise ValueError(
                f"cuts {self.height}x{self.width} pixels out of a short side of {shortest:g}; set "
                f"short_side and eval_short_side to at least {longest}"
            )
        self.short_side, self.eval_short_side = short_side, eval_short_side

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """The short side's length in pixels and a place in fractions; the centre in evaluation."""
        if rng is None:
            return {"short_side": self.eval_short_side, "place": (0.5, 0.5)}
        return {"short_side": rng.uniform(*self.short_side), "place": rng.random(2).tolist()}

    def box(self, draw: dict[str, Any], frame: float) -> Box:
        """The box for frames of the ratio (width / height) `frame`."""
        sides = self.width / draw["short_side"], self.height / draw["short_side"]
        return Box.of_short_side(*sides, *draw["place"], frame=frame)
