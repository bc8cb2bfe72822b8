"""Cross-entropy of one true class, or of a distribution over classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from actionkit.contracts import Features, Loss


class CrossEntropy(Loss):
    """Softmax cross-entropy, averaged over all real steps of all labelled clips.

    The mean is torch's: for class targets weighted by the weight of each step's class, for soft
    targets over the number of steps. -1, or NaN in a soft target, is no label.

    Args:
        label_smoothing: share of the target spread evenly over all classes (arXiv:1512.00567).
        class_weights: a factor of 0 or more for each class, in the order of the classes.

    Raises:
        ValueError: label_smoothing outside [0, 1), negative weights, or not one for each class.
    """

    weight: Tensor | None

    def __init__(
        self, *, label_smoothing: float = 0.0, class_weights: list[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"takes a label_smoothing in [0, 1), but got {label_smoothing}")
        if class_weights is not None and min(class_weights, default=0.0) < 0:
            raise ValueError(f"takes class_weights of 0 or more, but got {min(class_weights)}")
        self.label_smoothing = label_smoothing
        weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, scores: Features, target: Tensor, mask: Tensor) -> Tensor:
        """The mean loss, 0-dim; 0 with zero gradients where no step counts.

        scores.x [B, V, T, K, 1, 1] logits; target [B] int64 or [B, K] float; mask [B, V, T] bool.
        """
        soft = target.is_floating_point()
        labelled = target.isfinite().all(1) if soft else target >= 0  # [B]
        mask = mask & labelled[:, None, None]
        logits = _wide(scores.x.flatten(3)).masked_fill(~mask[..., None], 0)  # [B, V, T, K]
        weight = self._weight(logits)
        if soft:
            wanted = target.masked_fill(~labelled[:, None], 0).to(logits.dtype)
            wanted = wanted[:, None, None].expand_as(logits).flatten(0, 2)  # [N, K]
            share = mask.to(logits.dtype)
        else:
            wanted = target.clamp(min=0)[:, None, None].expand_as(mask).flatten()  # [N]
            each = 1.0 if weight is None else weight[wanted].view_as(mask)
            share = mask * each
        losses = F.cross_entropy(
            logits.flatten(0, 2),
            wanted,
            weight,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        total = share.sum()
        weighted = losses * self.steps(mask).to(losses.dtype).flatten()
        return weighted.sum() / total.where(total > 0, 1)

    def steps(self, mask: Tensor) -> Tensor:
        """How much each step counts, [B, V, T], on average 1 over the real steps of a clip; mask
        [B, V, T] bool, True = a real step with a label.
        """
        return mask

    def probabilities(self, scores: Features) -> Tensor:
        """Softmax [B, V, T, K] float32 of the logits scores.x [B, V, T, K, 1, 1]."""
        return scores.x.flatten(3).float().softmax(3)

    def _weight(self, logits: Tensor) -> Tensor | None:
        if self.weight is None:
            return None
        if len(self.weight) != logits.shape[-1]:
            raise ValueError(
                f"has {len(self.weight)} class_weights for {logits.shape[-1]} classes; "
                "give one each"
            )
        return self.weight.to(logits.dtype)


def _wide(x: Tensor) -> Tensor:
    """At least float32: half-precision logits lose the loss's last digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
