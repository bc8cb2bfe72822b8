"""Probe `appearance_motion`: three colours times three motions, each invisible without the other's
stream.

One object, with a pattern of its own, moves before a still, gray background. Colours have the same
luma, so gray frames, and with them flow, do not tell them apart. Motions visit the same heights in
another order, so a set of frames does not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from actionkit.data.datasets.probes.video import Picture

FPS = 12
FRAMES = 24  # the shuffling counts on it
HUES = {"red": 105.0, "green": 225.0, "blue": 345.0}  # degrees from Cb towards Cr
MOTIONS = ("rise", "fall", "shuffle")
CLASSES = [f"{colour}_{motion}" for colour in HUES for motion in MOTIONS]

# Within these no channel of RGB clips, which would tell the hue in the gray frame. What rounding to
# RGB adds to gray depends on chroma; the background's faint tints drown it.
LUMA = 100, 152
TINT = 0.0  # of the background, at most
CHROMA = 33.0, 36.0  # of the object

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
    luma, tint, cover = _draw(_Scene.draw(rng, size), size)
    orders = {
        "rise": np.arange(FRAMES),
        "fall": np.arange(FRAMES)[::-1],
        "shuffle": shuffled(rng),
    }
    shift, radius = rng.uniform(-8, 8), rng.uniform(*CHROMA)
    for colour, hue in HUES.items():
        angle = np.deg2rad(hue + shift)
        cb = _byte(128 + tint[0] + radius * np.cos(angle) * cover)
        cr = _byte(128 + tint[1] + radius * np.sin(angle) * cover)
        pictures = [Picture(*planes) for planes in zip(luma, cb, cr, strict=True)]
        for motion in MOTIONS:
            yield f"{colour}_{motion}", [pictures[k] for k in orders[motion]]


def shuffled(rng: np.random.Generator) -> np.ndarray:
    """An order [FRAMES] of the heights that turns back at every frame.

    Eights, fours and pairs of neighbouring heights stay together, but change places. So not only
    the set of all frames is that of `rise` and `fall`: a random frame out of each of 3, 6 or 12
    equal segments gives sets of the same distribution too.
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
    waves: np.ndarray  # [3, N, 3] its texture in luma, Cb and Cr: wave vectors and phases

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
            shade=126 + bright * rng.uniform(12, 17),
            stripe=_wave(rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.0, 1.6)),
            ground=126 - bright * rng.uniform(10, 15),
            waves=np.array(
                [
                    [*_wave(rng.uniform(0, 2 * np.pi), size * rng.uniform(0.15, 0.5)), phase]
                    for phase in rng.uniform(0, 2 * np.pi, 18)
                ]
            ).reshape(3, 6, 3),
        )


def _draw(scene: _Scene, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Luma [FRAMES, size, size] uint8; at half that size the background's tint [2, ...] and how
    much the object covers of each pixel [FRAMES, ...].
    """
    y, x = np.mgrid[:size, :size] + 0.5
    phases = np.einsum("ijk,kyx->ijyx", scene.waves, np.stack([x, y, np.ones_like(x)]))
    texture = np.sin(phases).sum(1)
    ground = scene.ground + 3.5 * texture[0]
    dx, dy = x - scene.x, y - scene.y[:, None, None]
    outline = scene.radius * SHAPES[scene.shape](np.arctan2(dy, dx) + scene.turn)
    cover = np.clip(outline - np.hypot(dx, dy) + 0.5, 0, 1)
    u, v = scene.stripe
    pattern = scene.shade + 9 * np.sin(u * dx + v * dy)
    luma = np.clip(ground + (pattern - ground) * cover, *LUMA)
    return _byte(luma), _halve(np.clip(2.5 * texture[1:], -TINT, TINT)), _halve(cover)


def _halve(x: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 pixels, as chroma is sampled."""
    count, size, _ = x.shape
    return x.reshape(count, size // 2, 2, size // 2, 2).mean((2, 4))


def _polygon(angle: np.ndarray, corners: int) -> np.ndarray:
    side = 2 * np.pi / corners
    return np.cos(side / 2) / np.cos(angle % side - side / 2)


def _wave(direction: float, length: float) -> np.ndarray:
    return 2 * np.pi / length * np.array([np.cos(direction), np.sin(direction)])


def _byte(plane: np.ndarray) -> np.ndarray:
    return np.rint(plane).astype(np.uint8)
