"""Makers of test videos."""

import numpy as np

from actionkit.testing.toy import write_video

__all__ = ["moving_frames", "write_video"]


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames [T, H, W, 3] uint8, every one different: noise that drifts to the right."""
    texture = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    image = np.kron(texture, np.ones((5, 5, 1), np.uint8))[:height, :width]
    frames = np.stack([np.roll(image, 3 * t, axis=1) for t in range(count)])
    frames[:, :8, :8] = (np.arange(count, dtype=np.int64) * 37 % 256)[:, None, None, None]
    return frames
