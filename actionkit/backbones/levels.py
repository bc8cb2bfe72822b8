"""Maps of several depths of a 2-D network of timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionkit.backbones.timm import Timm, _config, _frame_size
from actionkit.contracts import Features, Shape, pack, unpack


class Levels(nn.Module):
    """What a network of timm says at several depths of every real frame; `out` has their shapes.

    Built as `timm`, of which it has network, weights, errors and stages. What no level needs stays,
    frozen.

    Args:
        inp: frames; None for height or width where the network takes any size.
        arch: as of `timm`.
        levels: depths in timm's own count, 0 = the first, in that order; None = all.
        vector: whether the vector that the classifier would get is one more level, the last.
        pool: side and stride of a max pooling of all maps; 1 = none.
        pretrained: as of `timm`.
        grad_checkpointing: as of `timm`.

    Raises:
        ValueError: as `timm`; levels that the network lacks, or out of order.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        arch: str,
        levels: Sequence[int] | None = None,
        vector: bool = False,
        pool: int = 1,
        pretrained: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.vector, self.pool = vector, pool
        with torch.device("meta"):
            draft = Timm(inp, arch=arch).net
            frame = torch.empty(1, inp.require_channels(), *_frame_size(inp, arch, _config(arch)))
            self.levels = _known(draft, arch, frame, levels)
            try:
                found, unreached = self._probe(draft, frame)
            except Exception as error:  # whatever a network of timm's raises
                raise ValueError(
                    f"cannot take levels {self.levels} of '{arch}' with pool {pool}, vector "
                    f"{str(vector).lower()}: {error}; choose other levels or another arch"
                ) from error
        self.frames = Timm(
            inp, arch=arch, pretrained=pretrained, grad_checkpointing=grad_checkpointing
        )
        self.frames.unreached = unreached
        for name, parameter in self.frames.net.named_parameters():
            # else distributed training waits for their gradients
            parameter.requires_grad_(name not in unreached)
        self.out = [_shape(inp, x) for x in found]

    def forward(self, features: Features) -> list[Features]:
        """Frames [B, T, C, H, W] to the maps [B, T, C', h, w] of each level, 0 at padded steps."""
        frames = pack(features).contiguous(memory_format=torch.channels_last)
        return [unpack(x, features) for x in self._maps(self.frames.net, frames)]

    def stages(self) -> list[nn.Module]:
        """As of `timm`."""
        return self.frames.stages()

    def _maps(self, net: Any, frames: Tensor) -> list[Tensor]:
        """[N, C', h, w] of each level."""
        if not self.vector:
            # what lies behind the last level is not run
            found = net.forward_intermediates(
                frames, self.levels, intermediates_only=True, stop_early=True
            )
            return self._pooled(found)
        end, found = net.forward_intermediates(frames, self.levels)
        vector = net.forward_head(end, pre_logits=True)
        if vector.ndim == 2:
            vector = vector[..., None, None]
        return [*self._pooled(found), vector]

    def _pooled(self, maps: list[Tensor]) -> list[Tensor]:
        return maps if self.pool == 1 else [F.max_pool2d(x, self.pool) for x in maps]

    def _probe(self, net: nn.Module, frame: Tensor) -> tuple[list[Tensor], frozenset[str]]:
        """The levels of a frame on the meta device, and names of parameters they do not need."""
        net.eval().requires_grad_(True)  # batch norm refuses to train on one value per channel
        with torch.enable_grad():
            found = self._maps(net, frame)
            total = torch.stack([x.sum() for x in found]).sum()
        names = dict(net.named_parameters())
        gradients = torch.autograd.grad(total, list(names.values()), allow_unused=True)
        pairs = zip(names, gradients, strict=True)
        return found, frozenset(name for name, gradient in pairs if gradient is None)


def _known(net: Any, arch: str, frame: Tensor, levels: Sequence[int] | None) -> list[int]:
    """The levels that are meant. Raises ValueError for one that the network lacks."""
    try:
        count = len(net.eval().forward_intermediates(frame, intermediates_only=True))
    except Exception as error:  # whatever a network of timm's raises
        raise ValueError(
            f"finds no levels in '{arch}': {error}; choose an arch of timm's that has "
            "forward_intermediates, as resnet18"
        ) from error
    wanted = list(range(count)) if levels is None else list(levels)
    if not wanted or not set(wanted) <= set(range(count)) or sorted(set(wanted)) != wanted:
        raise ValueError(
            f"takes levels of '{arch}' from 0 to {count - 1}, each once and in this order, "
            f"but got {wanted}"
        )
    return wanted


def _shape(inp: Shape, x: Tensor) -> Shape:
    """Of maps [1, C, h, w]; what the size of the frames decides varies with it."""
    channels, height, width = x.shape[1:]
    if height == width == 1:
        return Shape(inp.steps, channels, 1, 1)
    return Shape(inp.steps, channels, height if inp.height else None, width if inp.width else None)
