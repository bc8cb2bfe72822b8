"""Recurrence over the real steps of a clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from actionkit.contracts import Aggregator, Features, Shape


class LSTM(Aggregator):
    """Stacked LSTM, many-to-many: x [B, T, C, 1, 1] to [B, T, hidden or 2 hidden, 1, 1].

    Padded steps, wherever they stand, leave the state as it is and give 0; every clip starts from
    state 0. Hochreiter and Schmidhuber 1997, with forget gates (Gers 2000), no peepholes. The
    layers are torch's `nn.LSTM`, so cuDNN runs them; it keeps two biases, of which only the sum
    acts: 4 h (d + h) + 8 h parameters per layer and direction for d inputs and h hidden units
    (texts with one bias count 4 h). At start recurrent weights are orthogonal gate by gate
    (arXiv:1312.6120), biases 0 but the forget gates' 1 (Jozefowicz 2015).

    Args:
        inp: one vector per step.
        hidden: units of each layer and direction.
        layers: layers on top of each other.
        bidirectional: each layer reads both ways, and hands on both states, forward first.
        dropout: rate between layers; the recurrence and the last layer have none.

    Raises:
        ValueError: maps instead of vectors, or dropout without a second layer.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        hidden: int,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dropout and layers == 1:
            raise ValueError(
                f"has dropout {dropout} between its layers, but only one layer; "
                "set layers to 2 or more, or leave dropout out"
            )
        self.lstm = nn.LSTM(
            inp.require_vectors(),
            hidden,
            layers,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )
        self.out = inp._replace(channels=hidden * (2 if bidirectional else 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws new recurrent weights and sets the biases; torch's gates stand as i, f, g, o."""
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                parameter.zero_()
                if name.startswith("bias_ih"):
                    parameter.chunk(4)[1].fill_(1.0)

    def forward(self, features: Features) -> Features:
        """Maps vectors [B, T, C, 1, 1] to the states after each real step."""
        x, mask = features.x.flatten(2), features.mask  # [B, T, C], [B, T]
        order = (~mask).long().argsort(dim=1, stable=True)  # real steps first, in their order
        x = _at(x.masked_fill(~mask[..., None], 0), order)
        if self.lstm.bidirectional and not bool(mask.all()):
            states = self._packed(x, mask.sum(1))
        else:  # steps behind the last real one reach no state before it
            states, _ = self.lstm(x)
        states = _at(states, order.argsort(1)).masked_fill(~mask[..., None], 0)
        return features._replace(x=states[..., None, None])

    def _packed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """States [B, T, D] of sequences that end early, so that reading back starts at their ends.

        A clip without real steps is run as one step of zeros, which the caller masks.
        """
        packed = pack_padded_sequence(
            x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = self.lstm(packed)
        return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0]


def _at(x: Tensor, order: Tensor) -> Tensor:
    """The steps of x [B, T, D] in the order [B, T]."""
    return x.take_along_dim(order[..., None], 1)
