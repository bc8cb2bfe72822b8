"""A picture as its sharp middle and its coarse whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.fields import find
from actionkit.data.transforms.modalities import require_free


class FoveaContext(Transform):
    """Replaces a modality by its central half, `fovea`, and by the whole at half size, `context`.

    `source` [B, V, T, C, H, W] becomes two modalities [B, V, T, C, H / 2, W / 2], the two streams
    of Karpathy et al. (CVPR 2014, 89x89 of 178x178): together half the pixels. The fovea is cut out
    as it is; a pixel of the context is the mean of 2x2, rounded in uint8. Kind, mask and times stay
    the source's; flow, which is in pixels, is halved with the picture. It runs on any device, uint8
    or float.
    """

    def __init__(
        self, *, source: str = "rgb", fovea: str = "fovea", context: str = "context"
    ) -> None:
        if fovea == context:
            raise ValueError(f"gives two modalities, but both are called {fovea!r}; name one else")
        self.source, self.fovea, self.context = source, fovea, context

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Puts the two in the place of the source.

        Raises ValueError if it is not there, its frames cannot be halved, or a name is taken.
        """
        inp = find(shapes, self.source)
        rest = {name: shape for name, shape in shapes.items() if name != self.source}
        require_free(rest, [self.fovea, self.context])
        if (inp.height or 0) % 2 or (inp.width or 0) % 2:
            raise ValueError(
                f"halves frames of even height and width, but gets {inp.height or '?'}x"
                f"{inp.width or '?'}; give crop_resize an even size"
            )
        half = inp._replace(
            height=None if inp.height is None else inp.height // 2,
            width=None if inp.width is None else inp.width // 2,
        )
        return {**rest, self.fovea: half, self.context: half}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Cuts and halves; nothing is random."""
        source = clips[self.source]
        height, width = source.x.shape[-2] // 2, source.x.shape[-1] // 2
        top, left = height // 2, width // 2
        fovea = source.x[..., top : top + height, left : left + width]
        rest = {name: clip for name, clip in clips.items() if name != self.source}
        return {
            **rest,
            self.fovea: source._replace(x=fovea),
            self.context: source._replace(x=_half(source)),
        }


def _half(clip: Clip) -> Tensor:
    """The clip at half height and width, [B, V, T, C, H / 2, W / 2]."""
    x = clip.x
    mean = (
        x[..., 0::2, 0::2].float() + x[..., 0::2, 1::2] + x[..., 1::2, 0::2] + x[..., 1::2, 1::2]
    ) / 4
    if clip.kind == "flow":
        zero = 127.5 if x.dtype == torch.uint8 else 0
        mean = zero + (mean - zero) / 2
    return mean.round_().to(x.dtype) if x.dtype == torch.uint8 else mean.to(x.dtype)
