"""Probe `order`: an arrow on a still ground grows, moves and rotates, in each of the 6 orders.

An event goes and comes back the same way, and has the arrow at rest in its first and last frame.
So an order of events only puts the same eights of frames in another order: frames, and the flow
between neighbours, are the same sets in all classes, and a clip played backwards is the clip of the
reversed order. The events fill the clip in equal parts, so one random or central frame from each of
3, 6 or 12 equal segments shows all of them in the same phases, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import cv2
import numpy as np

from actionkit.data.datasets.probes.video import Picture

FPS = 12
PHASES = np.sin(np.pi * np.arange(4) / 7)  # of the way, going; coming back they are mirrored
EVENT = 2 * len(PHASES)  # frames
EVENTS = ("grow", "move", "rotate")
FRAMES = EVENT * len(EVENTS)
CLASSES = ["_".join(order) for order in permutations(EVENTS)]

# Within these no channel of RGB clips, whatever the hue.
LUMA = 88, 166
CHROMA = 36.0, 42.0

ARROW = np.array(  # outline (x, y) for length 1, pointing right
    [(-0.5, -0.13), (0, -0.13), (0, -0.36), (0.5, 0), (0, 0.36), (0, 0.13), (-0.5, 0.13)]
)
FINE = 8  # the outline is drawn at this many times the size, for smooth edges


def render(rng: np.random.Generator, size: int) -> Iterator[tuple[str, list[Picture]]]:
    """One scene of size x size pixels: every class and its FRAMES pictures.

    Arrow, background, place, colour and the extent of each event are the scene's, the same in all
    classes.
    """
    rest, ways = _poses(rng, size)
    covers = [[_cover(rest + phase * way, size) for phase in PHASES] for way in ways]
    planes = _paint(rng, np.array(covers))
    going = [
        [Picture(*of_frame) for of_frame in zip(*of_event, strict=True)]
        for of_event in zip(*planes, strict=True)
    ]
    events = {name: go + go[::-1] for name, go in zip(EVENTS, going, strict=True)}
    for name, order in zip(CLASSES, permutations(EVENTS), strict=True):
        yield name, [picture for event in order for picture in events[event]]


def _poses(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The arrow at rest [4], and what each event adds at its height [3, 4].

    A pose is the centre x, y and the length in pixels, and the angle from right to down in radians.
    """
    x, y, length = size * rng.uniform((0.30, 0.34, 0.22), (0.34, 0.66, 0.26))
    rest = np.array([x, y, length, rng.uniform(-0.35, 0.35)])
    grow, move, rotate = rng.uniform((1.0, 0.34, 1.3), (1.3, 0.44, 1.7))
    return rest, np.array([[0, 0, length * grow, 0], [size * move, 0, 0, 0], [0, 0, 0, rotate]])


def _cover(pose: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel the arrow covers, [size, size] in 0 to 1."""
    x, y, length, angle = pose
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = np.rint(FINE * (length * ARROW @ turn + (x, y))).astype(np.int32)
    fine = cv2.fillPoly(np.zeros((FINE * size, FINE * size), np.float32), [outline], 1.0)
    return fine.reshape(size, FINE, size, FINE).mean((1, 3))


def _paint(rng: np.random.Generator, cover: np.ndarray) -> tuple[np.ndarray, ...]:
    """Planes Y, Cb, Cr [events, phases, H, W] uint8 of the arrow over a wavy ground."""
    size = cover.shape[-1]
    bright = rng.choice([-1, 1])
    shade, ground = 127 + bright * rng.uniform(15, 25), 127 - bright * rng.uniform(12, 19)
    y, x = np.mgrid[:size, :size] / size
    for u, v, phase in rng.uniform((-30, -30, 0), (30, 30, 2 * np.pi), (6, 3)):  # radians
        ground = ground + 4 * np.sin(u * x + v * y + phase)
    luma = np.clip(ground + (shade - ground) * cover, *LUMA)
    hue, radius = rng.uniform(0, 2 * np.pi), rng.uniform(*CHROMA)
    half = cover.reshape(*cover.shape[:2], size // 2, 2, size // 2, 2).mean((-3, -1))
    chroma = [128 + radius * toward * half for toward in (np.cos(hue), np.sin(hue))]
    return tuple(np.rint(plane).astype(np.uint8) for plane in (luma, *chroma))
