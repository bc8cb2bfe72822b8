"""Pictures of a texture that is known everywhere, and what it looks like after a known flow."""

from __future__ import annotations

import numpy as np

MARGIN = 16  # pixels at the border, where what is seen leaves the picture

SPECTRA = {  # waves of cycles per pixel from, to, and how the amplitude falls with the frequency
    "smooth": (0.005, 0.2, 1.0),  # as natural pictures
    "fine": (0.02, 0.15, 0.3),
}


class Texture:
    """A sum of 200 random waves, so that its value is exact at any point."""

    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        low, high, fall = SPECTRA[kind]
        frequency = np.exp(rng.uniform(np.log(low), np.log(high), 200))
        angle = rng.uniform(0, 2 * np.pi, 200)
        self.phase = rng.uniform(0, 2 * np.pi, 200)
        self.x = 2 * np.pi * frequency * np.cos(angle)
        self.y = 2 * np.pi * frequency * np.sin(angle)
        self.amplitude = frequency**-fall

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Its values at points x, y [H, W], of zero mean and unit deviation."""
        total = np.zeros_like(x)
        for a, u, v, phase in zip(self.amplitude, self.x, self.y, self.phase, strict=True):
            total += a * np.cos(u * x + v * y + phase)
        return total / np.sqrt((self.amplitude**2).sum() / 2)


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The points x, y [H, W] of a picture's pixels."""
    y, x = np.mgrid[:height, :width].astype(float)
    return x, y


def smooth_flow(most: float, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A flow [2, H, W] that varies slowly, at most `most` pixels long."""
    x, y = grid(height, width)
    flow = np.zeros((2, height, width))
    for _ in range(6):
        u, v = rng.normal(size=2) * 2 * np.pi / 300
        wave = np.cos(u * x + v * y + rng.uniform(0, 2 * np.pi))
        flow += rng.normal(size=(2, 1, 1)) * wave
    return flow * most / np.hypot(*flow).max()


def picture(values: np.ndarray) -> np.ndarray:
    """Values of a texture as uint8."""
    return np.round(127.5 + 50 * values).clip(0, 255).astype(np.uint8)


def pair(
    kind: str, most: float, seed: int, height: int = 128, width: int = 160
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two pictures [H, W] uint8, and the flow [2, H, W] from the first to the second.

    The second is the texture itself, and first(p) = second(p + flow(p)) holds exactly.
    """
    rng = np.random.default_rng(seed)
    texture, flow = Texture(kind, rng), smooth_flow(most, height, width, rng)
    x, y = grid(height, width)
    return picture(texture(x + flow[0], y + flow[1])), picture(texture(x, y)), flow


def endpoint_error(found: np.ndarray, flow: np.ndarray) -> float:
    """Mean length in pixels of the difference of two flows [..., 2, H, W], the border left out."""
    difference = np.hypot(*np.moveaxis(found - flow, -3, 0))
    return float(difference[..., MARGIN:-MARGIN, MARGIN:-MARGIN].mean())
