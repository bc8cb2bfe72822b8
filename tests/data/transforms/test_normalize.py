import pytest
import torch
from torchvision.transforms.v2 import functional

from actionkit.contracts import Clip
from actionkit.data.transforms.kinds import quantize_flow
from actionkit.data.transforms.normalize import Normalize, as_float

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def clip(channels, kind, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 1, 3, channels, 6, 8), generator=generator).to(dtype)
    front = x.shape[:3]
    return Clip(x, torch.ones(front, dtype=torch.bool), torch.zeros(front), kind)


def normalize(inp, **options):
    return Normalize(**options).apply({"x": inp}, [{}, {}])["x"]


@pytest.mark.parametrize("channels_last", [True, False])
def test_rgb_equals_torchvision(channels_last):
    inp = clip(3, "rgb")
    if channels_last:
        inp = inp._replace(x=inp.x.movedim(-3, -1).contiguous().movedim(-1, -3))
    before = inp.x.clone()
    expected = functional.normalize(inp.x.double() / 255, MEAN, STD)
    out = normalize(inp)
    assert out.x.dtype == torch.float32
    assert (out.x - expected).abs().max() < 1e-6
    assert out.x.stride() == inp.x.stride()
    assert torch.equal(inp.x, before)
    assert (out.mask is inp.mask, out.times is inp.times, out.kind) == (True, True, "rgb")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_float_rgb_is_taken_as_0_to_1(dtype):
    inp = clip(3, "rgb")
    inp = inp._replace(x=(inp.x / 255).to(dtype))
    before = inp.x.clone()
    expected = functional.normalize(inp.x.double(), MEAN, STD)
    out = normalize(inp).x
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() < 1e-5
    assert torch.equal(inp.x, before)


def test_own_mean_and_std():
    inp = clip(3, "rgb")
    out = normalize(inp, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).x
    assert (out - (inp.x / 127.5 - 1)).abs().max() < 1e-6


def test_gray_uses_the_mean_of_the_three():
    inp = clip(1, "gray")
    expected = (inp.x.double() / 255 - sum(MEAN) / 3) / (sum(STD) / 3)
    assert (normalize(inp).x - expected).abs().max() < 1e-6


def test_flow_becomes_a_fraction_of_its_bound():
    pixels = torch.linspace(-20, 20, 2 * 20 * 6 * 8).view(1, 1, 1, 2 * 20, 6, 8)
    front = (1, 1, 1)
    mask, times = torch.ones(front, dtype=torch.bool), torch.zeros(front)
    out = normalize(Clip(quantize_flow(pixels, 20.0), mask, times, "flow")).x
    assert (out - pixels / 20).abs().max() <= 1 / 255 + 1e-6
    assert out.aminmax() == (-1, 1)


@pytest.mark.parametrize(("channels", "kind"), [(20, "flow"), (5, "score"), (4, "pose")])
def test_floats_of_other_kinds_are_untouched(channels, kind):
    inp = clip(channels, kind, torch.float32)
    assert torch.equal(normalize(inp).x, inp.x)


def test_rgb_of_other_than_3_channels_is_refused():
    with pytest.raises(ValueError, match=r"^takes rgb of 3 channels, but 'x' has 1"):
        normalize(clip(1, "rgb"))


def test_std_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"^takes a std above 0, but gets"):
        Normalize(std=(0.0, 1.0, 1.0))


def test_as_float():
    for channels, kind in [(3, "rgb"), (1, "gray")]:
        inp = clip(channels, kind)
        out = as_float(inp).x
        assert out.dtype == torch.float32
        assert (out - functional.to_dtype(inp.x, torch.float32, scale=True)).abs().max() < 1e-7
    flow = clip(2, "flow")
    assert (as_float(flow).x - (flow.x.double() - 127.5) / 127.5).abs().max() < 1e-6
    assert torch.equal(as_float(clip(2, "score")).x, clip(2, "score").x.float())


@pytest.mark.parametrize("kind", ["rgb", "flow", "score"])
def test_as_float_keeps_the_values_of_floats(kind):
    half = clip(2, kind, torch.float16)
    out = as_float(half).x
    assert out.dtype == torch.float32
    assert torch.equal(out, half.x.float())
    single = clip(2, kind, torch.float32)
    assert as_float(single).x is single.x
