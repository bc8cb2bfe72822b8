"""Probe `appearance_motion`: three colours times three motions of one object on a still ground.

All colours have the same luma, so gray frames, and flow with them, do not tell them apart. All
motions visit the same heights, each in its order, so a set of frames does not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from actionkit.data.datasets.probes.video import Picture

FPS = 12
FRAMES = 24  # which `shuffled` divides into eights, fours and pairs
HUES = {"red": 105.0, "green": 225.0, "blue": 345.0}  # degrees from Cb towards Cr
MOTIONS = ("rise", "fall", "shuffle")
CLASSES = [f"{colour}_{motion}" for colour in HUES for motion in MOTIONS]

# Within these no channel of RGB clips, which would tell the hue in the gray frame.
LUMA = 88, 166
CHROMA = 36.0, 42.0

# Outline of the shapes: radius by angle, at about equal areas.
SHAPES = {
    "disc": lambda angle: np.ones_like(angle),
    "square": lambda angle: 1.2 * _polygon(angle, 4),
    "triangle": lambda angle: 1.5 * _polygon(angle, 3),
    "star": lambda angle: 1.0 + 0.3 * np.cos(5 * angle),
}


def render(rng: np.random.Generator, size: int) -> Iterator[tuple[str, list[Picture]]]:
    """One scene of size x size pixels: every class and its FRAMES pictures.

    Shape, pattern, background, place, speed and shade are the scene's, the same in all classes.
    """
    luma, cover = _draw(_Scene.draw(rng, size), size)
    orders = {
        "rise": np.arange(FRAMES),
        "fall": np.arange(FRAMES)[::-1],
        "shuffle": shuffled(rng),
    }
    shift, radius = rng.uniform(-8, 8), rng.uniform(*CHROMA)
    for colour, hue in HUES.items():
        angle = np.deg2rad(hue + shift)
        cb = _byte(128 + radius * np.cos(angle) * cover)
        cr = _byte(128 + radius * np.sin(angle) * cover)
        pictures = [Picture(*planes) for planes in zip(luma, cb, cr, strict=True)]
        for motion in MOTIONS:
            yield f"{colour}_{motion}", [pictures[k] for k in orders[motion]]


def shuffled(rng: np.random.Generator) -> np.ndarray:
    """An order [FRAMES] of the heights that goes back and forth, as often up as down.

    A free shuffle would show in a sparse set of frames, whose heights are evenly spread only in the
    other motions. Here eights, fours and pairs of neighbours change places but stay together: one
    random frame from each of 3, 6 or 12 equal segments makes sets of the same distribution.
    """
    eights = rng.permutation(np.arange(FRAMES).reshape(3, 2, 4))
    fours = np.concatenate([rng.permutation(eight) for eight in eights])
    turns = np.array([[1, 0, 3, 2], [2, 3, 0, 1]])[rng.permutation(6) % 2]
    return np.take_along_axis(fours, turns, axis=1).ravel()


class _Scene(NamedTuple):
    shape: str
    radius: float  # pixels, as all lengths
    turn: float  # radians, as all angles
    x: float  # centre
    y: np.ndarray  # [FRAMES], from the bottom up
    shade: float  # luma of the object
    stripe: np.ndarray  # wave vector (x, y) of its pattern
    ground: float  # luma of the background
    waves: np.ndarray  # [N, 3] its texture: wave vectors and phases

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> _Scene:
        radius = size * rng.uniform(0.12, 0.15)
        half = size * rng.uniform(0.18, 0.27)  # of the way
        middle = size / 2 + (size / 2 - radius - half) * rng.uniform(-0.8, 0.8)
        bright = rng.choice([-1, 1])
        return cls(
            shape=rng.choice(list(SHAPES)),
            radius=radius,
            turn=rng.uniform(0, 2 * np.pi),
            x=size / 2 + (size / 2 - radius) * rng.uniform(-0.8, 0.8),
            y=middle + half * np.linspace(1, -1, FRAMES),
            shade=127 + bright * rng.uniform(15, 22),
            stripe=_wave(rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.0, 1.6)),
            ground=127 - bright * rng.uniform(12, 19),
            waves=np.array(
                [
                    [*_wave(rng.uniform(0, 2 * np.pi), size * rng.uniform(0.15, 0.5)), phase]
                    for phase in rng.uniform(0, 2 * np.pi, 6)
                ]
            ),
        )


def _draw(scene: _Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Luma [FRAMES, size, size] uint8, and how much of each chroma pixel the object covers."""
    y, x = np.mgrid[:size, :size] + 0.5
    ground = scene.ground + sum(4 * np.sin(u * x + v * y + phase) for u, v, phase in scene.waves)
    dx, dy = x - scene.x, y - scene.y[:, None, None]
    outline = scene.radius * SHAPES[scene.shape](np.arctan2(dy, dx) + scene.turn)
    cover = np.clip(outline - np.hypot(dx, dy) + 0.5, 0, 1)
    u, v = scene.stripe
    pattern = scene.shade + 9 * np.sin(u * dx + v * dy)
    luma = np.clip(ground + (pattern - ground) * cover, *LUMA)
    return _byte(luma), cover.reshape(FRAMES, size // 2, 2, size // 2, 2).mean((2, 4))


def _polygon(angle: np.ndarray, corners: int) -> np.ndarray:
    side = 2 * np.pi / corners
    return np.cos(side / 2) / np.cos(angle % side - side / 2)


def _wave(direction: float, length: float) -> np.ndarray:
    return 2 * np.pi / length * np.array([np.cos(direction), np.sin(direction)])


def _byte(plane: np.ndarray) -> np.ndarray:
    return np.rint(plane).astype(np.uint8)
