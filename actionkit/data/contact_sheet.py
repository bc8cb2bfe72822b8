"""A contact sheet: what a stage takes of a video, drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from actionkit.contracts import Clip
from actionkit.data.look import Box, Look, Picture, fit, to_picture
from actionkit.data.transforms.kinds import PIXELS

LEAST_FLOW = 0.05  # what is shorter is noise of a still picture, and not stretched to full colour

# ------------------------------------------------------------------------------------ pictures


def _colours(field: np.ndarray, most: float) -> Picture:
    """Flow [2, H, W] as colours: the hue is the direction, white is no motion."""
    hue = np.rad2deg(np.arctan2(field[1], field[0])) % 360
    length = np.minimum(np.hypot(field[0], field[1]) / most, 1)
    hsv = np.stack([hue, length, np.ones_like(hue)], -1).astype(np.float32)
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def _wheel(size: int) -> Picture:
    """The colours of all directions."""
    across = np.linspace(-1, 1, size)
    field = np.stack(np.meshgrid(across, across))
    return _colours(np.where(np.hypot(*field) <= 1, field, 0), 1)


def _framed(frame: Picture, box: Box | None) -> Picture:
    """A frame that is pale where nobody looks."""
    if box is None:
        return frame
    height, width = frame.shape[:2]
    left, right = (min(max(round(x * width), 0), width) for x in (box.left, box.right))
    top, bottom = (min(max(round(y * height), 0), height) for y in (box.top, box.bottom))
    pale = np.rint(0.3 * frame + 0.7 * np.array(PAPER)).astype(np.uint8)
    pale[top:bottom, left:right] = frame[top:bottom, left:right]
    cv2.rectangle(pale, (left, top), (right - 1, bottom - 1), EDGE, 1)
    return pale


def _show(clip: Clip) -> tuple[list[list[list[Picture]]], str]:
    """A clip of pixels [V, T, C, H, W] float as pictures, view by view, and a note about them.

    Every 2 channels of flow, or 3 of rgb, are a picture of their step. A padded step has none.
    """
    group = 2 if clip.kind == "flow" else 3 if clip.x.shape[2] % 3 == 0 else 1
    x = clip.x.unflatten(2, (-1, group))  # [V, T, N, group, H, W]
    note = f"{x.shape[1]} steps of {x.shape[-2]}x{x.shape[-1]}"
    note += f", {x.shape[2]} in each" if x.shape[2] > 1 else ""
    real, most = x[clip.mask], 1.0
    if clip.kind == "flow" and real.numel():
        most = max(LEAST_FLOW, float(np.percentile(real.norm(dim=2).numpy(), 99)))
        note += f"; the hue is the direction, its full colour a length of {most:.2g}"
    elif real.numel() and not -0.01 <= real.min() <= real.max() <= 1.01:
        low, high = float(real.min()), float(real.max())
        x = (x - low) / max(high - low, 1e-6)
        note += f"; values from {low:.2g} to {high:.2g}, stretched to be seen"

    def step(planes: Tensor, here: bool) -> list[Picture]:
        if not here:
            return []
        return [_colours(p.numpy(), most) if group == 2 else to_picture(p) for p in planes]

    x, masks = x[:, :STEPS], clip.mask[:, :STEPS].tolist()
    views = [[step(*s) for s in zip(*v, strict=True)] for v in zip(x, masks, strict=True)]
    return views, note


# ------------------------------------------------------------------------------------- drawing

WIDTH, LEAST_WIDTH, MARGIN, GUTTER, GAP = 1600, 900, 24, 64, 6  # pixels
SMALLEST, LARGEST, LABEL = 80, 160, 26  # widths of a cell, height of what stands below it
STEPS = 120  # of a view are drawn
Colour = tuple[int, int, int]
PAPER = (240, 240, 240)  # white pictures are seen on it
INK, FAINT, AGAIN = (40, 40, 40), (130, 130, 130), (200, 80, 0)
EDGE, NOTHING = (230, 120, 0), (220, 220, 220)


class Block(NamedTuple):
    """A look with its name, and lines about it."""

    title: str
    lines: Sequence[str]
    look: Look


def draw(title: str, lines: Sequence[str], blocks: Sequence[Block]) -> Picture:
    """The sheet, at most 1600 pixels wide.

    In every block a view has a row of the frames that were sampled, pale where they are cut off,
    and a row for each modality; a cell is a step. Under it stand index and second of its frame, in
    another colour where it is not later than all before it. Padding is crossed out.
    """
    clips = [clip for b in blocks for clip in (b.look.places, *b.look.clips.values())]
    grid = _Grid.of(min(STEPS, max(clip.mask.shape[1] for clip in clips)))
    strips = [grid.space(MARGIN), *grid.text(title, 20)]
    strips += [strip for line in lines for strip in grid.text(line, colour=FAINT)]
    for block in blocks:
        strips += [grid.space(GAP), grid.space(1, FAINT), grid.space(MARGIN // 2)]
        strips += grid.text(block.title, 17)
        strips += [strip for line in block.lines for strip in grid.text(line)]
        strips += _views(block.look, grid)
    return np.concatenate([*strips, grid.space(MARGIN)])


def _views(found: Look, grid: _Grid) -> list[Picture]:
    """What a look has in words, then its views."""
    shown = {name: _show(clip) for name, clip in found.clips.items() if clip.kind in PIXELS}
    (count, steps), drawn = found.indices.shape, len(found.boxes)
    text = f"sampled: {count} view{'s' if count > 1 else ''} of {steps} frames"
    text += f"; {drawn} of {found.views} views are shown" if drawn < found.views else ""
    text += f"; {STEPS} steps of each are shown" if steps > STEPS else ""
    strips = grid.text(text)
    for name, clip in found.clips.items():
        note = shown[name][1] if name in shown else f"{clip.x.shape[1]} steps, no pictures"
        strips += grid.text(f"{name}: {note}")
    for v, boxes in enumerate(found.boxes):
        title = f"view {v + 1} of {found.views}: {describe(found, v)}"
        strips += [grid.space(GAP), *grid.text(title, colour=FAINT), grid.space(GAP)]
        labels = _labels(found.places, v, found.info.fps)
        frames = [
            [_framed(found.frames[i], box)] if i >= 0 else []
            for (i, _), box in zip(labels, boxes, strict=False)
        ]
        strips += grid.row("frames", frames, labels)
        for name, (views, _) in shown.items():
            clip = found.clips[name]
            key = _wheel(GUTTER // 2) if clip.kind == "flow" else None
            strips += grid.row(name, views[v], _labels(clip, v, found.info.fps), key)
    return strips


def describe(found: Look, view: int) -> str:
    """What a view sees of its frames, in words."""
    boxes = list(dict.fromkeys(box for box in found.boxes[view] if box))
    if len(boxes) != 1:
        return f"{len(boxes)} boxes" if boxes else "frames"
    box, wide, high = boxes[0], found.info.width, found.info.height
    x, y = round(box.left * wide), round(box.top * high)
    width, height = round(box.right * wide) - x, round(box.bottom * high) - y
    return f"{width}x{height} at ({x}, {y}) of {wide}x{high}" + ", mirrored" * box.mirrored


def _labels(clip: Clip, view: int, fps: float) -> list[tuple[int, float]]:
    """Index and second of a view's steps; -1 where there is none."""
    seconds = clip.times[view, :STEPS].tolist()
    return [(-1 if math.isnan(s) else round(s * fps), s) for s in seconds]


@dataclass
class _Grid:
    """A sheet's measures, and what is drawn in them: strips as wide as the sheet."""

    columns: int
    cell: int  # pixels
    width: int

    @classmethod
    def of(cls, steps: int) -> _Grid:
        """For views of so many steps, broken into lines of about equal length."""
        room = WIDTH - 2 * MARGIN - GUTTER + GAP
        columns = -(-steps // -(-steps // (room // (SMALLEST + GAP))))
        cell = min(LARGEST, room // columns - GAP)
        width = 2 * MARGIN + GUTTER + columns * (cell + GAP) - GAP
        return cls(columns, cell, max(LEAST_WIDTH, width))

    def space(self, height: int, colour: Colour = PAPER) -> Picture:
        return np.full((height, self.width, 3), colour, np.uint8)

    def text(self, text: str, size: int = 13, colour: Colour = INK) -> list[Picture]:
        """Lines of text, broken where the sheet ends."""
        room = self.width - 2 * MARGIN
        over = _letters(text, size).shape[1] / room
        letters = len(text) if over <= 1 else int(0.95 * len(text) / over)
        strips = []
        for line in textwrap.wrap(text, letters, subsequent_indent="      "):
            strips.append(self.space(round(1.7 * size)))
            _write(strips[-1][:, MARGIN:-MARGIN], line, size, colour)
        return strips

    def row(
        self,
        name: str,
        steps: Sequence[Sequence[Picture]],
        labels: Sequence[tuple[int, float]],
        key: Picture | None = None,
    ) -> list[Picture]:
        """A view's steps, on as many lines as they need; a key to colours stands below the name."""
        cells = [[fit(picture, self.cell) for picture in step] for step in steps]
        heights = [sum(map(len, cell)) for cell in cells]
        strips = []
        for start in range(0, len(steps), self.columns):
            line = range(start, min(start + self.columns, len(steps)))
            height = max(heights[line.start : line.stop]) or self.cell
            strips.append(self.space(height + LABEL))
            for i in line:
                left = MARGIN + GUTTER + (i - start) * (self.cell + GAP)
                part = strips[-1][:, left : left + self.cell]
                picture = np.concatenate(cells[i] or [_nothing(height, self.cell)])
                part[: len(picture)] = picture
                late = labels[i][0] > max((index for index, _ in labels[:i]), default=-1)
                _label(part[height:], *labels[i], INK if late else AGAIN)
        _write(strips[0][:, MARGIN:][:, : GUTTER - GAP], name, 13, INK)
        if key is not None and len(strips[0]) > LABEL + len(key):
            strips[0][LABEL : LABEL + len(key), MARGIN : MARGIN + len(key)] = key
        return strips


def _nothing(height: int, width: int) -> Picture:
    """A padded step."""
    picture = np.full((height, width, 3), NOTHING, np.uint8)
    cv2.line(picture, (0, 0), (width, height), FAINT, 1, cv2.LINE_AA)
    return cv2.line(picture, (0, height), (width, 0), FAINT, 1, cv2.LINE_AA).astype(np.uint8)


def _label(strip: Picture, index: int, second: float, colour: Colour) -> None:
    """Index at the left and seconds at the right, below a cell."""
    if index < 0:
        _write(strip, "padding", 12, FAINT)
        return
    used = _write(strip, str(index), 12, colour)
    ink = _letters(f"{second:.2f} s", 11)
    _write(strip[:, max(used + 4, strip.shape[1] - ink.shape[1]) :], f"{second:.2f} s", 11, FAINT)


def _write(strip: Picture, text: str, size: int, colour: Colour) -> int:
    """Writes a line at the top left, smaller where it would not fit; returns its width."""
    ink = _letters(text, size)
    if ink.shape[1] > strip.shape[1] and size > 7:
        return _write(strip, text, size - 1, colour)
    ink = ink[: len(strip), : strip.shape[1]]
    under = strip[: len(ink), : ink.shape[1]]
    under[:] = np.rint(under + ink[..., None] * (np.array(colour, np.float32) - under))
    return ink.shape[1]


def _letters(text: str, size: int) -> np.ndarray:
    """A line of text, float [1.5 * size, W]: 0 = paper, 1 = ink. OpenCV has only ASCII."""
    text, fine = text.encode("ascii", "replace").decode(), 4  # drawn larger, so that it is smooth
    font, scale, thick = cv2.FONT_HERSHEY_SIMPLEX, fine * size / 30, max(1, fine * size // 11)
    (width, _), _ = cv2.getTextSize(text, font, scale, thick)
    large = np.zeros((fine * (3 * size // 2), fine * (width // fine + 2)), np.uint8)
    cv2.putText(large, text, (0, fine * size), font, scale, 255, thick, cv2.LINE_AA)
    small = cv2.resize(large, None, fx=1 / fine, fy=1 / fine, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255
