"""What a stage takes of one video, looked at along the data path itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Clip, Info, Record, Sampler, Transform
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.datasets.files import Files, whole
from actionkit.data.device import on_device
from actionkit.data.module import Stage
from actionkit.data.order import Ask
from actionkit.data.sources import Sources
from actionkit.data.transforms.normalize import Normalize
from actionkit.errors import RunError

Picture = np.ndarray  # uint8 [H, W, 3] RGB

THUMB = 160  # pixels, the width of a kept frame
PLACES = "(places)"  # a modality's name that no recipe can write


class Box(NamedTuple):
    """What a picture shows of its frame, in fractions of it."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool = False


class Look(NamedTuple):
    """What a stage takes of a video; all but the indices only of the views looked at."""

    indices: np.ndarray  # [V, T] int64 of all views, as the sampler gives them; -1 = padding
    clips: dict[str, Clip]  # by modality, [V', T', C, H, W] float: what the network takes, see look
    places: Clip  # its mask and times are those of the sampled frames
    boxes: list[list[Box | None]]  # [V', T'] of the sampled frames; None where it is not known
    views: int  # how many there are, looked at or not
    frames: dict[int, Picture]  # whole and small, by index
    info: Info


def look(
    stage: Stage, sources: Sources, video: Path, *, train: bool, seed: int, views: int
) -> Look:
    """Sends a video through a stage as the loader and the task do, for its first `views` views.

    `seed` is that of the clip's draws. Only `normalize` is left out: rgb and gray are 0 to 1. To
    find what a view shows of its frames, a picture of their coordinates goes the same way.

    Raises RunError where the video cannot be read, VideoReadError where it cannot be opened.
    """
    info, _ = sources.timeline(whole(video))
    heard, watch = _Heard(stage.sampler), _Watch(info)
    data, steps = Files([whole(video)], [], ["rgb"]), [watch, *stage.per_sample]
    kept = -(-views // math.prod(t.copies for t in stage.per_batch))
    sample = Clips(data, sources, heard, steps, train=train, views_per_item=kept)[Ask(0, seed)]
    if not sample.clips:
        raise RunError(str(sample.bad[0]))
    to_see = [t for t in stage.per_batch if not isinstance(t, Normalize)]
    batch = on_device(collate([sample]), to_see, train=train).clips
    clips = {
        m: Clip(c.x[0, :views], c.mask[0, :views], c.times[0, :views], c.kind)
        for m, c in batch.items()
    }
    places = clips.pop(PLACES)
    crops = batch[PLACES].x.shape[1] / min(kept, len(heard.indices))  # of a view
    return Look(
        heard.indices,
        clips,
        places,
        [[_box(step) for step in view] for view in places.x],
        round(crops * len(heard.indices)),
        watch.frames,
        info,
    )


class _Heard(Sampler):
    """A sampler whose answer is kept."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.steps, self.views = sampler, sampler.steps, sampler.views

    def __call__(self, info: Info, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        self.indices = self.sampler(info, record, rng)
        return self.indices


class _Watch(Transform):
    """Stands first: keeps the frames small, and sends their coordinates along as flow.

    Of all kinds of pictures only flow keeps its values whatever is done to colours. Two of the four
    channels are 1 everywhere, so they tell by what the others, x and y, are multiplied on the way.
    """

    def __init__(self, info: Info) -> None:
        self.info, self.frames = info, {}  # type: ignore[var-annotated]

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Adds the modality PLACES, [B, V, T, 4, H, W] float32: 1, 1, x, y in fractions."""
        x, mask, times, _ = next(iter(clips.values()))
        for frame, second in zip(x[mask], times[mask].tolist(), strict=True):
            index = round(second * self.info.fps)
            if index not in self.frames:
                self.frames[index] = fit(to_picture(frame), THUMB)
        height, width = x.shape[-2:]
        across = (torch.arange(width) + 0.5).div(width).expand(height, width)
        down = (torch.arange(height) + 0.5).div(height)[:, None].expand(height, width)
        one = torch.ones(height, width)
        place = torch.stack([one, one, across, down], -1).permute(2, 0, 1)  # as decoders lay it
        return {**clips, PLACES: Clip(place.expand(*mask.shape, -1, -1, -1), mask, times, "flow")}


def _box(place: Tensor) -> Box | None:
    """The box of a step's places [4, H, W]; None for padding, and for pictures of a few pixels."""
    height, width = place.shape[-2:]
    if min(height, width) < 4:
        return None
    left, right = _ends(place[0::2, height // 2].numpy())
    top, bottom = _ends(place[1::2, :, width // 2].numpy())
    if not np.isfinite([left, right, top, bottom]).all():
        return None
    return Box(min(left, right), min(top, bottom), max(left, right), max(top, bottom), right < left)


def _ends(line: np.ndarray) -> tuple[float, float]:
    """Where a line [factor and places, N] starts and ends: half a step beyond its pixels."""
    place = line[1] / np.where(line[0] == 0, np.nan, line[0])
    first, last = len(place) // 4, len(place) - 1 - len(place) // 4  # off the edges, they may clamp
    step = (place[last] - place[first]) / (last - first)
    start = place[first] - step * (first + 0.5)
    return round(float(start), 6), round(float(start + step * len(place)), 6)


def to_picture(frame: Tensor) -> Picture:
    """A frame [3 or 1, H, W] uint8, or float of 0 to 1, as RGB."""
    if frame.dtype != torch.uint8:
        frame = frame.mul(255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(frame.expand(3, -1, -1).permute(1, 2, 0).numpy())


def fit(picture: Picture, width: int) -> Picture:
    """A picture of this width."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    method = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=method)
