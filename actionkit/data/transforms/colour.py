"""Changes of colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from actionkit.contracts import Clip, Transform
from actionkit.data.transforms.images import change_images

ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
    "hue": functional.adjust_hue,
}


class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue, all frames of a clip alike.

    Takes rgb and gray [B, V, T, 3 or 1, H, W] uint8 on any device; flow and other kinds stay as
    they are, padded steps become zeros. With a `probability` a clip is multiplied by a factor
    uniform in 1 - amount to 1 + amount (not below 0) for each of the first three, and its hue is
    turned by up to +-`hue` (at most 0.5, half a turn), in random order, as torchvision's
    ColorJitter. Contrast is taken about each frame's own mean. It counts in floats and rounds once.
    An amount of 0 is off; hue takes five times as long as the other three. Evaluation changes
    nothing.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.0,
        probability: float = 1.0,
    ) -> None:
        self.factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, amount in self.factors.items():
            if amount < 0:
                raise ValueError(f"takes a {name} of at least 0, but gets {amount}")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"takes a hue from 0 to 0.5, but gets {hue}")
        _check_probability(probability)
        self.hue, self.probability = hue, probability

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """What is changed and by which factor, in order; nothing in evaluation."""
        if rng is None or rng.random() >= self.probability:
            return {}
        steps = [
            (name, rng.uniform(max(0.0, 1 - amount), 1 + amount))
            for name, amount in self.factors.items()
            if amount
        ]
        if self.hue:
            steps.append(("hue", rng.uniform(-self.hue, self.hue)))
        return {"steps": [steps[i] for i in rng.permutation(len(steps))]} if steps else {}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes the samples that have a draw."""
        return change_images(clips, draws, _jitter)


def _jitter(frames: Tensor, draw: dict[str, Any]) -> Tensor:
    # Planes of floats are faster than uint8 in channels-last memory, and are rounded only once.
    x = frames.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    for name, amount in draw["steps"]:
        x = ADJUST[name](x, amount)
    return x.mul_(255).round_()


class Grayscale(Transform):
    """Takes the colour out of a clip with a probability; its three channels become equal.

    Takes rgb [B, V, T, 3, H, W] uint8 on any device; other kinds stay as they are, padded steps
    become zeros. Luma as torchvision's rgb_to_grayscale: 0.2989 R + 0.587 G + 0.114 B. Evaluation
    changes nothing.
    """

    def __init__(self, *, probability: float = 0.2) -> None:
        _check_probability(probability)
        self.probability = probability

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """Whether this sample loses its colour."""
        return {} if rng is None or rng.random() >= self.probability else {"gray": True}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes the samples that have a draw."""
        return change_images(clips, draws, _gray)


def _gray(frames: Tensor, draw: dict[str, Any]) -> Tensor:
    return functional.rgb_to_grayscale(frames, num_output_channels=frames.shape[-3])


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"takes a probability from 0 to 1, but gets {probability}")
