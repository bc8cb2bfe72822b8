"""Batch norms: exact statistics before a validation, and statistics over all devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as lightning
import timm.layers
import torch
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from actionkit.data.device import on_device
from actionkit.errors import RunError


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Batch norms that keep running statistics, in the order of the module."""
    norms = (m for m in module.modules() if isinstance(m, _BatchNorm))
    return [norm for norm in norms if norm.running_mean is not None]


class SyncNorms(LayerSync):
    """Makes batch norms take their statistics over all devices, for Lightning.

    By timm's converter: torch's own drops the activation that timm's networks keep in their norms.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Puts synchronised norms in the places of plain ones."""
        return timm.layers.convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Nothing: in evaluation they are plain ones."""
        return model


class PreciseNorms(lightning.Callback):
    """Takes batch norms' statistics anew before each validation (arXiv:2105.07576).

    They become those of all activations in `batches` training batches, instead of an average that
    runs behind changing weights. Everything but the norms is as in evaluation; clips are drawn and
    augmented as in training, though not mixed. Frozen norms stay as they are. Which batches these
    are is a function of seed and epoch, so a resumed run is the same.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Behind the change to average weights, if there is one. Raises RunError."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        network = pl_module.network.train()
        norms = [norm for norm in batch_norms(network) if norm.training]
        network.eval()
        transforms = [t for t in pl_module.system.train_transforms if not t.mixes]
        loader = trainer.datamodule.statistics_dataloader(  # type: ignore[attr-defined]
            self.batches, trainer.current_epoch
        )
        try:
            with torch.no_grad(), _moments(norms), trainer.precision_plugin.forward_context():
                for batch in loader:
                    if not batch.clips:
                        raise RunError("no clip of a whole batch for batch norms could be read")
                    batch = trainer.strategy.batch_to_device(batch)
                    ready = on_device(batch, transforms, train=True)
                    network(ready.clips, ready.boxes)
        finally:
            loader.close()
            network.eval()


@contextmanager
def _moments(norms: list[_BatchNorm]) -> Iterator[None]:
    """Norms in training, whose statistics are in the end those of all that has gone through.

    The variance is that of the whole: the mean of the batches' variances, and the variance of
    their means. A norm that nothing has gone through stays as it was.
    """
    sums = {norm: _zeros(norm) for norm in norms}
    momenta = {norm: norm.momentum for norm in norms}
    before = {norm: _state(norm) for norm in norms}

    def add(norm: Any, *_: Any) -> None:
        mean, var = norm.running_mean.double(), norm.running_var.double()
        sums[norm] += torch.stack([mean, var + mean.square(), torch.ones_like(mean)])

    hooks = [norm.register_forward_hook(add) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # statistics become those of the batch
        norm.train()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.momentum = momenta[norm]
    for norm, total in sums.items():
        _restore(norm, before[norm])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
        if total[2, 0] > 0:
            mean, square = total[0] / total[2], total[1] / total[2]
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(square - mean.square())  # type: ignore[union-attr]


def _zeros(norm: _BatchNorm) -> Tensor:
    """Sums of means, of squares, and their number: [3, C]."""
    mean = norm.running_mean
    return torch.zeros(3, *mean.shape, dtype=torch.float64, device=mean.device)  # type: ignore[union-attr]


def _state(norm: _BatchNorm) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in norm.named_buffers()}


def _restore(norm: _BatchNorm, state: dict[str, Tensor]) -> None:
    for name, buffer in norm.named_buffers():
        buffer.copy_(state[name])
