import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.gray import Gray


def clip(x):
    mask = torch.ones(x.shape[:3], dtype=torch.bool)
    return Clip(x, mask, torch.zeros(x.shape[:3]), "rgb")


def test_is_the_weighted_sum_of_the_colours():
    x = torch.randint(0, 256, (2, 1, 3, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    found = Gray().apply({"rgb": clip(x.to(torch.uint8))}, [{}, {}])
    assert found.keys() == {"gray"}
    gray = found["gray"]
    assert (gray.kind, gray.x.dtype, gray.x.shape) == ("gray", torch.uint8, (2, 1, 3, 1, 4, 6))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    wanted = (x * weights).sum(-3, keepdim=True)
    torch.testing.assert_close(gray.x.float(), wanted, rtol=0, atol=0.51)


def test_gray_frames_stay_as_they_are():
    x = torch.arange(24, dtype=torch.uint8).view(1, 1, 1, 1, 4, 6)
    assert torch.equal(Gray(name="luma").apply({"rgb": clip(x)}, [{}])["luma"].x, x)


def test_says_what_leaves():
    other = Shape(4, 2, 8, 8)
    out = Gray().out({"rgb": Shape(None, 3, 6, None), "flow": other})
    assert out == {"flow": other, "gray": Shape(None, 1, 6, None)}


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rgb": Shape(4, 6, 8, 8)}, "1 or 3 channels, but 'rgb' has 6; put it before"),
        ({"flow": Shape(4, 2, 8, 8)}, "rgb"),
        ({"rgb": Shape(4, 3, 8, 8), "gray": Shape(4, 1, 8, 8)}, "adds 'gray', which is there"),
    ],
)
def test_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Gray().out(shapes)
