"""Temporal shift inside of a 2-D network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from actionkit.backbones.over_time import Clips, Layout, OverTime, convolutions, residual_rows
from actionkit.contracts import Shape

DEEP = 23  # blocks in a row; such a network shifts in every second one, as the authors' ResNet-101


def shift(x: Tensor, fold: int = 8, *, online: bool = False) -> Tensor:
    """Moves channels of x [B, T, C, H, W], all of whose steps are real, along time.

    With n = C // fold, channels [0, n) come from the next step and [n, 2 n) from the one before;
    `online`, [0, n) come from the one before and no others move. Beyond both ends stand zeros.
    """
    frames = shift_frames(x.flatten(0, 1), Layout(*x.shape[:2]), fold, online=online)
    return frames.unflatten(0, x.shape[:2])


def shift_frames(x: Tensor, layout: Layout, fold: int = 8, *, online: bool = False) -> Tensor:
    """`shift` of x [N, C, H, W] as `pack` lays it, in its own memory format.

    Padded and concatenated: assigning to slices costs more, and more again in the backward.
    """
    last = x.stride(1) == 1  # channels_last: seen as [N, H, W, C], so that no copy is scattered
    x, axis = (x.permute(0, 2, 3, 1), 3) if last else (x, 1)
    share = x.shape[axis] // fold
    if online:
        past, rest = x.tensor_split((share,), axis)
        moved = torch.cat([layout.behind(past), rest], axis)
    else:
        future, past, rest = x.tensor_split((share, 2 * share), axis)
        moved = torch.cat([layout.ahead(future), layout.behind(past), rest], axis)
    return moved.permute(0, 3, 1, 2) if last else moved


class Shift:
    """Shifts what a module takes, before it takes it."""

    def __init__(self, clips: Clips, fold: int, online: bool) -> None:
        self.clips, self.fold, self.online = clips, fold, online

    def __call__(self, module: nn.Module, taken: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The arguments of a module's forward, x [N, C, H, W] first, with x shifted."""
        x, *others = taken
        return shift_frames(x, self.clips.layout, self.fold, online=self.online), *others


class TSM(OverTime):
    """Residual network of timm with temporal shift: x [B, T, C, H, W] to maps [B, T, C', h, w].

    In every residual block 1/8 of the channels comes from the next frame and 1/8 from the one
    before, zeros beyond both ends (arXiv:1811.08383): time is modelled without a parameter or a
    multiplication more, and weights keep their names. Neighbours are real steps of the same clip,
    whatever padding lies between. With k blocks a frame sees k frames in each direction. Networks
    as deep as ResNet-101 shift in every second block, as in the authors' code.

    Args:
        inp: frames; None for height or width where the network takes any size.
        arch: a residual network of `timm.list_models()`.
        pretrained: start from timm's weights, which are downloaded once (not on the meta device).
        drop_path: rate of stochastic depth, for networks that have it (arXiv:1603.09382).
        grad_checkpointing: compute activations again for the gradients instead of keeping them.
        places: shift in front of the first convolution of a block's branch (`residual`, as
            published), or of the whole block, its shortcut too (`in_place`).
        fold: one of so many channels comes from each neighbour.
        online: none comes from the next frame, so that a video can be classified as it runs.

    Raises:
        ValueError: unknown arch, one without residual blocks, a fold that leaves none, or weights
            that cannot be had.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        arch: str,
        pretrained: bool = False,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
        places: Literal["residual", "in_place"] = "residual",
        fold: int = 8,
        online: bool = False,
    ) -> None:
        if fold < 2:
            raise ValueError(
                f"takes one of 2 or more channels from each neighbour, but got fold {fold}; "
                "set fold to 8"
            )
        super().__init__(
            inp,
            arch=arch,
            pretrained=pretrained,
            drop_path=drop_path,
            grad_checkpointing=grad_checkpointing,
        )
        before = Shift(self.clips, fold, online)
        rows = residual_rows(self.net, arch)
        apart = 2 if any(len(row.blocks) >= DEEP for row in rows) else 1
        for row in rows:
            for block in list(row.blocks.values())[::apart]:
                first = block if places == "in_place" else next(convolutions(block))
                first.register_forward_pre_hook(before)  # a module around it would rename weights
            if grad_checkpointing:
                self.fill(row, row.modules)
