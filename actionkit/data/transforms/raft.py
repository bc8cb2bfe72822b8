"""RAFT: optical flow by a trained network."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models import WeightsEnum, optical_flow

from actionkit.data.transforms.fields import FlowMaker

SIZES = {
    "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights),
    "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights),
}
STRIDE, LEAST = 8, 128  # pixels; a side is a multiple of the one, and at least the other


class RAFTFlow(FlowMaker):
    """Adds the modality `name`: flow by a trained RAFT network (arXiv:2003.12039) on the device.

    torchvision's RAFT, `size` small or large, with `weights` from a file (a state dict of that
    network) or, where `pretrained`, with torchvision's own, downloaded once when the first batch
    comes. It is not trained further. It stands where tvl1_flow does, under `per_batch`. The steps
    of `source` are K snippets of `length` + 1 successive frames [3 or 1, H, W] uint8; of each come
    `length` fields [2, H, W] uint8, channels dx, dy, clipped to `bound` pixels. Which fields
    (`direction`), and which frames stay (`keep`), is told at `FlowMaker`. `updates` is how often
    the network refines a field. Frames are padded with their border to sides of at least 128 pixels
    that are multiples of 8.
    """

    runs_on = "batch"
    least = 16
    at_once = 32

    def __init__(
        self,
        *,
        length: int,
        bound: float = 20.0,
        size: Literal["small", "large"] = "small",
        weights: Path | None = None,
        pretrained: bool = False,
        updates: int = 12,
        direction: Literal["forward", "bidirectional"] = "forward",
        keep: Literal["first", "middle", "starts", "all"] = "first",
        source: str = "rgb",
        name: str = "flow",
    ) -> None:
        super().__init__(
            length=length, bound=bound, direction=direction, keep=keep, source=source, name=name
        )
        if (weights is None) != pretrained:
            raise ValueError(
                "takes its weights from one place, but gets "
                + ("two" if pretrained else "none")
                + "; give either weights: FILE or pretrained: true"
            )
        if weights is not None and not weights.is_file():
            raise ValueError(
                f"takes weights from a file, but there is no file {weights}; give another, or "
                "pretrained: true"
            )
        if updates < 1:
            raise ValueError(f"takes at least 1 update, but gets {updates}")
        self.size, self.weights, self.updates = size, weights, updates

    def fields(self, snippets: Tensor, real: Tensor) -> Tensor:
        """Snippets [B, V, K, length + 1, C, H, W] -> [B, V, K, length, 2, H, W] uint8.

        Raises ValueError for weights that cannot be had or do not fit.
        """
        return self.fields_of_pairs(snippets, real, self._estimate)

    def _estimate(self, first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        border = _border(width) + _border(height)  # left, right, top, bottom
        network = _network(self.size, self.weights, first.device)
        frames = (_prepare(x, border) for x in (first, second))
        flow = network(*frames, num_flow_updates=self.updates)[-1]
        left, top = border[0], border[2]
        return flow[..., top : top + height, left : left + width]


def _border(side: int) -> tuple[int, int]:
    """Pixels to add before and behind a side."""
    missing = max(LEAST, -(-side // STRIDE) * STRIDE) - side
    return missing // 2, missing - missing // 2


def _prepare(frames: Tensor, border: tuple[int, int, int, int]) -> Tensor:
    """Frames [N, 3 or 1, H, W] uint8 as the network takes them: three channels, -1 to 1, padded."""
    frames = frames.expand(-1, 3, -1, -1).float().div_(127.5).sub_(1)
    return pad(frames, border, mode="replicate")


@functools.lru_cache(maxsize=2)  # training and evaluation share one
def _network(size: str, weights: Path | None, device: torch.device) -> nn.Module:
    make, published = SIZES[size]
    with torch.device("meta"):  # so that nothing is drawn
        network = make()
    state = _fetch(published) if weights is None else _read(weights)
    try:
        network.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).split("\n")[-1].strip()
        raise ValueError(
            f"cannot use {weights} for RAFT {size}: {reason}; give the state dict of torchvision's "
            f"raft_{size}, or another size"
        ) from error
    return network.to(device).eval().requires_grad_(False)


def _fetch(published: type[WeightsEnum]) -> Mapping[str, Tensor]:
    try:
        return published.DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot get torchvision's weights of RAFT: {error}; download them beforehand where "
            "there is internet, and give weights: FILE"
        ) from error


def _read(weights: Path) -> Mapping[str, Tensor]:
    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0].strip()
        raise ValueError(
            f"cannot read {weights}: {reason}; give a state dict saved by torch.save"
        ) from error
