"""Draws recipes/attention.png, where a trained `videolstm` looks: make_attention_sheet.py RUN."""

import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import torch
from make_contact_sheet import MARGIN, border, decode, line

from actionkit import builder
from actionkit.data.datasets.probes.actor import CLASSES, FPS
from actionkit.run import restore
from actionkit.training.checkpoints import read

OUT = Path(__file__).resolve().parent.parent / "recipes" / "attention.png"
SCENE = 3  # of the validation split
SIDE = 150  # of a frame, in pixels of the sheet
DARK = 0.25  # of the light, where nobody looks
NOTE = (
    "Four clips of one scene; in each, one object circles and the others stand still. Bright is "
    "where the network looks; it was told nothing but the colour. Framed: what circles."
)


def main(run: Path) -> None:
    found = builder.blueprint("videolstm", ["data.workers=0"])
    task, data = builder.build(found)
    checkpoint = run / "checkpoints" / "best.ckpt"
    restore(task, read(checkpoint), checkpoint)
    data.prepare_data()
    crop = found.stages.eval.per_sample[0].box({}, 1.0)
    with closing(data), torch.no_grad():
        clips = {}
        for batch in data.eval_dataloader("val"):
            maps = task.eval()(batch)["scores"].attention[:, 0, :, 0].numpy()  # [B, T, h, w]
            seconds = batch.clips["rgb"].times[:, 0].numpy()
            pairs = zip(maps, seconds, strict=True)
            clips.update(dict(zip(batch.index.tolist(), pairs, strict=True)))
    first = SCENE * len(CLASSES)
    rows = [strip(data.datasets["val"][first + k], *clips[first + k], crop) for k in range(4)]
    pairs = [np.concatenate([border(rows[k], right=20), rows[k + 1]], 1) for k in (0, 2)]
    sheet = np.concatenate([*pairs, line(pairs[0].shape[1], NOTE, [])])
    sheet = border(sheet, MARGIN, MARGIN, MARGIN, MARGIN) | 3  # six bits a channel: a small file
    cv2.imwrite(str(OUT), sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{OUT}: {sheet.shape[1]} x {sheet.shape[0]}, {OUT.stat().st_size / 1024:.0f} KB")


def strip(record, maps, seconds, crop):
    """The frames that were seen, lit by the attention, under the name of the class."""
    frames = decode(record.sources["rgb"])
    cells = []
    for weights, second in zip(maps, seconds, strict=True):
        number = round(float(second) * FPS)
        frame = cv2.resize(frames[number], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        left, top, right, bottom = (
            round(edge * SIDE) for edge in (crop.left, crop.top, crop.right, crop.bottom)
        )
        seen = cv2.resize(weights / weights.max(), (right - left, bottom - top))
        light = np.zeros((SIDE, SIDE), np.float32)
        light[top:bottom, left:right] = seen
        frame = np.rint(frame * (DARK + (1 - DARK) * light[..., None])).astype(np.uint8)
        _, x1, y1, x2, y2 = record.boxes[number]
        corners = ((round(x * SIDE), round(y * SIDE)) for x, y in ((x1, y1), (x2, y2)))
        cells.append(border(cv2.rectangle(frame, *corners, (255,) * 3), bottom=6, right=3))
    row = np.concatenate(cells, 1)
    return np.concatenate([line(row.shape[1], CLASSES[record.target], []), row])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
