import cv2
import numpy as np
import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.short_side import ShortSideScale


def clip(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frame = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 0, 255, cv2.NORM_MINMAX)
    x = torch.from_numpy(frame).movedim(-1, 0)[None, None, None]
    return Clip(x, torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1), "rgb")


@pytest.mark.parametrize(("height", "width"), [(180, 320), (320, 180), (240, 240)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.5), (0.9, 0.3)])
def test_is_the_crop_of_the_resized_frame(height, width, place):
    """In place of resizing all of it; on smooth frames to a few levels, as edges are rounded."""
    inp, size, short = clip(height, width), 112, 160
    transform = ShortSideScale(size=size, short_side=(short, short), eval_short_side=short)
    draw = {"short_side": short, "place": place}
    ours = transform.apply({"rgb": inp}, [draw])["rgb"].x[0, 0, 0].movedim(0, -1).numpy()
    factor = short / min(height, width)
    whole = (round(width * factor), round(height * factor))
    resized = cv2.resize(inp.x[0, 0, 0].movedim(0, -1).numpy(), whole)
    left, top = (round(p * (side - size)) for p, side in zip(place, whole, strict=True))
    expected = resized[top : top + size, left : left + size]
    difference = np.abs(ours.astype(int) - expected)
    assert difference.mean() < 4
    assert np.abs(expected.astype(int) - expected.mean()).mean() > 15


def test_draws():
    transform = ShortSideScale(size=224)
    assert transform.draw(None) == {"short_side": 256, "place": (0.5, 0.5)}
    rng = np.random.default_rng(0)
    drawn = [transform.draw(rng) for _ in range(2000)]
    lengths = np.sort([d["short_side"] for d in drawn])
    assert lengths[0] >= 256
    assert lengths[-1] <= 320
    assert np.abs(lengths - np.linspace(256, 320, 2000)).max() < 3
    for axis in range(2):
        places = np.sort([d["place"][axis] for d in drawn])
        assert np.abs(places - np.linspace(0, 1, 2000)).max() < 0.04


def test_evaluation_is_the_usual_centre_crop():
    transform = ShortSideScale(size=224)
    rows, columns = transform.box(transform.draw(None), 340 / 256).pixels(256, 340)
    assert (rows, columns) == (slice(16, 240), slice(58, 282))


def test_height_and_width_of_their_own():
    transform = ShortSideScale(size=(100, 200), short_side=(200, 200), eval_short_side=200)
    draw = {"short_side": 200, "place": (0, 0)}
    rows, columns = transform.box(draw, 640 / 400).pixels(400, 640)
    assert (rows, columns) == (slice(0, 200), slice(0, 400))
    assert transform.out({"rgb": Shape(4, 3, None, None)}) == {"rgb": Shape(4, 3, 100, 200)}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, "takes a size of at least 1 pixel, but gets 0"),
        ({"short_side": (320, 256)}, r"takes a short_side \(least, most\), but gets \(320, 256\)"),
        (
            {"short_side": (200, 256)},
            "cuts 224x224 pixels out of a short side of 200; set short_side and eval_short_side "
            "to at least 224",
        ),
        ({"eval_short_side": 112}, "cuts 224x224 pixels out of a short side of 112; set"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        ShortSideScale(**{"size": 224, **options})
