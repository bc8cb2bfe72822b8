"""Boxes of frames: where they lie, and how they are cut out and resized."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.kinds import PIXELS

MAX_CHANNELS = 4  # of OpenCV's INTER_AREA
TRIES = 10  # boxes drawn for one clip; the first that lies inside its frames is taken


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
    def of_short_side(cls, width: float, height: float, x: float, y: float, *, frame: float) -> Box:
        """The same, its size in short sides of frames of the ratio (width / height) `frame`."""
        return cls.placed(width * min(1, 1 / frame), height * min(1, frame), x, y)

    @classmethod
    def largest(cls, ratio: float, frame: float, scale: float = 1.0) -> Box:
        """The largest centred box of a ratio in frames of the ratio `frame`, times `scale`."""
        return cls.placed(scale * min(1, ratio / frame), scale * min(1, frame / ratio), 0.5, 0.5)

    @classmethod
    def first_that_fits(cls, draw: dict[str, Any], frame: float) -> Box | None:
        """The first of the boxes of `draw_boxes` that fits frames of the ratio `frame`."""
        width = np.sqrt(draw["area"] * draw["ratio"] / frame)
        height = np.sqrt(draw["area"] / draw["ratio"] * frame)
        fits = (width <= 1) & (height <= 1)
        if not fits.any():
            return None
        first = fits.argmax()
        return cls.placed(float(width[first]), float(height[first]), *draw["place"].tolist())

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns in a frame of height x width pixels, at least one of each.

        The size is rounded first and then placed, so a box of one size has it at every place.
        """
        return _span(self.top, self.bottom, height), _span(self.left, self.right, width)


def _span(start: float, stop: float, size: int) -> slice:
    length = min(max(round((stop - start) * size), 1), size)
    first = min(round(start * size - 1e-6), size - length)  # a half goes to the left and the top
    return slice(first, first + length)


def draw_boxes(
    rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> dict[str, Any]:
    """Ten areas in `scale` and ratios log-uniform in `ratio` [10], and one place [2]."""
    return {
        "area": rng.uniform(*scale, TRIES),
        "ratio": np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), TRIES)),
        "place": rng.random(2),
    }


class BoxCrop(Transform):
    """What the crops share: one box a sample, cut out of all its frames and resized to `size`.

    Takes frames [B, V, T, C, H, W] uint8 or float32 of any H x W, larger or smaller than `size`
    (height, width). All pixel modalities (rgb, gray, flow) get the same box, in fractions of the
    frame; the vectors of flow are scaled with the picture. Other kinds stay as they are, padded
    steps become zeros.

    The box is cut first and then resized, which touches no pixel that is thrown away.
    """

    runs_on = "sample"

    def __init__(self, size: tuple[int, int] | int) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 1:
            raise ValueError(f"takes a size of at least 1 pixel, but gets {size}")

    @abstractmethod
    def box(self, draw: dict[str, Any], frame: float) -> Box:
        """The box of a draw for frames of the ratio (width / height) `frame`."""

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Fixes height and width, except of vectors (1x1)."""
        return {name: self._out(shape) for name, shape in shapes.items()}

    def _out(self, shape: Shape) -> Shape:
        if shape.height == shape.width == 1:
            return shape
        return shape._replace(height=self.height, width=self.width)

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Clips [B, V, T, C, H, W] -> [B, V, T, C, height, width], in channels-last memory."""
        images = {name: clip for name, clip in clips.items() if clip.kind in PIXELS}
        if not images:
            return clips
        height, width = next(iter(images.values())).x.shape[-2:]
        boxes = [self.box(draw, width / height) for draw in draws]
        size = (self.height, self.width)
        return {**clips, **{name: cut(clip, boxes, size) for name, clip in images.items()}}


def cut(clip: Clip, boxes: list[Box], size: tuple[int, int]) -> Clip:
    """Cuts boxes[b] out of all frames of sample b and resizes it to size (height, width)."""
    frames = clip.x.movedim(-3, -1).numpy()  # [B, V, T, H, W, C], a view
    mask = clip.mask.numpy()
    out = np.empty((*mask.shape, *size, frames.shape[-1]), frames.dtype)
    out[~mask] = 0
    for b, box in enumerate(boxes):
        rows, columns = box.pixels(*frames.shape[3:5])
        down, across = size[0] / (rows.stop - rows.start), size[1] / (columns.stop - columns.start)
        # INTER_LINEAR reads 2x2 pixels: below a half it would skip some, and alias.
        method = cv2.INTER_AREA if max(down, across) < 0.5 else cv2.INTER_LINEAR
        for v, t in np.argwhere(mask[b]).tolist():
            step = out[b, v, t]
            _resize(frames[b, v, t, rows, columns], step, method)
            if clip.kind == "flow":
                _scale_flow(step, across, down)
    return clip._replace(x=torch.from_numpy(out).movedim(-1, -3))


def _resize(frame: np.ndarray, out: np.ndarray, method: int) -> None:
    """Resizes a frame [h, w, C] into out [H, W, C], as many channels at once as OpenCV takes."""
    size = out.shape[1::-1]
    if frame.shape[-1] <= MAX_CHANNELS:
        cv2.resize(frame, size, dst=out, interpolation=method)
        return
    for first in range(0, frame.shape[-1], MAX_CHANNELS):
        some = np.ascontiguousarray(frame[..., first : first + MAX_CHANNELS])
        resized = cv2.resize(some, size, interpolation=method)
        out[..., first : first + MAX_CHANNELS] = resized.reshape(*out.shape[:2], -1)


def _scale_flow(field: np.ndarray, across: float, down: float) -> None:
    """Multiplies dx by `across` and dy by `down`, in place; field [H, W, 2n]."""
    factors = np.tile(np.array([across, down], np.float32), field.shape[-1] // 2)
    if field.dtype == np.uint8:  # no motion is 127.5
        levels = (np.arange(256)[None, :, None] - 127.5) * factors + 127.5
        cv2.LUT(field, np.rint(levels).clip(0, 255).astype(np.uint8), dst=field)
    else:
        field *= factors
