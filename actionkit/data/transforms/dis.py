"""Dense inverse search: the quick optical flow of the CPU."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.data.transforms.fields import FlowMaker
from actionkit.data.transforms.kinds import quantize_flow

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DISFlow(FlowMaker):
    """Adds the modality `name`: dense inverse search flow (arXiv:1603.03590) on the CPU.

    The steps of `source` are K snippets of `length` + 1 successive frames [3 or 1, H, W] uint8; of
    each come `length` fields [2, H, W] uint8, channels dx, dy, clipped to `bound` pixels. Which
    fields (`direction`), and which frames stay (`keep`), is told at `FlowMaker`. In the workers,
    under `per_sample`, behind crop_resize; tvl1_flow takes its place on a device.
    """

    runs_on = "sample"
    least = 12

    def __init__(
        self,
        *,
        length: int,
        bound: float = 20.0,
        preset: Literal["ultrafast", "fast", "medium"] = "ultrafast",
        direction: Literal["forward", "bidirectional"] = "forward",
        keep: Literal["first", "middle", "starts", "all"] = "first",
        source: str = "rgb",
        name: str = "flow",
    ) -> None:
        super().__init__(
            length=length, bound=bound, direction=direction, keep=keep, source=source, name=name
        )
        self.preset = preset

    def fields(self, snippets: Tensor, real: Tensor) -> Tensor:
        """Snippets [B, V, K, length + 1, C, H, W] -> [B, V, K, length, 2, H, W] uint8."""
        dis = cv2.DISOpticalFlow.create(PRESETS[self.preset])
        fields = torch.zeros(*real.shape, 2, *snippets.shape[-2:], dtype=torch.uint8)
        for place in np.ndindex(*real.shape[:3]):
            frames = [_gray(frame) for frame in snippets[place]]
            for i in real[place].nonzero().flatten().tolist():
                pair = frames[self.starts[i]], frames[self.ends[i]]
                field = dis.calc(*pair, None)  # type: ignore[call-overload]
                stored = quantize_flow(torch.from_numpy(field), self.bound)  # [H, W, 2]
                fields[place][i] = stored.permute(2, 0, 1)
        return fields


def _gray(frame: Tensor) -> np.ndarray:
    """A frame [3 or 1, H, W] as [H, W]."""
    if frame.shape[0] == 1:
        return frame[0].numpy()
    return cv2.cvtColor(frame.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
