"""Probe `actor`: four objects of four colours stand on a still ground, and one of them circles.

The class is the colour of the one that circles. Every colour is in every frame, and each object,
moving or not, stands at a random point of its circle, so no single frame tells which one acts. All
colours have the same luma, so flow tells where it is, but not its colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from actionkit.data.datasets.probes.appearance_motion import CHROMA, LUMA, SHAPES
from actionkit.data.datasets.probes.video import Picture

FPS = 12
FRAMES = 24
TURNS = 2  # of the actor around its circle
HUES = {"red": 108.0, "lime": 198.0, "cyan": 288.0, "violet": 18.0}  # degrees from Cb towards Cr
CLASSES = list(HUES)
CELLS = 3  # rows and columns of places, each wide enough for an object and its circle
EDGE = 0.5  # pixels around an outline over which an object fades
ANGLES = np.linspace(0, 2 * np.pi, 720, endpoint=False)  # at which an outline is measured

Box = tuple[float, float, float, float, float]  # second, x1, y1, x2, y2 in fractions of the frame


def render(rng: np.random.Generator, size: int) -> Iterator[tuple[str, list[Picture]]]:
    """One scene of size x size pixels: every class and its FRAMES pictures.

    Everything but the colours is the scene's, the same in all classes. From class to class the
    colours move on by one object each.
    """
    scene = _Scene.draw(rng, size)
    luma, covers = _draw(scene, size)
    hues = np.deg2rad(scene.shift + np.array(list(HUES.values())))
    for number, name in enumerate(CLASSES):
        own = hues[(scene.order + number) % len(CLASSES)]  # of each object, the actor first
        chroma = [
            _byte(128 + scene.chroma * np.tensordot(toward(own), covers, 1))
            for toward in (np.cos, np.sin)
        ]
        yield name, [Picture(*planes) for planes in zip(luma, *chroma, strict=True)]


def boxes(rng: np.random.Generator, size: int) -> tuple[Box, ...]:
    """Where the actor is in each frame of what `render` makes of the same random numbers."""
    scene = _Scene.draw(rng, size)
    reach = _outline(scene, ANGLES) * np.array([np.cos(ANGLES), np.sin(ANGLES)])  # [x y, angles]
    corners = np.stack([reach.min(1) - EDGE, reach.max(1) + EDGE])  # [2, x y]
    found = (scene.centres[0][:, None] + corners).reshape(FRAMES, 4) / size
    return tuple((k / FPS, *box) for k, box in enumerate(found.clip(0, 1).tolist()))


class _Scene(NamedTuple):
    """Lengths are in pixels, angles in radians but for hues."""

    shape: str
    radius: float
    turn: float
    centres: np.ndarray  # [objects, FRAMES, x y], the actor first
    order: np.ndarray  # [objects] the number of each object's colour in the first class
    shift: float  # degrees, of all hues
    chroma: float
    shade: float  # luma of the objects
    stripe: np.ndarray  # wave vector (x, y) of their pattern
    ground: float  # luma of the background
    waves: np.ndarray  # [N, 3] its texture: wave vectors and phases

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> _Scene:
        shape = rng.choice(list(SHAPES))
        reach = size * rng.uniform(0.09, 0.1)
        radius = reach / SHAPES[shape](ANGLES).max()
        bright = rng.choice([-1, 1])
        direction, length, phase = rng.uniform((0, 0.15, 0), (2 * np.pi, 0.5, 2 * np.pi), (6, 3)).T
        return cls(
            shape=shape,
            radius=radius,
            turn=rng.uniform(0, 2 * np.pi),
            centres=_centres(rng, size, reach),
            order=np.concatenate([[0], 1 + rng.permutation(len(CLASSES) - 1)]),
            shift=rng.uniform(-8, 8),
            chroma=rng.uniform(*CHROMA),
            shade=127 + bright * rng.uniform(15, 22),
            stripe=_wave(rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.0, 1.6)),
            ground=127 - bright * rng.uniform(12, 19),
            waves=np.column_stack([*_wave(direction, size * length), phase]),
        )


def _centres(rng: np.random.Generator, size: int, reach: float) -> np.ndarray:
    """Centres [objects, FRAMES, x y] of objects that reach so far, the actor's first."""
    objects, cell = len(CLASSES), size / CELLS
    circle = size * rng.uniform(0.045, 0.055)
    places = np.stack(np.divmod(rng.permutation(CELLS**2)[:objects], CELLS), 1) + 0.5
    free = max(0, cell / 2 - reach - circle - EDGE)
    middles = cell * places + rng.uniform(-free, free, (objects, 2))
    angles = np.repeat(rng.uniform(0, 2 * np.pi, (objects, 1)), FRAMES, 1)
    angles[0] += rng.choice([-1, 1]) * 2 * np.pi * TURNS / FRAMES * np.arange(FRAMES)
    return middles[:, None] + circle * np.stack([np.cos(angles), np.sin(angles)], -1)


def _draw(scene: _Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Luma [FRAMES, S, S] uint8, and how much of each chroma pixel each object covers.

    The latter is [objects, FRAMES, S / 2, S / 2], in 0 to 1, the actor's first.
    """
    y, x = np.mgrid[:size, :size] + 0.5
    ground = scene.ground + sum(4 * np.sin(u * x + v * y + phase) for u, v, phase in scene.waves)
    luma, covers = np.broadcast_to(ground, (FRAMES, size, size)), []
    for number, centres in enumerate(scene.centres):
        seen = centres if number == 0 else centres[:1]  # all but the actor stand still
        dx, dy = x - seen[:, 0, None, None], y - seen[:, 1, None, None]
        cover = np.clip(_outline(scene, np.arctan2(dy, dx)) - np.hypot(dx, dy) + EDGE, 0, 1)
        pattern = scene.shade + 9 * np.sin(scene.stripe[0] * dx + scene.stripe[1] * dy)
        luma = luma + (pattern - luma) * cover
        half = cover.reshape(len(seen), size // 2, 2, size // 2, 2).mean((2, 4))
        covers.append(np.broadcast_to(half, (FRAMES, *half.shape[1:])))
    return _byte(np.clip(luma, *LUMA)), np.stack(covers)


def _outline(scene: _Scene, angle: np.ndarray) -> np.ndarray:
    return scene.radius * SHAPES[scene.shape](angle + scene.turn)


def _wave(direction: float | np.ndarray, length: float | np.ndarray) -> np.ndarray:
    return 2 * np.pi / length * np.array([np.cos(direction), np.sin(direction)])


def _byte(plane: np.ndarray) -> np.ndarray:
    return np.rint(plane).astype(np.uint8)
