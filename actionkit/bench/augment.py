"""Orders and libraries of augmentation against each other, on one clip and one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.bench.clock import Comparison, Run, compare
from actionkit.bench.pictures import scene
from actionkit.contracts import Clip
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize

FRAMES, SIDE, OUT = 16, 256, 224
WIDE = (360, 640)
AREA = 0.7  # of the frame that every random box has, so that all do the same work
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEASUREMENTS = 3 + 5  # variants of both comparisons together

Augment = Callable[[], Any]


def augment(rounds: int, tick: Run | None = None, frames: int = FRAMES) -> list[Comparison]:
    """Crop before resizing or behind it; then uint8 or float first, with three libraries."""
    return [_order(rounds, tick, frames), _types(rounds, tick, frames)]


def _order(rounds: int, tick: Run | None, frames: int) -> Comparison:
    """The usual evaluation crop: 224 out of a short side of 256."""
    wide = scene(frames, *WIDE)
    clip = _clip(wide)
    ours = CropResize(size=OUT, eval_scale=OUT / SIDE)
    rows = compare(
        {
            "resize, then crop (cv2)": lambda: _resize_crop(wide),
            "crop, then resize (cv2)": lambda: _crop_resize(wide),
            "crop_resize": lambda: ours.apply({"rgb": clip}, [{}]),
        },
        rounds,
        tick=tick,
    )
    return Comparison(f"{frames} frames of {WIDE[1]}x{WIDE[0]} to {OUT}x{OUT}", rows)


def _types(rounds: int, tick: Run | None, frames: int) -> Comparison:
    """A random box and mirroring."""
    square = _clip(scene(frames, SIDE, SIDE))
    variants, notes = _libraries(square)
    rows = compare(variants, rounds, tick=tick)
    for row in rows:
        result = variants[row.name]()
        row.facts["kB to the device"] = result.nbytes / 1e3
    title = f"random box and mirroring, {frames} frames of {SIDE}x{SIDE} to {OUT}x{OUT}"
    notes.append("uint8 is made float and normalised on the device, which is not in its time")
    return Comparison(title, rows, notes=notes)


def _libraries(clip: Clip) -> tuple[dict[str, Callable[[], Tensor]], list[str]]:
    """The variants, each of which gives the clip [T, 3, 224, 224]; and what was left out."""
    frames = clip.x[0, 0].contiguous()
    ours: list[Any] = [
        CropResize(size=OUT, scale=(AREA, AREA), ratio=(1, 1)),
        Mirror(probability=1),
    ]
    variants = {
        "uint8 (crop_resize, mirror)": lambda: _apply(ours, clip),
        "uint8, then float (normalize)": lambda: _apply([*ours, Normalize()], clip),
    }
    notes = []
    try:
        uint8, floats = _torchvision()
        variants["uint8 (torchvision v2)"] = lambda: uint8(frames)
        variants["float first (torchvision v2)"] = lambda: floats(frames)
    except (ImportError, RuntimeError) as error:
        notes.append(f"left out: torchvision: {error}")
    try:
        kornia = _kornia(len(frames))
        variants["float first (kornia)"] = lambda: kornia(frames.float().div_(255)[None])
    except ImportError as error:
        notes.append(f"left out: kornia: {error}")
    return variants, notes


def _torchvision() -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    from torchvision.transforms import v2

    box = v2.RandomResizedCrop(OUT, scale=(AREA, AREA), ratio=(1, 1), antialias=True)
    flip, to_float = v2.RandomHorizontalFlip(1), v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([box, flip]), v2.Compose([to_float, box, flip, v2.Normalize(MEAN, STD)])


def _kornia(frames: int) -> Callable[[Tensor], Tensor]:
    from kornia import augmentation

    return augmentation.VideoSequential(
        augmentation.RandomResizedCrop(
            (OUT, OUT), scale=(AREA, AREA), ratio=(1, 1), cropping_mode="slice", p=1
        ),
        augmentation.RandomHorizontalFlip(p=1),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD), p=1),
        data_format="BTCHW",
        same_on_frame=True,
    )


def _apply(transforms: list[Any], clip: Clip) -> Tensor:
    rng, clips = np.random.default_rng(0), {"rgb": clip}
    for transform in transforms:
        clips = transform.apply(clips, [transform.draw(rng)])
    return clips["rgb"].x


def _clip(frames: np.ndarray) -> Clip:
    """Frames [T, H, W, 3] uint8 as a batch of one, in a decoder's memory."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2)[None, None]
    mask = torch.ones(x.shape[:3], dtype=torch.bool)
    return Clip(x, mask, torch.arange(len(frames)).float().expand(x.shape[:3]), "rgb")


def _resize_crop(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    scale = SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    top, left = (size[1] - OUT) // 2, (size[0] - OUT) // 2
    resized = (cv2.resize(frame, size) for frame in frames)
    return np.stack([frame[top : top + OUT, left : left + OUT] for frame in resized])


def _crop_resize(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    side = round(min(height, width) * OUT / SIDE)
    top, left = (height - side) // 2, (width - side) // 2
    boxes = (frame[top : top + side, left : left + side] for frame in frames)
    return np.stack([cv2.resize(box, (OUT, OUT)) for box in boxes])
