"""What parts share that read steps in their order, and can go on where they stopped."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from actionkit.contracts import Aggregator, Features
from actionkit.layers.recurrence import State, choose


class Stateful(Aggregator):
    """A part that hands a state from step to step.

    Every clip starts afresh, unless `extra["start"]` [B, T] bool is there. Then row i of each call
    goes on where row i of the call before stopped, as windows of one long video do, and starts
    afresh at every step where `start` is True. What is carried is detached, so that gradients end
    at the first step of a window. Training and evaluation carry a state each.
    """

    def __init__(self) -> None:
        super().__init__()
        # no buffer: DDP would overwrite it in every rank by that of the first
        self._carried: dict[bool, State] = {}

    @abstractmethod
    def fresh(self, features: Features) -> State:
        """The state before the first step."""

    @abstractmethod
    def read(self, features: Features, state: State | None) -> tuple[Tensor, State]:
        """Gives x [B, T, C', H', W'] and the state at the end, from a state; None = a fresh one.

        A padded step gives 0 and leaves the state as it is. The state that is returned for None is
        not looked at.
        """

    def forward(self, features: Features) -> Features:
        """Reads all steps, afresh or from where the call before stopped."""
        start = (features.extra or {}).get("start")
        if start is None:
            return features._replace(x=self.read(features, None)[0])
        return features._replace(x=self._go_on(features, start))

    def _go_on(self, features: Features, start: Tensor) -> Tensor:
        """One reading for each piece between two starts, in all rows at once; mostly it is one."""
        piece = start.long().cumsum(1)  # [B, T], 0 = of what was before
        state = self._last(features, piece)
        parts = []
        for number in range(int(piece.min()), int(piece.max()) + 1):
            here = features._replace(mask=features.mask & (piece == number))
            if number:
                begins = piece[:, -1] >= number
                state = choose(begins, self.fresh(here), state)
            x, state = self.read(here, state)
            parts.append(x)
        self._carried[self.training] = tuple(tensor.detach() for tensor in state)
        return torch.stack(parts).sum(0)

    def _last(self, features: Features, piece: Tensor) -> State:
        """What the call before left; a fresh state where there was none, or no row goes on."""
        carried = self._carried.get(self.training)
        if carried is None or bool((piece[:, 0] > 0).all()):
            return self.fresh(features)
        if len(carried[0]) != len(piece):
            raise ValueError(
                f"goes on with the state of {len(carried[0])} rows, but gets {len(piece)}; keep "
                "the number of rows, or let extra['start'] be True at the first step of each"
            )
        return carried
