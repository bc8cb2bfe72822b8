"""Cross-entropy that also teaches what parts choose by chance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from actionkit.contracts import Features
from actionkit.losses.cross_entropy import CrossEntropy

KEEP = 0.9  # of the baseline, at each step


class Reinforce(CrossEntropy):
    """Softmax cross-entropy, and REINFORCE for parts that choose, as `hard_alstm` does.

    The cross-entropy reaches all but the choices. Those are taught by their reward (Williams 1992;
    Xu et al. 2015, arXiv:1502.03044), through the gradient of
    - factor (reward - baseline) sum over steps of `log_prob`, mean over clips with a label, where
    reward and baseline are constants. Its value says nothing, so only its gradient is added: the
    loss that is logged is the cross-entropy. The baseline is a moving average of the mean reward
    over all ranks, 0.9 of it and 0.1 of the new, from 0 on; it makes the gradient vary less and
    leaves its expectation as it is. It moves in training only. -1, or NaN in a soft target, is no
    label.

    Args:
        reward: of a clip, mean over its real steps: the `log_likelihood` of the true class, or 1
            where the highest score is `correct` and 0 elsewhere; of a soft target the expectation.
        factor: of the choices' gradient beside that of the cross-entropy.
        label_smoothing: share of the target spread evenly over all classes in the cross-entropy.

    Raises:
        ValueError: a factor below 0, or label_smoothing outside [0, 1); when run, scores without
            `log_prob`.
    """

    baseline: Tensor

    def __init__(
        self,
        *,
        reward: Literal["log_likelihood", "correct"] = "log_likelihood",
        factor: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        if factor < 0:
            raise ValueError(f"takes a factor of 0 or more, but got {factor}")
        self.reward, self.factor = reward, factor
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, scores: Features, target: Tensor, mask: Tensor) -> Tensor:
        """The mean cross-entropy, 0-dim, with the gradient of the choices too.

        scores.x [B, V, T, K, 1, 1] logits, scores.log_prob [B, V, T'], 0 at padded steps; target
        [B] int64 or [B, K] float; mask [B, V, T] bool.
        """
        if scores.log_prob is None:
            raise ValueError(
                "rewards choices, but no part before the scores makes any, so that log_prob is "
                "missing; put hard_alstm into the chain, or use cross_entropy"
            )
        loss = super().forward(scores, target, mask)
        rewards, counts = self.rewards(scores.x.detach(), target, mask)
        gained = torch.where(counts, rewards - self.baseline, 0)
        chosen = scores.log_prob.sum(2).masked_fill(~counts, 0)  # [B, V]
        surrogate = -self.factor * (gained * chosen).sum() / counts.sum().clamp(min=1)
        if self.training:
            self._move(rewards, counts)
        return loss + (surrogate - surrogate.detach())

    @torch.no_grad()
    def rewards(self, x: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of each clip [B, V], from logits [B, V, T, K, 1, 1], and which of them count, bool."""
        logits = x.flatten(3)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        shares = target if target.is_floating_point() else _one_hot(target, logits)  # [B, K]
        labelled = shares.isfinite().all(1)
        real = mask & labelled[:, None, None]
        of_classes = (
            logits.log_softmax(3)
            if self.reward == "log_likelihood"
            else _one_hot(logits.argmax(3), logits)
        )
        each = (shares[:, None, None] * of_classes).sum(3)  # [B, V, T]
        steps = real.sum(2)
        rewards = each.masked_fill(~real, 0).sum(2) / steps.clamp(min=1)
        return rewards, steps > 0

    @torch.no_grad()
    def _move(self, rewards: Tensor, counts: Tensor) -> None:
        """Moves the baseline towards the mean reward of all ranks, where a clip counts."""
        found = torch.stack([rewards.sum(), counts.sum()])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
        total, count = found.to(self.baseline.dtype)
        moved = KEEP * self.baseline + (1 - KEEP) * total / count.clamp(min=1)
        self.baseline.copy_(torch.where(count > 0, moved, self.baseline))


def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
    """[..., K], like logits, of class numbers [...]; NaN where there is no label."""
    shares = F.one_hot(target.clamp(min=0), logits.shape[-1]).to(logits.dtype)
    return shares.masked_fill(target[..., None] < 0, torch.nan)
