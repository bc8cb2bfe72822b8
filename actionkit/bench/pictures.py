"""Pictures to measure with: smooth, moving, a little noisy, as a camera's are."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

OCTAVES = 5  # of detail, each twice as fine and half as strong as the one before

NOISE = 5.0  # of 255, a sensor's; without it an H.264 file is a third as large, or less


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of cloudy colours, float32 [H, W, 3] from 0 to 255."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(OCTAVES):
        coarse = rng.random((4 << octave, 4 << octave, 3), np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = total.min(), total.max()
    return (total - low) * (255 / (high - low))


def scene(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A camera's pan over a texture past which a disc flies, uint8 [T, H, W, 3], no two alike."""
    rng = np.random.default_rng(seed)
    large = texture(2 * height, 2 * width, seed)
    shots = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        y = round(height / 2 * (1 + np.sin(t / 40)))
        x = round(width / 2 * (1 + np.cos(t / 25)))
        shot = large[y : y + height, x : x + width].copy()
        place = (int(7 * t) % width, height // 2 + int(height / 4 * np.sin(t / 6)))
        cv2.circle(shot, place, height // 8, (t * 37 % 256, 200, 90), -1)
        shot += rng.normal(0, NOISE, shot.shape[:2])[..., None]
        shots[t] = shot.clip(0, 255)
    return shots


class Pair(NamedTuple):
    """Two frames and the true flow between them."""

    first: np.ndarray  # uint8 [H, W, 3]
    second: np.ndarray
    flow: np.ndarray  # float32 [H, W, 2], dx and dy in pixels: first(p) = second(p + flow(p))


def warped(height: int, width: int, most: float = 6.0, seed: int = 0) -> Pair:
    """A pair whose flow is smooth and at most `most` pixels long."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle_x, angle_y = 2 * np.pi * rows / height, 2 * np.pi * columns / width
    flow = np.stack([np.sin(angle_x + 1) + 0.5, np.cos(angle_y) - 0.3], -1).astype(np.float32)
    flow *= most / np.linalg.norm(flow, axis=-1).max()
    second = texture(height, width, seed)
    first = cv2.remap(
        second, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return Pair(_bytes(first), _bytes(second), flow)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture).clip(0, 255).astype(np.uint8)
