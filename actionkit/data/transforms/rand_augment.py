"""RandAugment, one draw a clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional

from actionkit.contracts import Clip, Transform
from actionkit.data.transforms.images import change_images

MOST = 30  # the largest magnitude


def _shear(x: Tensor, across: float, down: float) -> Tensor:
    shear = [math.degrees(math.atan(across)), math.degrees(math.atan(down))]
    return functional.affine(x, angle=0, translate=[0, 0], scale=1, shear=shear, center=[0, 0])


def _translate(x: Tensor, across: float, down: float) -> Tensor:
    by = [int(across * x.shape[-1]), int(down * x.shape[-2])]
    return functional.affine(x, angle=0, translate=by, scale=1, shear=[0, 0])


# Each takes frames [N, C, H, W] uint8 and a level from -1 to 1.
GEOMETRIC: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shear_x": lambda x, level: _shear(x, 0.3 * level, 0),
    "shear_y": lambda x, level: _shear(x, 0, 0.3 * level),
    "translate_x": lambda x, level: _translate(x, 150 / 331 * level, 0),
    "translate_y": lambda x, level: _translate(x, 0, 150 / 331 * level),
    "rotate": lambda x, level: functional.rotate(x, 30 * level),
}
COLOUR: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, level: x,
    "brightness": lambda x, level: functional.adjust_brightness(x, 1 + 0.9 * level),
    "color": lambda x, level: functional.adjust_saturation(x, 1 + 0.9 * level),
    "contrast": lambda x, level: functional.adjust_contrast(x, 1 + 0.9 * level),
    "sharpness": lambda x, level: functional.adjust_sharpness(x, 1 + 0.9 * level),
    "posterize": lambda x, level: functional.posterize(x, round(8 - 4 * abs(level))),
    "solarize": lambda x, level: functional.solarize(x, 255 * (1 - abs(level))),
    "auto_contrast": lambda x, level: functional.autocontrast(x),
    "equalize": lambda x, level: functional.equalize(x),
}
OPERATIONS = COLOUR | GEOMETRIC


class RandAugment(Transform):
    """Changes a clip by a few operations drawn at random, all its frames alike.

    RandAugment (arXiv:1909.13719) with its 14 operations in torchvision's strengths: `count` of
    them are drawn with replacement, each at `magnitude` (0 to 30) and, where it has two directions,
    in one of them. What takes statistics (contrast, auto_contrast, equalize) takes those of each
    frame.

    Takes rgb and gray [B, V, T, 3 or 1, H, W] uint8 on any device; flow and other kinds stay as
    they are, padded steps become zeros. Five of the operations move pixels, and flow is not moved
    with them: where it stands beside the frames, set `geometric` to false. Evaluation changes
    nothing.
    """

    def __init__(self, *, count: int = 2, magnitude: float = 9, geometric: bool = True) -> None:
        if count < 1:
            raise ValueError(f"takes a count of at least 1, but gets {count}")
        if not 0 <= magnitude <= MOST:
            raise ValueError(f"takes a magnitude from 0 to {MOST}, but gets {magnitude}")
        self.count, self.level = count, magnitude / MOST
        self.names = list(OPERATIONS if geometric else COLOUR)

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """The operations by name and the level of each, -1 to 1; nothing in evaluation."""
        if rng is None:
            return {}
        names = rng.choice(self.names, self.count).tolist()
        signs = rng.choice([-1, 1], self.count).tolist()
        return {"steps": [(n, s * self.level) for n, s in zip(names, signs, strict=True)]}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes the samples that have a draw."""
        return change_images(clips, draws, _augment)


def _augment(frames: Tensor, draw: dict[str, Any]) -> Tensor:
    frames = frames.contiguous()  # planes: torchvision is faster on them
    for name, level in draw["steps"]:
        frames = OPERATIONS[name](frames, level)
    return frames
