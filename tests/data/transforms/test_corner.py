from collections import Counter

import numpy as np
import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.boxes import Box
from actionkit.data.transforms.corner import CornerMultiScale
from actionkit.data.transforms.mirror import Mirror
from actionkit.testing import toy

FRAME = (256, 340)  # TSN's frames
YES = {"mirror": True}


def published(more):
    """(left, top, width, height) of every crop of TSN's code (GroupMultiScaleCrop) in 340x256."""
    height, width = FRAME
    sizes = [int(min(FRAME) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    crops = []
    for i, h in enumerate(sizes):
        for j, w in enumerate(sizes):
            if abs(i - j) > 1:
                continue
            x, y = (width - w) // 4, (height - h) // 4
            places = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
            if more:
                places += [(0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
            crops += [(a * x, b * y, w, h) for a, b in places]
    return crops


@pytest.mark.parametrize("more", [False, True])
def test_boxes_are_those_of_tsn_to_a_few_pixels_and_equally_likely(more):
    transform = CornerMultiScale(size=224, more_places=more)
    rng = np.random.default_rng(0)
    count = 200 * len(published(more))
    draws = [transform.draw(rng) for _ in range(count)]
    seen = Counter((draw["sides"], draw["place"]) for draw in draws)
    assert len(seen) == len(published(more)) == 10 * (13 if more else 5)
    assert max(seen.values()) < 270  # of 200 expected
    assert min(seen.values()) > 130
    ours = set()
    for sides, place in seen:
        draw = {"sides": sides, "place": place}
        rows, columns = transform.box(draw, FRAME[1] / FRAME[0]).pixels(*FRAME)
        size = columns.stop - columns.start, rows.stop - rows.start
        ours.add((columns.start, rows.start, *size))
    theirs = np.array(published(more))
    distance = np.abs(np.array(sorted(ours))[:, None] - theirs[None]).max(-1)
    # Their steps are whole quarters, so their corners may lie 3 pixels inside the frame.
    assert distance.min(0).max() <= 3
    assert distance.min(1).max() <= 3


def test_corners_are_the_corners():
    transform = CornerMultiScale(size=8)
    for place, edges in [((0, 0), (0, 192, 0, 168)), ((1, 1), (64, 256, 172, 340))]:
        rows, columns = transform.box({"sides": (0.65625, 0.75), "place": place}, 340 / 256).pixels(
            *FRAME
        )
        assert (rows.start, rows.stop, columns.start, columns.stop) == edges


def test_sides_are_at_most_max_distort_places_apart():
    assert len(CornerMultiScale(size=8, max_distort=0).sides) == 4
    assert len(CornerMultiScale(size=8, max_distort=3).sides) == 16
    flow = CornerMultiScale(size=8, scales=(1.0, 0.875, 0.75))
    assert (1.0, 0.75) not in flow.sides
    assert (0.875, 0.75) in flow.sides


def test_evaluation_is_the_centre():
    transform = CornerMultiScale(size=224)
    assert transform.draw(None) == {}
    rows, columns = transform.box({}, 340 / 256).pixels(*FRAME)
    assert (rows, columns) == (slice(16, 240), slice(58, 282))
    assert transform.box({}, 1.0) == Box.largest(1.0, 1.0, 0.875)


def test_all_modalities_share_the_box():
    transform = CornerMultiScale(size=16)
    rgb, gray = toy.clip("rgb", channels=3), toy.clip("gray", channels=1)
    gray = gray._replace(x=rgb.x[..., :1, :, :])
    draws = [transform.draw(np.random.default_rng(seed)) for seed in (1, 2)]
    out = transform.apply({"rgb": rgb, "gray": gray}, draws)
    assert torch.equal(out["rgb"].x[..., :1, :, :], out["gray"].x)
    assert out["rgb"].x.shape[3:] == (3, 16, 16)
    assert transform.out({"rgb": Shape(12, 3, 32, 32)}) == {"rgb": Shape(12, 3, 16, 16)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flow_of_a_mirrored_clip_is_the_mirrored_flow(dtype):
    """The box on the other side of the mirrored frames gives the mirrored picture and vectors."""
    transform = CornerMultiScale(size=(20, 12))
    flow = toy.clip("flow", channels=2)
    flow = flow._replace(x=flow.x.to(dtype))
    for sides in [(1.0, 0.875), (0.5, 0.75)]:
        here = [{"sides": sides, "place": (0, 1)}] * 2
        there = [{"sides": sides, "place": (1, 1)}] * 2
        a = Mirror().apply(transform.apply({"flow": flow}, here), [YES, YES])["flow"]
        b = transform.apply(Mirror().apply({"flow": flow}, [YES, YES]), there)["flow"]
        real = a.mask
        assert (a.x[real].float() - b.x[real].float()).abs().max() <= 2
        assert a.x[real].float().std() > 20


def test_vectors_of_flow_are_scaled_with_each_side():
    x = torch.full((1, 1, 1, 2, 32, 64), 8.0)
    flow = Clip(x, torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1), "flow")
    draw = {"sides": (1.0, 0.5), "place": (0.5, 0.5)}  # 32 wide, 16 high
    out = CornerMultiScale(size=32).apply({"flow": flow}, [draw])["flow"].x
    assert out[0, 0, 0, 0].eq(8).all()
    assert out[0, 0, 0, 1].eq(16).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, "a size of at least 1 pixel, but gets 0"),
        ({"scales": (1.0, 1.2)}, r"scales above 0 and at most 1, but gets \(1.0, 1.2\)"),
        ({"scales": ()}, "scales above 0"),
        ({"max_distort": -1}, "a max_distort of at least 0, but gets -1"),
        ({"eval_scale": 1.5}, "an eval_scale above 0 and at most 1, but gets 1.5"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^takes {sentence}"):
        CornerMultiScale(**{"size": 8, **options})
