import numpy as np
import pytest

from actionkit.data.transforms.boxes import Box, draw_boxes


def size(box, height, width):
    rows, columns = box.pixels(height, width)
    return rows.stop - rows.start, columns.stop - columns.start


@pytest.mark.parametrize(("height", "width"), [(240, 320), (241, 321), (256, 340), (455, 256)])
def test_a_box_has_its_size_at_every_place(height, width):
    rng = np.random.default_rng(0)
    for side in (227, 224, 1, min(height, width)):
        for x, y in [(0, 0), (1, 1), (0.5, 0.5), *rng.random((200, 2))]:
            box = Box.placed(side / width, side / height, x, y)
            assert size(box, height, width) == (side, side)


def test_boxes_reach_both_ends_and_never_beyond():
    starts = {Box.placed(7 / 20, 1, x, 0).pixels(20, 20)[1].start for x in np.linspace(0, 1, 200)}
    assert starts == set(range(14))
    for box in (Box(0, 0, 1, 1), Box(0.999, 0.999, 1, 1), Box(0, 0, 1e-9, 1e-9)):
        for height, width in [(1, 1), (3, 500), (240, 320)]:
            for span, most in zip(box.pixels(height, width), (height, width), strict=True):
                assert 0 <= span.start < span.stop <= most


@pytest.mark.parametrize(("height", "width"), [(240, 320), (241, 321), (255, 256), (300, 227)])
@pytest.mark.parametrize("side", [227, 224])
def test_half_a_pixel_left_over_at_the_centre_goes_to_the_left_and_the_top(height, width, side):
    rows, columns = Box.placed(side / width, side / height, 0.5, 0.5).pixels(height, width)
    assert (rows.start, columns.start) == ((height - side) // 2, (width - side) // 2)


@pytest.mark.parametrize("frame", [0.5, 0.75, 1.0, 4 / 3, 3.0])
def test_size_in_short_sides(frame):
    height, width = (240, round(240 * frame)) if frame >= 1 else (round(240 / frame), 240)
    box = Box.of_short_side(0.75, 0.5, 0.3, 0.6, frame=width / height)
    assert size(box, height, width) == (120, 180)


def test_first_that_fits():
    draw = {
        "area": np.array([0.9, 0.25, 0.5]),
        "ratio": np.array([3.0, 1.0, 1.0]),
        "place": np.array([0.0, 1.0]),
    }
    box = Box.first_that_fits(draw, 1.0)
    assert box == pytest.approx((0, 0.5, 0.5, 1))
    assert (
        Box.first_that_fits({**draw, "area": np.full(3, 1.0), "ratio": np.full(3, 2.0)}, 1.0)
        is None
    )


def test_draws_lie_in_their_ranges():
    rng = np.random.default_rng(0)
    drawn = [draw_boxes(rng, (0.1, 0.5), (0.5, 2.0)) for _ in range(300)]
    areas = np.concatenate([d["area"] for d in drawn])
    ratios = np.log2(np.concatenate([d["ratio"] for d in drawn]))
    assert 0.1 <= areas.min() < 0.11
    assert 0.49 < areas.max() <= 0.5
    assert abs(areas.mean() - 0.3) < 0.01
    assert -1 <= ratios.min() < -0.98
    assert abs(ratios.mean()) < 0.03
