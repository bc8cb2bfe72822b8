"""Draws recipes/probes.png, six probe clips and their flow: python tests/make_contact_sheet.py."""

from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torchvision.utils import flow_to_image

from actionkit.data.datasets.probes import Probes

OUT = Path(__file__).resolve().parent.parent / "recipes" / "probes.png"
PANELS = {  # title -> (scene of the train split, its classes)
    "three colours: the same flow": (27, ["red_rise", "green_rise", "blue_rise"]),
    "three motions: the same set of frames": (31, ["green_rise", "green_fall", "green_shuffle"]),
}
FASTEST = 2  # pixels per frame drawn in full colour
NOTE = (
    "Below each frame: its DIS flow to the next frame. Violet is up, yellow is down, full colour "
    f"is {FASTEST} pixels or more. Mean: all 24 frames at once, without their order."
)
MOMENTS = range(0, 24, 3)  # flow is that to the next frame
WIDE, HIGH = 72, 128  # of a cell, in pixels of the sheet
SCALE = HIGH / 64  # the clips are 64 x 64; of their width, what is near the object is shown
GAP, MARGIN, BETWEEN = 3, 14, 34
INK, FAINT, PAPER = 31, 119, 255


def main() -> None:
    dataset = Probes("train", train_scenes=1 + max(scene for scene, _ in PANELS.values()))
    dataset.prepare()
    panels = []
    for title, (scene, names) in PANELS.items():
        first = scene * len(dataset.classes)
        records = [dataset[first + dataset.classes.index(name)] for name in names]
        clips = {n: decode(r.sources["rgb"]) for n, r in zip(names, records, strict=True)}
        panels.append(panel(title, clips))
    panels[0] = border(panels[0], right=BETWEEN)
    sheet = np.concatenate(panels, 1)
    sheet = np.concatenate([sheet, line(sheet.shape[1], NOTE, [], scale=0.46)])
    sheet = border(sheet, MARGIN, MARGIN, MARGIN, MARGIN) | 3  # six bits a channel: a small file
    cv2.imwrite(str(OUT), sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{OUT}: {sheet.shape[1]} x {sheet.shape[0]}, {OUT.stat().st_size / 1024:.0f} KB")


def decode(path: Path) -> np.ndarray:
    """All frames [N, H, W, 3] in BGR."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="bgr24") for f in container.decode(video=0)])


def panel(title: str, clips: dict[str, np.ndarray]) -> np.ndarray:
    """A title, and for each clip its frames over their flow; then the mean frame, without order."""
    rows = []
    for name, frames in clips.items():
        mean = frames.mean(0).astype(np.uint8)
        window = near_object(mean)
        above = strip([*frames[MOMENTS], mean], window, cv2.INTER_CUBIC)
        below = strip(paint(flow(frames)[:: MOMENTS.step]), window, cv2.INTER_NEAREST)
        below = border(below, right=above.shape[1] - below.shape[1])
        heads = ["frame 0", *map(str, MOMENTS[1:]), "mean"] if not rows else []
        rows += [line(above.shape[1], name.replace("_", " "), heads), above, below]
    return np.concatenate([line(above.shape[1], title, [], scale=0.62), *rows])


def flow(frames: np.ndarray) -> np.ndarray:
    """DIS flow [N - 1, H, W, 2] between neighbours, in pixels."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    return np.stack([dis.calc(a, b, None) for a, b in pairwise(gray)])


def paint(fields: np.ndarray) -> np.ndarray:
    """Fields [N, H, W, 2] as BGR, all on one scale: a last field of FASTEST sets it."""
    speed = np.linalg.norm(fields, axis=-1, keepdims=True)
    fields = fields / np.maximum(speed / FASTEST, 1)
    scale = np.broadcast_to(np.float32([0, FASTEST]), fields[:1].shape)
    fields = torch.from_numpy(np.concatenate([fields, scale])).permute(0, 3, 1, 2)
    return flow_to_image(fields).permute(0, 2, 3, 1).numpy()[:-1, ..., ::-1]


def near_object(mean: np.ndarray) -> slice:
    """The columns to show: around the most colourful one, as the background has no colour."""
    colour = np.ptp(mean.astype(int), axis=-1).sum(0)
    centre = round(np.average(np.arange(len(colour)), weights=colour**2))
    width = round(WIDE / SCALE)
    left = min(max(centre - width // 2, 0), len(colour) - width)
    return slice(left, left + width)


def strip(images: list[np.ndarray] | np.ndarray, window: slice, how: int) -> np.ndarray:
    cells = [cv2.resize(i[:, window], (WIDE, HIGH), interpolation=how) for i in images]
    return np.concatenate([border(cell, bottom=GAP, right=GAP) for cell in cells], 1)


def line(width: int, text: str, heads: list[str], scale: float = 0.5) -> np.ndarray:
    """A line of text, and heads over the columns where given."""
    height = round(40 * scale) + (18 if heads else 6)
    image = np.full((height, width, 3), PAPER, np.uint8)
    write(image, text, (0, round(30 * scale)), scale, INK)
    for column, head in enumerate(heads):
        write(image, head, (column * (WIDE + GAP), height - 5), 0.4, FAINT)
    return image


def write(image: np.ndarray, text: str, corner: tuple[int, int], scale: float, gray: int) -> None:
    """Draws text four times as large and shrinks it, for smooth edges."""
    height, width = image.shape[:2]
    large = np.zeros((4 * height, 4 * width), np.uint8)
    place = (4 * corner[0], 4 * corner[1])
    cv2.putText(large, text, place, cv2.FONT_HERSHEY_SIMPLEX, 4 * scale, 255, 5, cv2.LINE_AA)
    ink = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255
    image[:] = np.rint(image * (1 - ink) + gray * ink)


def border(image: np.ndarray, top=0, bottom=0, left=0, right=0) -> np.ndarray:
    return cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(PAPER,) * 3
    )


if __name__ == "__main__":
    main()
