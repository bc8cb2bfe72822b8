"""Which way up the frames of a video are shown."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame


class Turn(NamedTuple):
    """What puts a stored frame upright: one of the eight ways to lay a rectangle on itself."""

    transpose: bool = False
    upside_down: bool = False  # rows reversed, behind the transposition
    mirror: bool = False  # columns reversed, behind the transposition

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image [H, W, 3] turned, as a view; H and W change places with `transpose`."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.upside_down else 1, :: -1 if self.mirror else 1]

    def __str__(self) -> str:
        """The rest of a sentence: "is turned by 90 degrees"."""
        if self in QUARTERS:
            return f"is turned by {90 * QUARTERS.index(self)} degrees"
        return "is mirrored"


QUARTERS = (Turn(), Turn(True, True, False), Turn(False, True, True), Turn(True, False, True))


def turn(frame: VideoFrame) -> Turn:
    """The nearest of the eight to a frame's display matrix; nothing to do where it has none."""
    try:
        stored = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # the frame also holds data of a kind that this PyAV has no name for
        return QUARTERS[round(frame.rotation / 90) % 4]
    if stored is None:
        return Turn()
    # A pixel (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(stored), np.int32).tolist()[:5]  # type: ignore[call-overload]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Turn(True, upside_down=b < 0, mirror=c < 0)
    return Turn(False, upside_down=d < 0, mirror=a < 0)
