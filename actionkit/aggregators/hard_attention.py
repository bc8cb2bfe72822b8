"""An LSTM that looks at one place of a map at every step, and learns where by reinforcement."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from actionkit.aggregators.attention_lstm import ALSTM, entropy, log, penalised
from actionkit.contracts import Features, Shape


class HardALSTM(ALSTM):
    """LSTM over one place of a map at every step: x [B, T, C, H, W] to [B, T, hidden, 1, 1].

    Hard attention (Xu et al. 2015, arXiv:1502.03044; Sharma et al. 2015, arXiv:1511.04119): the
    weights of `alstm` are probabilities of places. In training one place is drawn from them at each
    step and read alone. No gradient goes through a draw: the loss has to be `reinforce`, which
    takes `log_prob` [B, T], the logarithm of the probability of each step's place. It is 0 at
    padded steps, and where the weighted mean is read in the place of a place. Draws are torch's, so
    the seed of a step settles them. `attention`, `attention_entropy` and parameters as in `alstm`.

    Args:
        inp: a map per step.
        hidden: units of the state of each layer.
        width: channels of the attention; None = those that come.
        layers: LSTMs on top of each other; the attention asks with the top one's state.
        by: scores by `content` and state, or by `state` alone.
        initial: the state before the first step: `zero`, or `mean` of all real steps and places.
        soft: how often, in training, a clip is read by weighted means at all its steps, so that
            draws vary less and gradients reach the attention; in windows of a long video each
            window is settled anew.
        read: in evaluation, the place of the highest probability (`best`) or the weighted `mean`.
        entropy: factor of a bonus for undecided attention: minus it times the entropy, in nats and
            mean over the real steps, is added to `penalty`.
        to: `many` = a state for every step; `one` = that after the last real step.

    Raises:
        ValueError: as `alstm`, soft outside [0, 1], or entropy below 0; when run, a state of
            another number of rows, or choices at other numbers of steps from a part before it.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        width: int | None = None,
        layers: int = 1,
        by: Literal["content", "state"] = "content",
        initial: Literal["zero", "mean"] = "zero",
        soft: float = 0.5,
        read: Literal["best", "mean"] = "best",
        entropy: float = 0.005,
        to: Literal["many", "one"] = "many",
    ) -> None:
        super().__init__(
            inp, hidden=hidden, width=width, layers=layers, by=by, initial=initial, to=to
        )
        if not 0 <= soft <= 1:
            raise ValueError(f"takes a share of soft clips in [0, 1], but got {soft}")
        if entropy < 0:
            raise ValueError(f"takes an entropy factor of 0 or more, but got {entropy}")
        self.soft, self.bonus, self.reads_mean = soft, entropy, read == "mean"

    def softly(self, x: Tensor) -> Tensor:
        """Which clips are read by weighted means, [B, 1] bool: in training a draw for each."""
        shape, device = (len(x), 1), x.device
        if self.training:
            return torch.rand(shape, device=device) < self.soft
        return torch.full(shape, self.reads_mean, device=device)

    def look(self, weights: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [B, 1, H, W], or 1 at the place that is read and 0 elsewhere.

        Noted is the logarithm of that place's probability, or 0.
        """
        each = weights.flatten(1)  # [B, places]
        # a draw: the place whose event, at its weight as the rate, comes first; drawn step by step,
        # so that padding behind a clip changes nothing
        times = torch.empty_like(each).exponential_() if self.training else 1.0
        place = (each / times).argmax(1, keepdim=True)
        alone = torch.zeros_like(each).scatter(1, place, 1.0)
        log_prob = log(each.gather(1, place)).masked_fill(soft, 0)
        return torch.where(soft, each, alone).view_as(weights), log_prob

    def noted(self, features: Features, weights: Tensor, notes: Tensor) -> Features:
        """Adds `attention`, its entropy to `extra` and times -factor to `penalty`, `log_prob`."""
        result = super().noted(features, weights, notes)
        if self.bonus:
            result = penalised(result, -self.bonus * entropy(weights, result.mask))
        return result._replace(log_prob=_joined(features.log_prob, notes[..., 0]))


def _joined(before: Tensor | None, own: Tensor) -> Tensor:
    """The log-probability [B, T] of the choices of two parts together."""
    if before is None:
        return own
    if before.shape != own.shape:
        raise ValueError(
            f"chooses at {own.shape[1]} steps, but a part before it has chosen at "
            f"{before.shape[1]}; keep one of the two"
        )
    return before + own
