"""The hard-wired layer of the first 3-D networks: gray, its gradients, and flow."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.fields import find
from actionkit.data.transforms.gray import as_gray, require_pictures
from actionkit.data.transforms.kinds import quantize_flow
from actionkit.data.transforms.modalities import require_free, snippets

ADDED = ("gray", "gradients", "flow")


class GrayGradientsFlow(Transform):
    """Replaces frames by `gray`, `gradients` and `flow`, the hard-wired layer of Ji et al. (2013).

    The steps of `source` [B, V, K * length, 3 or 1, H, W] uint8 are K snippets of `length` frames,
    as the samplers `segments` and `strided` give them. They become, all uint8:

    - `gray` [B, V, K * length, 1, H, W];
    - `gradients` [B, V, K * length, 2, H, W], channels d/dx, d/dy: half the difference of the two
      neighbours, at the border of the pixel itself and its neighbour, in gray levels a pixel,
      clipped to `gradient_bound`;
    - `flow` [B, V, K * (length - 1), 2, H, W], channels dx, dy, in pixels, clipped to `bound`: that
      of `dis_flow`, in the place of the paper's.

    These are its 5 * length - 2 maps of a snippet: 33 of 7 frames. Each kind of map stays a
    modality of its own, because no convolution crosses their borders. Gradients are of kind flow,
    for they are vectors too: a mirrored d/dx changes its sign, and both are stored with zero at
    127.5, which `normalize` makes a fraction of the bound. They are in pixels of the frames as they
    come here: put crop_resize before it.
    """

    runs_on = "sample"

    def __init__(
        self,
        *,
        length: int = 7,
        bound: float = 20.0,
        gradient_bound: float = 32.0,
        preset: Literal["ultrafast", "fast", "medium"] = "ultrafast",
        source: str = "rgb",
    ) -> None:
        if length < 2:
            raise ValueError(f"takes a length of at least 2, for flow lies between frames, but gets"
                             f" {length}")  # fmt: skip
        if gradient_bound <= 0:
            raise ValueError(f"takes a gradient_bound above 0, but gets {gradient_bound}")
        self.length, self.gradient_bound, self.source = length, gradient_bound, source
        self.flow = DISFlow(
            length=length - 1, bound=bound, preset=preset, keep="all", source="gray", name="flow"
        )

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Puts the three in the place of the source.

        Raises ValueError if it is not there, its steps are no whole snippets, its frames are no
        pictures or too small, or a name is taken.
        """
        inp = find(shapes, self.source)
        rest = {name: shape for name, shape in shapes.items() if name != self.source}
        require_free(rest, ADDED)
        snippets(inp.steps, self.length, "length")
        require_pictures(inp, self.source)
        flow = self.flow.out({"gray": inp._replace(channels=1)})
        gradients = inp._replace(channels=2)
        return {**rest, "gray": flow["gray"], "gradients": gradients, "flow": flow["flow"]}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Computes all maps; nothing is random."""
        source = clips[self.source]
        rest = {name: clip for name, clip in clips.items() if name != self.source}
        gray = as_gray(source)
        slopes = quantize_flow(_gradients(gray.x), self.gradient_bound)
        gradients = source._replace(x=slopes, kind="flow")
        flow = self.flow.apply({"gray": gray}, draws)["flow"]
        return {**rest, "gray": gray, "gradients": gradients, "flow": flow}


def _gradients(gray: Tensor) -> Tensor:
    """Gray [..., 1, H, W] uint8 -> d/dx, d/dy [..., 2, H, W] float32."""
    wide = torch.cat([gray[..., :1], gray, gray[..., -1:]], -1).float()
    high = torch.cat([gray[..., :1, :], gray, gray[..., -1:, :]], -2).float()
    across = wide[..., 2:] - wide[..., :-2]
    down = high[..., 2:, :] - high[..., :-2, :]
    return torch.cat([across, down], -3) / 2
