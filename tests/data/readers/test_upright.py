from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from files_for_readers import decode_all, read
from videos import moving_frames

from actionkit.data.readers.pyav import PyAV
from actionkit.data.readers.upright import Turn, turn

ONE = 1 << 16


def write_matrix(path, a, b, c, d):
    """A video that asks to be shown with pixel (x, y) at (a x + c y, b x + d y)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_matrix([a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30])
        for time, image in enumerate(moving_frames(4)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown(image, a, b, c, d):
    """Pixel by pixel what the matrix says, on [H, W, 3]."""
    height, width = image.shape[:2]
    places = {(a * x + c * y, b * x + d * y): (y, x) for y in range(height) for x in range(width)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    size = (height, width) if a else (width, height)
    out = np.zeros((*size, 3), np.uint8)
    for (x, y), pixel in places.items():
        out[y - top, x - left] = image[pixel]
    return out


MATRICES = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)]
MATRICES += [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_every_way_to_lay_a_rectangle_on_itself(tmp_path, matrix):
    path = write_matrix(tmp_path / "a.mp4", *matrix)
    expected = np.stack([shown(image, *matrix) for image in decode_all(path)])
    info = PyAV().probe(path)
    assert (info.frames, info.height, info.width) == expected.shape[:3]
    assert np.array_equal(read(PyAV(), path, [3, 0, 1]), expected[[3, 0, 1]])


def test_without_a_matrix_nothing_is_turned():
    assert turn(SimpleNamespace(side_data={})) == Turn()


@pytest.mark.parametrize("degrees", [0, 90, 180, -180, -90])
def test_data_of_an_unknown_kind_beside_it_leave_the_rotation(degrees):
    class Unknown:
        def get(self, _):
            raise ValueError("99 is not a valid Type")

    image = moving_frames(1)[0]
    found = turn(SimpleNamespace(side_data=Unknown(), rotation=degrees))
    assert np.array_equal(found.apply(image), np.rot90(image, degrees // 90))


def test_says_what_it_is():
    assert str(Turn(True, True, False)) == "is turned by 90 degrees"
    assert str(Turn(False, True, True)) == "is turned by 180 degrees"
    assert str(Turn(True, False, True)) == "is turned by 270 degrees"
    assert str(Turn(False, False, True)) == "is mirrored"
