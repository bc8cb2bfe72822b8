"""A spatial transformer: looks at maps, and turns, moves and scales them to where it wants them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionkit.contracts import Aggregator, Features, Make, Part, Shape, pack, unpack
from actionkit.layers.steps import at, mean, over, real_first

START = {"affine": [1, 0, 0, 0, 1, 0], "attention": [1, 0, 0], "translation": [0, 0]}
PLACES = {  # where a b tx, c d ty stand among the numbers of each kind, behind which stand 0 and 1
    "affine": [0, 1, 2, 3, 4, 5],
    "attention": [0, -2, 1, -2, 0, 2],
    "translation": [-1, -2, 0, -2, -1, 1],
}
LEAST = 1e-3  # of a determinant: what is squeezed more has its vectors stretched no further


class STN(Aggregator):
    """Warps the maps of each step as a small network asks: x [B, T, C, H, W] to the same or `size`.

    The spatial transformer of Jaderberg et al. 2015 (arXiv:1506.02025), for a stream's `before` or
    between parts that hand on maps. From each real step `localise` and a linear layer find
    theta = (a b tx, c d ty). The value at a place (x, y) of the result is the bilinear one at
    (a x + b y + tx, c x + d y + ty) of the input, both from -1 to 1 between the outer edges of the
    picture. It starts as the identity; tanh keeps tx and ty within the picture. `attention` has
    a = d and b = c = 0, `translation` (tx, ty) alone. Spatial transformers are usually trained at a
    tenth of the rate, by the node's `lr: 0.1`.

    Without `localise` it is the usual network: convolution 7x7 to 8 maps, max-pool 2, ReLU, 5x5 to
    10, max-pool 2, ReLU, and a layer of 32 with ReLU. Theta is found in float32 at least, and the
    maps read in it, since bfloat16 knows places to half a pixel of 256 only. On a GPU its gradient
    adds up in no fixed order, which `trainer.deterministic` refuses.

    `extra["theta"]` [B, T, 2, 3] leaves, in the place of that of a transformer before it; the image
    of the corners (+-1, +-1) is where it looks. Boxes are handed on as they are: they go on saying
    where something was before the warp.

    Args:
        inp: maps; of 18x18 or more without `localise`.
        kind: what theta may be.
        over_time: `each` = a theta for every step; `tied` = one a clip, of the mean of what
            `localise` finds in the real steps.
        vectors: the channels are dx and dy of flow in turn, in pixels or any unit in proportion, so
            they are turned and scaled with the picture.
        size: rows and columns that leave, a number for both; None = as they come. Less than half of
            what comes skips pixels.
        padding: what is seen outside of the picture: zeros, or its outermost pixels.
        smooth: factor on the penalty, the squared difference of the thetas of a real step and the
            next, summed over the clip; the mean over clips.
        localise: parts that make one vector a step of the maps, or one a clip.

    Raises:
        ValueError: no maps, or such as `localise` cannot take; vectors of an odd number of
            channels; a size below 1; smooth below 0, or where there is one theta a clip.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        kind: Literal["affine", "attention", "translation"] = "affine",
        over_time: Literal["each", "tied"] = "each",
        vectors: bool = False,
        size: tuple[int, int] | int | None = None,
        padding: Literal["zeros", "border"] = "zeros",
        smooth: float = 0.0,
        localise: Make[Part] | None = None,
    ) -> None:
        super().__init__()
        _require_maps(inp, vectors)
        self.size = (size, size) if isinstance(size, int) else size
        if self.size and min(self.size) < 1:
            raise ValueError(f"takes a size of 1 or more rows and columns, but got {size}")
        self.kind, self.vectors = kind, vectors
        self.padding, self.smooth = padding, smooth
        self.localise = localise(inp) if localise else Localise(inp)
        found = self.localise.out
        self.tied = over_time == "tied" or (found.steps == 1 != inp.steps)
        _require_found(found, inp, self.tied)
        if smooth < 0 or (smooth and self.tied):
            raise ValueError(
                f"smooths the thetas of a clip's steps by a factor of 0 or more, but got {smooth}"
                f"{' for one theta a clip' if self.tied else ''}; set smooth to 0"
            )
        self.theta = nn.Linear(found.require_channels(), len(START[kind]))
        self.reset_parameters()
        height, width = self.size or (inp.height, inp.width)
        self.out = inp._replace(height=height, width=width)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Starts as the identity, whatever is seen."""
        nn.init.zeros_(self.theta.weight)
        self.theta.bias.copy_(torch.tensor(START[self.kind]))

    def forward(self, features: Features) -> Features:
        """Warps the maps of real steps; zeros stand at padded ones."""
        found = self.localise(features)
        kept = found._replace(x=features.x, mask=features.mask)
        with torch.autocast(features.x.device.type, enabled=False):
            theta = self._theta(found).expand(-1, features.x.shape[1], -1)  # [B, T, 6]
            frames, thetas = pack(kept), pack(kept._replace(x=theta[..., None, None]))
            warped = unpack(self._warp(frames, thetas.reshape(-1, 2, 3)), kept)
        own = {"theta": theta.unflatten(2, (2, 3))}
        warped = warped._replace(extra={**(found.extra or {}), **own})
        if not self.smooth:
            return warped
        penalty = self.smooth * _roughness(theta, features.mask)
        before = 0 if found.penalty is None else found.penalty
        return warped._replace(penalty=before + penalty)

    def _theta(self, found: Features) -> Tensor:
        """The numbers a b tx c d ty, [B, T or 1, 6] in float32 or wider, of what was found."""
        x = found.x.to(torch.promote_types(found.x.dtype, torch.float32))
        x = mean(x, found.mask) if self.tied else x.masked_fill(~over(found.mask), 0)
        numbers = self.theta(x.flatten(2))
        numbers = F.pad(F.pad(numbers, (0, 1)), (0, 1), value=1)  # no copy from the host
        a, b, tx, c, d, ty = (numbers[..., place] for place in PLACES[self.kind])
        return torch.stack([a, b, tx.tanh(), c, d, ty.tanh()], 2)

    def _warp(self, x: Tensor, theta: Tensor) -> Tensor:
        """Maps x [N, C, H, W] read at the places that theta [N, 2, 3] asks for."""
        size = self.size or x.shape[2:]
        wide = x.to(theta.dtype)
        grid = places(theta, *size)
        y = F.grid_sample(wide, grid, padding_mode=self.padding, align_corners=False)
        if self.vectors:
            y = turn(y, theta, before=x.shape[2:])
        return y.to(x.dtype)


class Localise(Part):
    """What an STN looks at maps with, if nothing else is said: to [B, T, 32, 1, 1]."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        if min(inp.height or 0, inp.width or 0) < 18:
            raise ValueError(
                "finds its transform by convolutions over maps of one size, 18x18 or larger, but "
                f"gets {inp.height or '?'}x{inp.width or '?'}; give it parts that take them, as "
                "localise: [spatial_pool, {use: fc, width: 32}]"
            )
        height, width = (((n - 6) // 2 - 4) // 2 for n in (inp.height or 0, inp.width or 0))
        self.net = nn.Sequential(
            nn.Conv2d(inp.require_channels(), 8, 7),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(8, 10, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(10 * height * width, 32),
            nn.ReLU(),
        )
        self.out = Shape(inp.steps, 32, 1, 1)

    def forward(self, features: Features) -> Features:
        """Looks at every real step."""
        return unpack(self.net(pack(features))[..., None, None], features)


def places(theta: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of a result is read, (x, y) [N, height, width, 2], for theta [N, 2, 3].

    Not by torch's affine_grid, a product of matrices, which a GPU may make in TF32.
    """
    x, y = (
        (2 * torch.arange(n, device=theta.device, dtype=theta.dtype) + 1) / n - 1
        for n in (width, height)
    )
    across, down, shift = theta[:, None, None].unbind(-1)  # [N, 1, 1, 2]
    return across * x[:, None] + down * y[:, None, None] + shift


def turn(x: Tensor, theta: Tensor, *, before: torch.Size) -> Tensor:
    """Vectors (dx, dy) in turn, x [N, C, H, W], as they are in a picture warped by theta [N, 2, 3].

    A result's place p stands for A p of the input, so what moves by v there moves by A^-1 v here,
    in units of half a picture: dx and dy go there and back with the widths and heights of both.
    """
    a, b, _, c, d, _ = theta.flatten(1)[..., None, None, None].unbind(1)  # [N, 1, 1, 1]
    det = a * d - b * c
    det = torch.where(det.abs() < LEAST, torch.where(det < 0, -LEAST, LEAST), det)
    height, width = x.shape[2] / 2, x.shape[3] / 2
    dx, dy = x[:, 0::2] / (before[1] / 2), x[:, 1::2] / (before[0] / 2)
    turned = [(d * dx - b * dy) / det * width, (a * dy - c * dx) / det * height]
    return torch.stack(turned, 2).flatten(1, 2)


def _roughness(theta: Tensor, mask: Tensor) -> Tensor:
    """Squared differences of theta [B, T, 6] from a real step to the next, per clip."""
    order = real_first(mask)
    steps, real = at(theta, order), mask.gather(1, order)
    apart = (steps[:, 1:] - steps[:, :-1]).square().sum(2)
    return apart.masked_fill(~real[:, 1:], 0).sum() / len(mask)


def _require_maps(inp: Shape, vectors: bool) -> None:
    channels = inp.require_channels()
    if inp.height == 1 and inp.width == 1:
        raise ValueError("warps maps, but gets vectors of 1x1; put it before what pools them")
    if vectors and channels % 2:
        raise ValueError(
            f"takes dx and dy in turn as its channels, but gets {channels}; put it in a stream "
            "that takes flow, or leave vectors out"
        )


def _require_found(found: Shape, inp: Shape, tied: bool) -> None:
    if found.height != 1 or found.width != 1:
        raise ValueError(
            f"finds its transform in one vector a step, but localise leaves maps of "
            f"{found.height or '?'}x{found.width or '?'}; put flatten or spatial_pool behind it"
        )
    if not tied and found.steps != inp.steps:
        raise ValueError(
            f"finds a transform for each of {inp.steps or '?'} steps, but localise leaves "
            f"{found.steps or '?'}; let it keep them, or set over_time to tied"
        )
