"""What looks along time inside of a 2-D network of timm: it must know the clips of its frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actionkit.backbones.timm import Timm, _maps
from actionkit.contracts import Features, Shape, pack, unpack
from actionkit.layers.steps import rank


class Layout:
    """How frames in one axis, [N, ...] as `pack` lays them, stand in their clips.

    Args:
        batch: clips, B.
        steps: steps of each, T.
        mask: [B, T] bool, True = a real step; None = all are, so N is B * T.
        whole: all steps are among the frames, padded ones too, as in an exported network.
    """

    def __init__(
        self, batch: int, steps: int, mask: Tensor | None = None, *, whole: bool = False
    ) -> None:
        self.batch, self.steps, self.mask, self.whole = batch, steps, mask, whole
        if mask is None:
            return
        self.places = None if whole else mask.flatten().nonzero().squeeze(1)  # [N]
        self._next, self._previous = self._neighbours(mask, 1), self._neighbours(mask, -1)

    @staticmethod
    def of(features: Features) -> Layout:
        """How `pack` lays the frames of features."""
        batch, steps = features.mask.shape
        if torch.compiler.is_exporting():
            return Layout(batch, steps, features.mask, whole=True)
        return Layout(batch, steps, None if bool(features.mask.all()) else features.mask)

    def grid(self, x: Tensor) -> Tensor:
        """[B, T, ...] of x [N, ...], zeros at padded steps; a view where all are real."""
        if self.mask is None or self.places is None:
            grid = x.unflatten(0, (self.batch, self.steps))
            if self.mask is None:
                return grid
            return grid.masked_fill(~self.mask.view(*self.mask.shape, *[1] * (x.ndim - 1)), 0)
        full = x.new_zeros(self.batch * self.steps, *x.shape[1:])
        return full.index_copy(0, self.places, x).unflatten(0, (self.batch, self.steps))

    def pack(self, grid: Tensor) -> Tensor:
        """[N, ...] of grid [B, T, ...]: the inverse of `grid`."""
        flat = grid.flatten(0, 1)
        return flat if self.mask is None or self.places is None else flat[self.places]

    def ahead(self, x: Tensor) -> Tensor:
        """Of x [N, ...] what stands at the clip's next real step; 0 at the last."""
        if self.mask is not None:
            return self._at(x, *self._next)
        grid = x.unflatten(0, (self.batch, self.steps))
        return F.pad(grid[:, 1:], (*[0] * (2 * x.ndim - 2), 0, 1)).flatten(0, 1)

    def behind(self, x: Tensor) -> Tensor:
        """Of x [N, ...] what stands at the clip's previous real step; 0 at the first."""
        if self.mask is not None:
            return self._at(x, *self._previous)
        grid = x.unflatten(0, (self.batch, self.steps))
        return F.pad(grid[:, :-1], (*[0] * (2 * x.ndim - 2), 1, 0)).flatten(0, 1)

    @staticmethod
    def _at(x: Tensor, there: Tensor, known: Tensor) -> Tensor:
        return x[there].masked_fill(~known.view(-1, *[1] * (x.ndim - 1)), 0)

    def _neighbours(self, mask: Tensor, by: int) -> tuple[Tensor, Tensor]:
        """For each frame the frame `by` real steps on, [N] int64, and whether it has one, [N]."""
        order = rank(mask)
        match = (order[:, None] == order[:, :, None] + by) & mask[:, None]  # [B, T, T]
        first = torch.arange(self.batch, device=mask.device)[:, None] * self.steps
        there, known = (first + match.long().argmax(2)).flatten(), match.any(2).flatten()
        if self.places is None:
            return there, known
        number = (mask.flatten().cumsum(0) - 1).clamp(min=0)  # of a step among the real ones
        return number[there[self.places]], known[self.places]


class Clips:
    """Where a part inside a network reads how the frames that pass stand in their clips.

    It is known while the forward runs, and forgotten then: nothing of a batch stays.
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Of the frames that pass. Raises RuntimeError where none do."""
        if self._layout is None:
            raise RuntimeError("this network looks along clips; call its backbone, not its net")
        return self._layout

    @contextmanager
    def of(self, layout: Layout) -> Iterator[None]:
        """Frames of this layout pass."""
        before, self._layout = self._layout, layout
        try:
            yield
        finally:
            self._layout = before


class Recomputed(nn.Sequential):
    """Modules in a row whose activations are computed again, in the layout of their own forward."""

    def __init__(self, modules: Mapping[str, nn.Module], clips: Clips) -> None:
        super().__init__()
        self.clips = clips
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """What the modules make of x [N, C, H, W]."""
        for module in self:
            if self.training and torch.is_grad_enabled():
                layout = self.clips.layout
                x = checkpoint(self._run, module, x, layout, use_reentrant=False)
            else:
                x = module(x)
        return x

    def _run(self, module: Callable[[Tensor], Tensor], x: Tensor, layout: Layout) -> Tensor:
        with self.clips.of(layout):
            return module(x)


class Row(NamedTuple):
    """Residual blocks behind each other in an nn.Sequential."""

    name: str  # of the nn.Sequential
    modules: dict[str, nn.Module]  # all in it, by their names there
    blocks: dict[str, nn.Module]  # those that are residual blocks
    channels: int | None  # behind each block; None = timm does not tell


class OverTime(Timm):
    """A network of timm inside which parts look along the clips: they read `self.clips.layout`.

    Its arguments are those of Timm.
    """

    def __init__(
        self, inp: Shape, *, arch: str, pretrained: bool, drop_path: float, grad_checkpointing: bool
    ) -> None:
        super().__init__(inp, arch=arch, pretrained=pretrained, drop_path=drop_path)
        self.clips, self.again = Clips(), grad_checkpointing

    def forward(self, features: Features) -> Features:
        """Maps frames [B, T, C, H, W] to maps [B, T, C', h, w], zeros at padded steps."""
        frames = pack(features).contiguous(memory_format=torch.channels_last)  # [N, C, H, W]
        layout = Layout.of(features)
        with self.clips.of(layout):
            maps = _maps(self.net, frames)
        return unpack(maps, features)

    def fill(self, row: Row, modules: dict[str, nn.Module]) -> None:
        """Has modules stand in a row, by their names there."""
        new = Recomputed(modules, self.clips) if self.again else nn.Sequential(OrderedDict(modules))
        self.net.set_submodule(row.name, new)


def residual_rows(net: Any, arch: str) -> list[Row]:
    """The residual blocks of a network, from the input on. Raises ValueError where it has none."""
    widths = {info["module"]: info["num_chs"] for info in net.feature_info}
    rows = []
    for name, row in net.named_modules():
        modules = dict(row.named_children())
        blocks = {n: module for n, module in modules.items() if _is_residual(module)}
        if blocks and type(row) is nn.Sequential:
            stage = next((w for w in widths if f"{name}.".startswith(f"{w}.")), None)
            rows.append(Row(name, modules, blocks, widths.get(stage)))
    if not rows:
        raise ValueError(
            f"finds no rows of residual blocks in '{arch}'; choose an arch that has them, such as "
            "resnet50"
        )
    return rows


def _is_residual(module: nn.Module) -> bool:
    """Whether a module of timm is one block of convolutions with a way around them."""
    around = any(hasattr(module, name) for name in ("downsample", "shortcut", "has_skip"))
    whole = not hasattr(module, "blocks") and getattr(module, "has_skip", True)
    return around and whole and any(True for _ in convolutions(module))


def convolutions(block: nn.Module) -> Iterator[nn.Module]:
    """The children of a residual block's branch that are or hold convolutions, in their order."""
    for name, child in block.named_children():
        own = any(isinstance(module, nn.Conv2d) for module in child.modules())
        if own and name not in ("downsample", "shortcut"):
            yield child
