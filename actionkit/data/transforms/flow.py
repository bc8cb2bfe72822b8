"""Optical flow from neighbouring frames, and its stacking into channels."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.kinds import dequantize_flow, quantize_flow

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
MIN_SIDE = 12  # pixels; DIS refuses smaller frames


class DISFlow(Transform):
    """Adds the modality `name`: dense inverse search flow (arXiv:1603.03590) on the CPU.

    The steps of `source` [B, V, K * (length + 1), 3 or 1, H, W] uint8 are K snippets of length + 1
    successive frames, as the sampler `segments` gives them. Every snippet has `length` forward
    fields, each between two neighbours of its own; they come as [B, V, K * length, 2, H, W] uint8,
    channels dx, dy, clipped to `bound` pixels and stored as `quantize_flow` says. `keep` says what
    becomes of the source. One frame a snippet is kept where a frame and its stack of flow are one
    step: its `first`, or the `middle` one (number length // 2), around which the stack then lies.
    Where a frame and a single field are one step it is those at which a field `starts`, all but
    the last of each snippet. Or `all` are.

    A field is real if both its frames are, and has the time of the first. It is in pixels of the
    frames as they come here: put crop_resize before it.
    """

    runs_on = "sample"

    def __init__(
        self,
        *,
        length: int,
        bound: float = 20.0,
        preset: Literal["ultrafast", "fast", "medium"] = "ultrafast",
        keep: Literal["first", "middle", "starts", "all"] = "first",
        source: str = "rgb",
        name: str = "flow",
    ) -> None:
        if length < 1:
            raise ValueError(f"takes a length of at least 1, but gets {length}")
        if bound <= 0:
            raise ValueError(f"takes a bound above 0 pixels, but gets {bound}")
        self.length, self.bound, self.preset = length, bound, preset
        self.kept = {  # of each snippet
            "first": slice(0, 1),
            "middle": slice(length // 2, length // 2 + 1),
            "starts": slice(length),
            "all": slice(length + 1),
        }[keep]
        self.source, self.name = source, name

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Adds the flow and leaves the kept steps of its source.

        Raises ValueError if the source is not there, its steps are no whole snippets, its frames
        are no pictures or too small, or the flow's name is taken.
        """
        inp = _find(shapes, self.source)
        if self.name in shapes:
            raise ValueError(f"adds {self.name!r}, which is there already; give it another name")
        if inp.channels not in (1, 3, None):
            raise ValueError(
                f"takes frames of 1 or 3 channels, but {self.source!r} has {inp.channels}; put it "
                "before what stacks them"
            )
        if min(inp.height or MIN_SIDE, inp.width or MIN_SIDE) < MIN_SIDE:
            raise ValueError(
                f"takes frames of at least {MIN_SIDE}x{MIN_SIDE} pixels, but gets "
                f"{inp.height or '?'}x{inp.width or '?'}; give crop_resize a larger size"
            )
        if inp.steps is None:
            return {**shapes, self.name: inp._replace(channels=2)}
        size = self.length + 1
        if inp.steps % size:
            raise ValueError(
                f"takes snippets of {size} frames (length + 1), but gets {inp.steps} steps; set "
                f"the sampler's length to {size}"
            )
        snippets, kept = inp.steps // size, len(range(size)[self.kept])
        return {
            **shapes,
            self.source: inp._replace(steps=snippets * kept),
            self.name: inp._replace(steps=snippets * self.length, channels=2),
        }

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Computes the flow of every snippet; nothing is random."""
        x, mask, times, kind = clips[self.source]
        size = (-1, self.length + 1)
        real = mask.unflatten(2, size)
        real = real[..., :-1] & real[..., 1:]  # [B, V, K, length]
        flow = Clip(
            self._fields(x.unflatten(2, size), real).flatten(2, 3),
            real.flatten(2),
            times.unflatten(2, size)[..., :-1].masked_fill(~real, torch.nan).flatten(2),
            "flow",
        )
        x, mask, times = (
            t.unflatten(2, size)[:, :, :, self.kept].flatten(2, 3) for t in (x, mask, times)
        )
        return {**clips, self.source: Clip(x, mask, times, kind), self.name: flow}

    def _fields(self, snippets: Tensor, real: Tensor) -> Tensor:
        """Snippets [B, V, K, length + 1, C, H, W] -> [B, V, K, length, 2, H, W] uint8."""
        dis = cv2.DISOpticalFlow.create(PRESETS[self.preset])
        fields = torch.zeros(*real.shape, 2, *snippets.shape[-2:], dtype=torch.uint8)
        for place in np.ndindex(*real.shape[:3]):
            frames = [_gray(frame) for frame in snippets[place]]
            for i in real[place].nonzero().flatten().tolist():
                field = dis.calc(frames[i], frames[i + 1], None)  # type: ignore[call-overload]
                stored = quantize_flow(torch.from_numpy(field), self.bound)  # [H, W, 2]
                fields[place][i] = stored.permute(2, 0, 1)
        return fields


class FlowStack(Transform):
    """Stacks `length` successive flow fields into channels, the input of a temporal network.

    [B, V, K * length, 2, H, W] -> [B, V, K, 2 * length, H, W], channels dx_1, dy_1, dx_2, dy_2, ...
    (Two-stream networks, arXiv:1406.2199); a view of what dis_flow gives. A stack is real if all
    its fields are, and has the time of the first. `mean_subtraction` takes each field's own mean
    vector from it, against the camera's motion: uint8 then becomes float32, in fractions of the
    flow's bound, -2 to 2, so it is best done on the device, under `per_batch`.
    """

    def __init__(self, *, length: int, mean_subtraction: bool = False, name: str = "flow") -> None:
        if length < 1:
            raise ValueError(f"takes a length of at least 1, but gets {length}")
        self.length, self.mean_subtraction, self.name = length, mean_subtraction, name

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Raises ValueError if the flow is not there, is no flow, or is no whole stacks."""
        inp = _find(shapes, self.name)
        if inp.channels not in (2, None):
            raise ValueError(
                f"stacks flow of 2 channels, but {self.name!r} has {inp.channels}; name a modality "
                "of flow that is not stacked yet"
            )
        if inp.steps is not None and inp.steps % self.length:
            raise ValueError(
                f"stacks {self.length} fields, but gets {inp.steps}; set its length to what the "
                "flow's snippets have"
            )
        steps = None if inp.steps is None else inp.steps // self.length
        return {**shapes, self.name: inp._replace(steps=steps, channels=2 * self.length)}

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Stacks; nothing is random."""
        x, mask, times, kind = clips[self.name]
        if self.mean_subtraction:
            x = dequantize_flow(x) if x.dtype == torch.uint8 else x
            x = x - x.mean((-2, -1), keepdim=True)
        size = (-1, self.length)
        real = mask.unflatten(2, size).all(-1)
        stack = Clip(
            x.unflatten(2, size).flatten(3, 4),
            real,
            times[:, :, :: self.length].masked_fill(~real, torch.nan),
            kind,
        )
        return {**clips, self.name: stack}


def _find(shapes: dict[str, Shape], name: str) -> Shape:
    if name not in shapes:
        there = ", ".join(map(repr, shapes)) or "nothing"
        raise ValueError(f"takes the modality {name!r}, but there is {there}; name one that is")
    return shapes[name]


def _gray(frame: Tensor) -> np.ndarray:
    """A frame [3 or 1, H, W] as [H, W]."""
    if frame.shape[0] == 1:
        return frame[0].numpy()
    return cv2.cvtColor(frame.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
