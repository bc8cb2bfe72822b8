"""Backbones run by torch.compile."""

from __future__ import annotations

from torch import nn

from actionkit.contracts import Backbone, Joint


def compile_backbones(network: nn.Module, backend: str = "inductor") -> int:
    """Compiles every backbone in place, so that names in checkpoints stay; gives their number.

    What stands behind them is small, or recurrent, and would be cut to pieces at every look at a
    mask. Compiled code rounds in other places, and draws other numbers in drop-out.
    """
    inside: set[nn.Module] = set()
    count = 0
    for part in network.modules():
        if isinstance(part, Backbone | Joint) and part not in inside:
            part.compile(backend=backend)
            inside.update(part.modules())
            count += 1
    return count
