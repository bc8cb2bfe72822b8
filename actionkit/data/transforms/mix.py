"""Mixing the clips of a batch in pairs, content and targets alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.kinds import PIXELS


class _Mixing(Transform):
    """Mixes sample b of a batch of B with sample B - 1 - b, by a weight of its own draw.

    The middle one of an odd batch, and so a batch of one, has itself as its partner and stays as it
    is. So do samples whose draw is empty, as all are in evaluation.
    """

    runs_on = "batch"
    mixes = True

    def __init__(self, alpha: float, probability: float) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(f"takes an alpha above 0, but gets {alpha}")
        if not 0 <= probability <= 1:
            raise ValueError(f"takes a probability from 0 to 1, but gets {probability}")
        self.alpha, self.probability = alpha, probability

    def mix(self, target: Tensor, draws: list[dict[str, Any]]) -> Tensor:
        """The weighted sum of targets [B, K] float and those of the partners.

        A sample of which a part has no label (NaN) has none either.
        """
        own = torch.tensor(_weights(draws), device=target.device, dtype=target.dtype)[:, None]
        mine, other = own * target, (1 - own) * target.flip(0)
        return mine.masked_fill(own == 0, 0) + other.masked_fill(own == 1, 0)


class Mixup(_Mixing):
    """Mixes each clip of a batch, and its target, with another one (mixup).

    mixup (arXiv:1710.09412): x = w x_b + (1 - w) x_partner, with w from Beta(alpha, alpha), in a
    share `probability` of the clips; sample b of B has the partner B - 1 - b. Takes float clips
    [B, V, T, C, H, W] of every kind, on any device: put it behind normalize. All modalities, views
    and steps of a sample have the same w.

    A step is real where it is in either clip, and has the time of the clip's own step, or of the
    partner's where the clip is padded. Padding counts as 0: a step that only one has is that one's,
    times its weight. The loss must take targets that are shares of classes, as cross_entropy does.
    """

    def __init__(self, *, alpha: float = 0.2, probability: float = 1.0) -> None:
        super().__init__(alpha, probability)

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """The clip's own weight, or nothing."""
        if rng is None or rng.random() >= self.probability:
            return {}
        return {"weight": rng.beta(self.alpha, self.alpha)}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Mixes the samples that have a draw. Raises ValueError for clips that are not float."""
        weights = _weights(draws)
        return {name: _blend(name, clip, weights) for name, clip in clips.items()}


class CutMix(_Mixing):
    """Pastes a box of another clip of the batch into each, and mixes their targets (cutmix).

    CutMix (arXiv:1905.04899): a box of the frame's own aspect ratio and a share 1 - w of its area,
    w from Beta(alpha, alpha), its centre anywhere, cut off at the border. It is the same in all
    steps and views, a tube, and in fractions of the frame in all pixel modalities. The pixels of
    its edge are mixed by how much of each the box covers; so what remains of the clip, and of its
    target, is the same share to the last digit whatever the size. This is done in a share
    `probability` of the clips; sample b of B has the partner B - 1 - b.

    Takes rgb, gray and flow [B, V, T, C, H, W] uint8 or float on any device. Other kinds beside
    them have no picture to cut: they are mixed linearly by the same share, and must be float.

    Steps, their times and padding are those of the clip itself; at steps where its partner is
    padded nothing is pasted. The loss must take targets that are shares of classes, as
    cross_entropy does.
    """

    def __init__(self, *, alpha: float = 1.0, probability: float = 1.0) -> None:
        super().__init__(alpha, probability)

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Raises ValueError if there is no modality with pixels."""
        if all(shape.height == shape.width == 1 for shape in shapes.values()):
            raise ValueError(_no_picture(shapes))
        return shapes

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """The box (top, left, bottom, right) in fractions and the clip's own weight, or nothing."""
        if rng is None or rng.random() >= self.probability:
            return {}
        half = math.sqrt(1 - rng.beta(self.alpha, self.alpha)) / 2
        centre = rng.random(2)
        (top, left), (bottom, right) = np.clip([centre - half, centre + half], 0, 1).tolist()
        return {
            "box": (top, left, bottom, right),
            "weight": 1 - (bottom - top) * (right - left),
        }

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Changes the samples that have a draw.

        Raises ValueError for clips without a pixel modality, and others that are not float.
        """
        if not any(clip.kind in PIXELS for clip in clips.values()):
            raise ValueError(_no_picture(clips))
        weights = _weights(draws)
        boxes = {b: draws[b]["box"] for b, weight in enumerate(weights) if weight < 1}
        return {
            name: clip._replace(
                x=_paste(clip, boxes) if clip.kind in PIXELS else _blend(name, clip, weights).x
            )
            for name, clip in clips.items()
        }


def _no_picture(modalities: Any) -> str:
    names = ", ".join(map(repr, modalities)) or "nothing"
    return f"cuts boxes out of pictures, but there is only {names}; use mixup"


def _weights(draws: list[dict[str, Any]]) -> list[float]:
    """What remains of each sample itself."""
    last = len(draws) - 1
    return [1.0 if 2 * b == last else draw.get("weight", 1.0) for b, draw in enumerate(draws)]


def _blend(name: str, clip: Clip, weights: list[float]) -> Clip:
    """The clips, each mixed with its partner in all pixels alike."""
    if not clip.x.is_floating_point():
        raise ValueError(
            f"mixes float clips, but {name!r} is {clip.x.dtype} here; put it behind normalize"
        )
    if min(weights) == 1:
        return clip
    own = torch.tensor(weights, device=clip.x.device)
    mine = clip.mask & (own > 0)[:, None, None]
    other = clip.mask.flip(0) & (own < 1)[:, None, None]
    x = clip.x.masked_fill(~clip.mask[..., None, None, None], 0)
    return Clip(
        x.flip(0).lerp_(x, own.to(x.dtype)[:, None, None, None, None, None]),
        mine | other,
        clip.times.where(mine, clip.times.flip(0)).masked_fill(~(mine | other), torch.nan),
        clip.kind,
    )


def _paste(clip: Clip, boxes: dict[int, tuple[float, float, float, float]]) -> Tensor:
    """The frames, in boxes (by sample; top, left, bottom, right) those of the partner."""
    if not boxes:
        return clip.x
    x, mask, (height, width) = clip.x, clip.mask, clip.x.shape[-2:]
    out = x.clone()
    for b, (top, left, bottom, right) in boxes.items():
        rows, down = _covered(top, bottom, height)
        columns, along = _covered(left, right, width)
        cover = (down[:, None] * along).to(x.device)
        own, other = (x[i, ..., rows, columns].float() for i in (b, -1 - b))
        real = (mask[b] & mask[-1 - b])[..., None, None, None]
        mixed = own.lerp(other, cover).where(real, own)
        out[b, ..., rows, columns] = mixed if x.is_floating_point() else mixed.round_()
    return out


def _covered(low: float, high: float, size: int) -> tuple[slice, Tensor]:
    """Which pixels [n] of a line of `size` lie between two fractions of it, and by what part."""
    first, last = math.floor(low * size), math.ceil(high * size)
    pixels = torch.arange(first, last, dtype=torch.float64)
    part = (pixels + 1).clamp(max=high * size) - pixels.clamp(min=low * size)
    return slice(first, last), part.float()
