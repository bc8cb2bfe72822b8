"""Random erasing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Transform
from actionkit.data.transforms.boxes import Box, draw_boxes
from actionkit.data.transforms.images import change_images

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which normalize makes 0


class Erasing(Transform):
    """Erases one rectangle of a clip with a probability, the same in all its frames.

    Random erasing (arXiv:1708.04896): the rectangle covers a share `scale` of the frame at an
    aspect ratio (width / height) log-uniform in `ratio`, of ten drawn the first that fits; fits
    none, nothing is erased. It becomes `noise`, uniform and alike in all frames, or the `mean`
    colour of ImageNet.

    Takes rgb and gray [B, V, T, 3 or 1, H, W] uint8 on any device, all with the same rectangle in
    fractions of the frame; flow and other kinds stay as they are, padded steps become zeros.
    Evaluation erases nothing.
    """

    def __init__(
        self,
        *,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.4),
        ratio: tuple[float, float] = (0.3, 3.3333),
        fill: Literal["noise", "mean"] = "noise",
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"takes a probability from 0 to 1, but gets {probability}")
        if not 0 < scale[0] <= scale[1] < 1:
            raise ValueError(f"takes a scale (least, most) between 0 and 1, but gets {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"takes a ratio (least, most) above 0, but gets {ratio}")
        self.probability, self.scale, self.ratio, self.fill = probability, scale, ratio, fill

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """Ten areas and ratios [10], a place [2] and the seed of the noise, or nothing."""
        if rng is None or rng.random() >= self.probability:
            return {}
        return {**draw_boxes(rng, self.scale, self.ratio), "noise": int(rng.integers(2**63))}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes the samples that have a draw."""
        return change_images(clips, draws, self._erase)

    def _erase(self, frames: Tensor, draw: dict[str, Any]) -> Tensor:
        channels, height, width = frames.shape[-3:]
        box = Box.first_that_fits(draw, width / height)
        if box is None:
            return frames
        rows, columns = box.pixels(height, width)
        if self.fill == "noise":
            size = (channels, rows.stop - rows.start, columns.stop - columns.start)
            new = np.random.default_rng(draw["noise"]).integers(0, 256, size, np.uint8)
        else:
            colour = MEAN if channels == 3 else [sum(MEAN) / 3]
            new = np.rint(255 * np.array(colour)).astype(np.uint8)[:, None, None]
        frames[..., rows, columns] = torch.from_numpy(new).to(frames.device)
        return frames
