"""TV-L1 optical flow in tensor operations: many pairs of frames at once, on any device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import pad

from actionkit.data.transforms.fields import FlowMaker, sample
from actionkit.errors import RunError

LEAST = 16  # pixels; the smallest side of a picture in the pyramid
FLAT = 1e-9  # squared gradient below which a pixel says nothing
ROUNDING = 2e-3  # of 255, what sampling may be off by; without it still frames would move a little


class TVL1Flow(FlowMaker):
    """Adds the modality `name`: TV-L1 flow of frames in tensor operations, on any device.

    The method of Zach, Pock and Bischof 2007 as laid out in IPOL (doi:10.5201/ipol.2013.26), for
    all pairs of a batch at once. It stands where dis_flow does, but under `per_batch`, before
    flow_stack and normalize (or in the workers, where it is some ten times slower than dis_flow).
    The steps of `source` are K snippets of `length` + 1 successive frames [3 or 1, H, W] uint8; of
    each come `length` fields [2, H, W] uint8, channels dx, dy, clipped to `bound` pixels. Which
    fields (`direction`), and which frames stay (`keep`), is told at `FlowMaker`.

    `pyramid` is the number of levels and the size of each as a part of the finer one's;
    `iterations` are the warps of each level and the iterations of each warp; `constants` are tau,
    lambda and theta: the step of the dual variables, the weight of the brightness against
    smoothness (less is smoother), and how loosely the two are tied.

    `compile` fuses an iteration by torch.compile. That takes seconds when first used, in every
    process and once or twice more for other sizes, and wants Triton on a GPU, a C++ compiler on a
    CPU. Flow changes by the rounding of float32 only.
    """

    runs_on = "both"
    least = LEAST

    def __init__(
        self,
        *,
        length: int,
        bound: float = 20.0,
        pyramid: tuple[int, float] = (5, 0.5),
        iterations: tuple[int, int] = (3, 10),
        constants: tuple[float, float, float] = (0.25, 0.15, 0.3),
        compile: bool = False,
        direction: Literal["forward", "bidirectional"] = "forward",
        keep: Literal["first", "middle", "starts", "all"] = "first",
        source: str = "rgb",
        name: str = "flow",
    ) -> None:
        super().__init__(
            length=length, bound=bound, direction=direction, keep=keep, source=source, name=name
        )
        levels, factor = pyramid
        tau, lambda_, theta = constants
        if min(levels, *iterations) < 1:
            raise ValueError(
                "takes at least 1 level, warp and iteration, but gets "
                f"{levels}, {iterations[0]} and {iterations[1]}"
            )
        if not 0 < factor < 1:
            raise ValueError(f"takes a factor between 0 and 1 for its pyramid, but gets {factor}")
        if not 0 < tau <= 0.25 or min(lambda_, theta) <= 0:
            raise ValueError(
                "takes constants tau, lambda and theta above 0, and tau at most 0.25, beyond which "
                f"the iteration does not converge, but gets {tau}, {lambda_} and {theta}"
            )
        self.levels, self.factor, self.iterations = levels, factor, iterations
        self.tau, self.lambda_, self.theta = tau, lambda_, theta
        self.compile = compile

    def fields(self, snippets: Tensor, real: Tensor) -> Tensor:
        """Snippets [B, V, K, length + 1, C, H, W] -> [B, V, K, length, 2, H, W] uint8."""
        return self.fields_of_pairs(snippets, real, self._estimate)

    def _estimate(self, first: Tensor, second: Tensor) -> Tensor:
        try:
            return tvl1(
                gray(first),
                gray(second),
                levels=self.levels,
                factor=self.factor,
                iterations=self.iterations,
                tau=self.tau,
                lambda_=self.lambda_,
                theta=self.theta,
                compile=self.compile,
            )
        except torch._dynamo.exc.TorchDynamoException as error:
            why = " ".join(str(error).partition("\n\n")[0].split())
            raise RunError(
                f"tvl1_flow cannot be compiled ({why}); set its compile: false"
            ) from error


def gray(frames: Tensor) -> Tensor:
    """Frames [N, 3 or 1, H, W] uint8 as float32 [N, 1, H, W], 0 to 255, whole numbers as cv2's."""
    if frames.shape[1] == 1:
        return frames.float()
    red, green, blue = frames.int().split(1, 1)
    return ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15).float()


def tvl1(
    first: Tensor,
    second: Tensor,
    *,
    levels: int = 5,
    factor: float = 0.5,
    iterations: tuple[int, int] = (3, 10),
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    compile: bool = False,
) -> Tensor:
    """The flow [N, 2, H, W] in pixels, dx and dy, that leads from `first` to `second`.

    Both are pictures [N, 1, H, W] float, 0 to 255. A point at x in the first is at x + flow(x) in
    the second. No pair knows of another.
    """
    flow = first.new_zeros(len(first), 2, 1, 1)
    step = compiled() if compile else iterate
    pictures = (_pyramid(x, levels, factor) for x in (first, second))
    for one, other in zip(*pictures, strict=True):
        flow = _resize_flow(flow, one.shape[-2:])
        across, down = torch.zeros_like(flow), torch.zeros_like(flow)
        for _ in range(iterations[0]):
            data = linearize(one, other, flow)
            for _ in range(iterations[1]):
                flow, across, down = step(
                    flow, across, down, data, tau=tau, lambda_=lambda_, theta=theta
                )
    return flow


class Brightness(NamedTuple):
    """What the second picture, warped, lacks of the first: constant + gradient * flow."""

    constant: Tensor  # [N, 1, H, W]
    gradient: Tensor  # [N, 2, H, W] of the warped picture; 0 where the flow leads out of it
    inverse: Tensor  # [N, 1, H, W], 1 / |gradient|^2, or 0 where that is nothing


def linearize(first: Tensor, second: Tensor, flow: Tensor) -> Brightness:
    """The change of brightness along the flow, to the first order around the flow given."""
    height, width = flow.shape[-2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)  # [N, H, W]
    warped = sample(second, x, y)
    padded = pad(warped, (1, 1, 1, 1), mode="replicate")
    gradient = torch.cat(
        (
            padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2],
            padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1],
        ),
        1,
    ).mul_(inside[:, None] / 2)
    square = gradient.square().sum(1, keepdim=True)
    inverse = torch.where(square > FLAT, 1 / square, 0)
    change = functional.hardshrink(warped - first, ROUNDING)
    return Brightness(change - (gradient * flow).sum(1, keepdim=True), gradient, inverse)


def iterate(
    flow: Tensor,
    across: Tensor,
    down: Tensor,
    data: Brightness,
    *,
    tau: float,
    lambda_: float,
    theta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of all three variables: towards the brightness, towards smoothness, and the duals.

    flow [N, 2, H, W]; across and down [N, 2, H, W] are the dual variables of its derivatives along
    x and y, whose last column and row stay 0. Returns the new three.
    """
    error = (data.gradient * flow).sum(1, keepdim=True).add_(data.constant)
    step = error.mul_(data.inverse).clamp_(-lambda_ * theta, lambda_ * theta)
    divergence = across + down
    divergence[..., 1:] -= across[..., :-1]
    divergence[..., 1:, :] -= down[..., :-1, :]
    flow = flow.addcmul(data.gradient, step, value=-1).add_(divergence, alpha=theta)

    dx, dy = torch.zeros_like(flow), torch.zeros_like(flow)
    torch.sub(flow[..., 1:], flow[..., :-1], out=dx[..., :-1])
    torch.sub(flow[..., 1:, :], flow[..., :-1, :], out=dy[..., :-1, :])
    most = dx.square().addcmul_(dy, dy).sqrt_().mul_(tau / theta).add_(1)
    across = across.add(dx, alpha=tau / theta).div_(most)
    down = down.add(dy, alpha=tau / theta).div_(most)
    return flow, across, down


def iterate_pure(
    flow: Tensor,
    across: Tensor,
    down: Tensor,
    data: Brightness,
    *,
    tau: float,
    lambda_: float,
    theta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `iterate` does, but never in place: of this a compiler makes two passes over memory."""
    error = (data.gradient * flow).sum(1, keepdim=True) + data.constant
    step = (error * data.inverse).clamp(-lambda_ * theta, lambda_ * theta)
    left, above = pad(across[..., :-1], (1, 0)), pad(down[..., :-1, :], (0, 0, 1, 0))
    flow = flow - data.gradient * step + theta * (across + down - left - above)

    dx = pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    dy = pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    most = 1 + tau / theta * (dx.square() + dy.square()).sqrt()
    return flow, (across + tau / theta * dx) / most, (down + tau / theta * dy) / most


@cache
def compiled() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """`iterate_pure`, compiled when first called.

    Levels and numbers of pairs differ, so sizes are free in what is compiled; it is done again only
    for a single pair, and when the first pictures were square and others are not.
    """
    return torch.compile(iterate_pure, dynamic=True)


def _pyramid(pictures: Tensor, levels: int, factor: float) -> list[Tensor]:
    """Pictures [N, 1, H, W] in falling sizes, the smallest first."""
    found = [pictures]
    height, width = pictures.shape[-2:]
    for level in range(1, levels):
        size = [round(height * factor**level), round(width * factor**level)]
        if min(size) < LEAST:
            break
        found.append(functional.interpolate(found[-1], size, mode="bilinear", antialias=True))
    return found[::-1]


def _resize_flow(flow: Tensor, size: torch.Size) -> Tensor:
    """Flow [N, 2, h, w] on a picture of another size, in its pixels."""
    height, width = flow.shape[-2:]
    resized = functional.interpolate(flow, size, mode="bilinear")
    resized[:, 0] *= size[1] / width
    resized[:, 1] *= size[0] / height
    return resized
