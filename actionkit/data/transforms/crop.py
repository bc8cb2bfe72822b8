"""Crop and resize on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.kinds import PIXELS

TRIES = 10  # boxes drawn for one clip; the first that lies inside its frames is taken
MAX_CHANNELS = 4  # of OpenCV's INTER_AREA


class CropResize(Transform):
    """Cuts one box out of all frames of a sample and resizes it to `size` (height, width).

    Takes frames [B, V, T, C, H, W] uint8 or float32 of any H x W, larger or smaller than `size`.
    All pixel modalities (rgb, gray, flow) get the same box, in fractions of the frame; the vectors
    of flow are scaled with the picture. Other kinds stay as they are, padded steps become zeros.

    In training the box covers a share `scale` of the frame's area at an aspect ratio (width /
    height) log-uniform in `ratio`, as Inception's random resized crop (arXiv:1409.4842). What is
    drawn knows no frame size: it is ten (area, ratio) pairs, of which the first that fits the frame
    is used, and a place. Fits none, it is the largest box of the nearest allowed ratio. In
    evaluation it is the largest centred box of the output's ratio, its sides times `eval_scale`
    (0.875 gives the usual 224 out of a short side of 256).

    The box is cut first and then resized, which touches no pixel that is thrown away.
    """

    runs_on = "sample"

    def __init__(
        self,
        *,
        size: tuple[int, int] | int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 1.3333),
        eval_scale: float = 1.0,
    ) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 1:
            raise ValueError(f"takes a size of at least 1 pixel, but gets {size}")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"takes a scale (least, most) within 0 and 1, but gets {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"takes a ratio (least, most) above 0, but gets {ratio}")
        if not 0 < eval_scale <= 1:
            raise ValueError(f"takes an eval_scale above 0 and at most 1, but gets {eval_scale}")
        self.scale, self.ratio, self.eval_scale = scale, ratio, eval_scale

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Fixes height and width, except of vectors (1x1).

        Raises ValueError for more than 4 channels, known before any frame is.
        """
        return {name: self._out(name, shape) for name, shape in shapes.items()}

    def _out(self, name: str, shape: Shape) -> Shape:
        if shape.height == shape.width == 1:
            return shape
        if (shape.channels or 1) > MAX_CHANNELS:
            raise ValueError(
                f"resizes frames of at most {MAX_CHANNELS} channels, but {name!r} has "
                f"{shape.channels}; put what stacks them (flow_stack) after it"
            )
        return shape._replace(height=self.height, width=self.width)

    def draw(self, rng: np.random.Generator | None) -> dict[str, Any]:
        """Ten areas and ratios [10] and a place [2] in fractions; nothing in evaluation."""
        if rng is None:
            return {}
        return {
            "area": rng.uniform(*self.scale, TRIES),
            "ratio": np.exp(rng.uniform(np.log(self.ratio[0]), np.log(self.ratio[1]), TRIES)),
            "place": rng.random(2),
        }

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Clips [B, V, T, C, H, W] -> [B, V, T, C, height, width], in channels-last memory."""
        images = {name: clip for name, clip in clips.items() if clip.kind in PIXELS}
        if not images:
            return clips
        height, width = next(iter(images.values())).x.shape[-2:]
        boxes = [self._box(draw, width / height) for draw in draws]
        return {**clips, **{name: self._resize(clip, boxes) for name, clip in images.items()}}

    def _box(self, draw: dict[str, Any], frame: float) -> Box:
        """The box for frames of the ratio `frame`."""
        if not draw:
            return Box.largest(self.width / self.height, frame, self.eval_scale)
        width = np.sqrt(draw["area"] * draw["ratio"] / frame)
        height = np.sqrt(draw["area"] / draw["ratio"] * frame)
        fits = (width <= 1) & (height <= 1)
        if not fits.any():
            return Box.largest(float(np.clip(frame, *self.ratio)), frame)
        first = fits.argmax()
        return Box.placed(float(width[first]), float(height[first]), *draw["place"].tolist())

    def _resize(self, clip: Clip, boxes: list[Box]) -> Clip:
        frames = clip.x.movedim(-3, -1).numpy()  # [B, V, T, H, W, C], a view
        size = (self.height, self.width)
        out = np.zeros((*frames.shape[:3], *size, frames.shape[-1]), frames.dtype)
        for b, box in enumerate(boxes):
            top, bottom = _pixels(box.top, box.bottom, frames.shape[3])
            left, right = _pixels(box.left, box.right, frames.shape[4])
            down, across = self.height / (bottom - top), self.width / (right - left)
            # INTER_LINEAR reads 2x2 pixels: below a half it would skip some, and alias.
            method = cv2.INTER_AREA if max(down, across) < 0.5 else cv2.INTER_LINEAR
            for v, t in clip.mask[b].nonzero().tolist():
                box_of_frame = frames[b, v, t, top:bottom, left:right]
                cv2.resize(box_of_frame, size[::-1], dst=out[b, v, t], interpolation=method)
                if clip.kind == "flow":
                    _scale_flow(out[b, v, t], across, down)
        return clip._replace(x=torch.from_numpy(out).movedim(-1, -3))


class Box(NamedTuple):
    """A box in fractions of the frame."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def placed(cls, width: float, height: float, x: float, y: float) -> Box:
        """A box of this size; x, y from 0 (left, top) to 1 (right, bottom)."""
        left, top = x * (1 - width), y * (1 - height)
        return cls(left, top, left + width, top + height)

    @classmethod
    def largest(cls, ratio: float, frame: float, scale: float = 1.0) -> Box:
        """The largest centred box of a ratio in frames of the ratio `frame`, times `scale`."""
        return cls.placed(scale * min(1, ratio / frame), scale * min(1, frame / ratio), 0.5, 0.5)


def _pixels(start: float, stop: float, size: int) -> tuple[int, int]:
    """The pixels from start to stop, at least one."""
    first = min(round(start * size), size - 1)
    return first, max(round(stop * size), first + 1)


def _scale_flow(field: np.ndarray, across: float, down: float) -> None:
    """Multiplies dx by `across` and dy by `down`, in place; field [H, W, 2n]."""
    factors = np.tile(np.array([across, down], np.float32), field.shape[-1] // 2)
    if field.dtype == np.uint8:  # no motion is 127.5
        levels = (np.arange(256)[None, :, None] - 127.5) * factors + 127.5
        cv2.LUT(field, np.rint(levels).clip(0, 255).astype(np.uint8), dst=field)
    else:
        field *= factors
