"""Cross-entropy that asks more of later steps."""

from __future__ import annotations

import torch
from torch import Tensor

from actionkit.losses.cross_entropy import CrossEntropy


class Gain(CrossEntropy):
    """Softmax cross-entropy at every real step, weighted from 0 at the first to 1 at the last.

    For recurrent parts that score every step: at first they have seen little (arXiv:1503.08909).
    Within each clip the weights rise in equal parts and are divided by their mean, so the loss is a
    mean over steps; a single step has 1. Use `evaluation.steps: gain` with it. -1, or NaN in a
    soft target, is no label.

    Args:
        label_smoothing: share of the target spread evenly over all classes (arXiv:1512.00567).

    Raises:
        ValueError: label_smoothing outside [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)

    def steps(self, mask: Tensor) -> Tensor:
        """The weights of `gains`."""
        return gains(mask)


def gains(mask: Tensor) -> Tensor:
    """[B, V, T] float32: 0 at the first real step of each clip up to 2 at its last, mean 1.

    A single real step has 1; padding has 0.
    """
    real = mask.sum(2, keepdim=True)
    before = mask.long().cumsum(2) - 1
    rising = torch.where(real > 1, 2 * before / (real - 1).clamp(min=1), 1.0)
    return rising * mask
