"""Cross-entropy that asks more of later steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from actionkit.contracts import Features, Loss


class Gain(Loss):
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
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"takes a label_smoothing in [0, 1), but got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, scores: Features, target: Tensor, mask: Tensor) -> Tensor:
        """The weighted mean loss, 0-dim; 0 with zero gradients where no step counts.

        scores.x [B, V, T, K, 1, 1] logits; target [B] int64 or [B, K] float; mask [B, V, T] bool.
        """
        soft = target.is_floating_point()
        labelled = target.isfinite().all(1) if soft else target >= 0  # [B]
        mask = mask & labelled[:, None, None]
        x = scores.x.flatten(3)
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision loses the last digits
        logits = x.to(wide).masked_fill(~mask[..., None], 0)  # [B, V, T, K]
        if soft:
            wanted = target.masked_fill(~labelled[:, None], 0).to(wide)[:, None, None]
            wanted = wanted.expand_as(logits).flatten(0, 2)  # [N, K]
        else:
            wanted = target.clamp(min=0)[:, None, None].expand_as(mask).flatten()  # [N]
        losses = F.cross_entropy(
            logits.flatten(0, 2), wanted, reduction="none", label_smoothing=self.label_smoothing
        )
        weights = gains(mask).to(wide).flatten()
        return (losses * weights).sum() / mask.sum().clamp(min=1)

    def probabilities(self, scores: Features) -> Tensor:
        """Softmax [B, V, T, K] float32 of the logits scores.x [B, V, T, K, 1, 1]."""
        return scores.x.flatten(3).float().softmax(3)


def gains(mask: Tensor) -> Tensor:
    """[B, V, T] float32: 0 at the first real step of each clip up to 2 at its last, mean 1.

    A single real step has 1; padding has 0.
    """
    real = mask.sum(2, keepdim=True)
    before = mask.long().cumsum(2) - 1
    rising = torch.where(real > 1, 2 * before / (real - 1).clamp(min=1), 1.0)
    return rising * mask
