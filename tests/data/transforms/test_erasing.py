import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from actionkit.contracts import Clip
from actionkit.data.transforms.erasing import Erasing
from actionkit.testing import toy


def black(height, width, channels=3, kind="rgb"):
    x = torch.zeros(1, 2, 3, channels, height, width, dtype=torch.uint8)
    return Clip(x, torch.ones(1, 2, 3, dtype=torch.bool), torch.zeros(1, 2, 3), kind)


def draw(area=0.25, ratio=1.0, place=(0.0, 1.0)):
    return {
        "area": np.full(10, area),
        "ratio": np.full(10, ratio),
        "place": np.array(place),
        "noise": 5,
    }


def edges(erased):
    rows, columns = erased.nonzero().T
    assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_one_rectangle_in_all_frames_and_the_rest_stays():
    clip = toy.clip("rgb")
    out = Erasing().apply({"rgb": clip}, [draw(), draw()])["rgb"].x
    real = clip.mask
    box = out[..., 16:, :16][real]
    assert torch.equal(box, box[:1].expand_as(box))  # the same noise in every frame
    assert 100 < box.float().mean() < 155
    assert box.float().std() > 60
    kept = torch.ones(32, 32, dtype=torch.bool)
    kept[16:, :16] = False
    assert torch.equal(out[real][..., kept], clip.x[real][..., kept])


def test_mean_is_the_colour_that_normalize_makes_zero():
    rgb, gray = black(32, 32), black(32, 32, 1, "gray")
    out = Erasing(fill="mean").apply({"rgb": rgb, "gray": gray}, [draw()])
    assert out["rgb"].x[0, 1, 2, :, 31, 0].tolist() == [124, 116, 104]
    assert out["gray"].x[0, 1, 2, :, 31, 0].tolist() == [114]
    assert out["rgb"].x[0, 1, 2, :, 0, 0].tolist() == [0, 0, 0]


def test_modalities_share_the_rectangle_and_flow_stays():
    clips = {
        "rgb": black(40, 60),
        "gray": black(20, 30, 1, "gray"),
        "flow": black(40, 60, 2, "flow"),
    }
    out = Erasing(fill="mean").apply(clips, [draw(0.3, 1.5, (0.3, 0.6))])
    large = out["rgb"].x[0, 0, 0, 0] > 0
    small = out["gray"].x[0, 0, 0, 0] > 0
    assert abs(large.float().mean() - 0.3) < 0.02
    for a, b in zip(edges(large), edges(small), strict=True):
        assert abs(a - 2 * b) <= 2  # a pixel of the smaller
    assert out["flow"] is clips["flow"]


def test_rectangles_are_distributed_as_those_of_torchvision():
    height, width, count = 60, 80, 1500
    ours, rng = [], np.random.default_rng(0)
    transform = Erasing(probability=1.0, fill="mean")
    for _ in range(count):
        erased = transform.apply({"x": black(height, width)}, [transform.draw(rng)])["x"].x
        ours.append((erased[0, 0, 0, 0] > 0).float().mean().item())
    torch.manual_seed(0)
    reference = v2.RandomErasing(p=1.0, scale=(0.02, 0.4), ratio=(0.3, 3.3333), value=1)
    image = torch.zeros(1, height, width)
    theirs = [reference(image).mean().item() for _ in range(count)]
    for q in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert abs(np.quantile(ours, q) - np.quantile(theirs, q)) < 0.03


def test_what_never_fits_erases_nothing():
    clip = black(32, 32)
    out = Erasing().apply({"rgb": clip}, [draw(area=0.9, ratio=3.0)])["rgb"]
    assert torch.equal(out.x, clip.x)


def test_draws():
    rng = np.random.default_rng(0)
    share = np.mean([bool(Erasing(probability=0.3).draw(rng)) for _ in range(4000)])
    assert abs(share - 0.3) < 0.03
    assert Erasing(probability=1.0).draw(None) == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probability": -1.0}, "probability from 0 to 1, but gets -1.0"),
        ({"scale": (0.4, 0.2)}, r"scale \(least, most\) between 0 and 1, but gets \(0.4, 0.2\)"),
        ({"scale": (0.4, 1.0)}, "scale .* between 0 and 1"),
        ({"ratio": (0.0, 1.0)}, r"ratio \(least, most\) above 0"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^takes a {sentence}"):
        Erasing(**options)
