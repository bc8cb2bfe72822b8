import numpy as np
import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.fovea_context import FoveaContext
from actionkit.data.transforms.kinds import dequantize_flow
from actionkit.data.transforms.mirror import Mirror


def clip(height=12, width=16, channels=3, kind="rgb", dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 1, 3, channels, height, width), generator=generator).to(dtype)
    front = x.shape[:3]
    return Clip(x, torch.rand(front) > 0.5, torch.rand(front), kind)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_equals_a_loop_over_pixels(dtype):
    given = clip(dtype=dtype)
    out = FoveaContext().apply({"rgb": given}, [{}, {}])
    x = given.x.double().numpy()
    fovea, context = np.zeros((2, 1, 3, 3, 6, 8)), np.zeros((2, 1, 3, 3, 6, 8))
    for i in range(6):
        for j in range(8):
            fovea[..., i, j] = x[..., 3 + i, 4 + j]
            context[..., i, j] = x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((-1, -2))
    if dtype == torch.uint8:
        context = np.rint(context)
    assert set(out) == {"fovea", "context"}
    for name, expected in (("fovea", fovea), ("context", context)):
        assert out[name].x.dtype == dtype
        assert np.array_equal(out[name].x.double().numpy(), expected)
        assert out[name].mask is given.mask
        assert out[name].times is given.times
        assert out[name].kind == "rgb"


def test_karpathy_has_89_of_178_and_half_the_pixels():
    shapes = FoveaContext().out({"rgb": Shape(10, 3, 178, 178)})
    assert shapes == {"fovea": Shape(10, 3, 89, 89), "context": Shape(10, 3, 89, 89)}
    out = FoveaContext().apply({"rgb": clip(178, 178)}, [{}, {}])
    assert {c.x.shape[-2:] for c in out.values()} == {(89, 89)}
    assert sum(c.x.numel() for c in out.values()) * 2 == clip(178, 178).x.numel()


def test_flow_is_halved_with_the_picture():
    stored = FoveaContext(source="flow").apply({"flow": clip(channels=2, kind="flow")}, [{}, {}])
    given = clip(channels=2, kind="flow")
    given = given._replace(x=dequantize_flow(given.x))
    exact = FoveaContext(source="flow").apply({"flow": given}, [{}, {}])
    means = given.x.unflatten(-1, (8, 2)).unflatten(-3, (6, 2)).mean((-3, -1))
    torch.testing.assert_close(exact["context"].x, means / 2, rtol=0, atol=1e-6)
    difference = dequantize_flow(stored["context"].x) - exact["context"].x
    assert difference.abs().max() <= 0.5 / 127.5 + 1e-6
    assert torch.equal(exact["fovea"].x, given.x[..., 3:9, 4:12])


@pytest.mark.parametrize(("channels", "kind"), [(3, "rgb"), (2, "flow"), (1, "gray")])
def test_mirroring_before_and_behind_is_the_same(channels, kind):
    yes, transform = [{"mirror": True}] * 2, FoveaContext(source="it")
    given = {"it": clip(channels=channels, kind=kind, dtype=torch.float32)}
    before = transform.apply(Mirror().apply(given, yes), [{}, {}])
    behind = Mirror().apply(transform.apply(given, [{}, {}]), yes)
    for name in ("fovea", "context"):
        torch.testing.assert_close(before[name].x, behind[name].x)


def test_other_modalities_stay_and_nothing_is_changed_in_place():
    given, other = clip(), clip(5, 7)
    before = given.x.clone()
    out = FoveaContext(fovea="near", context="far").apply({"rgb": given, "b": other}, [{}, {}])
    assert list(out) == ["b", "near", "far"]
    assert out["b"] is other
    assert torch.equal(given.x, before)


def test_out():
    shapes = {"rgb": Shape(4, 3, None, 20), "b": Shape(1, 2, 3, 4)}
    assert FoveaContext().out(shapes) == {
        "b": Shape(1, 2, 3, 4),
        "fovea": Shape(4, 3, None, 10),
        "context": Shape(4, 3, None, 10),
    }
    assert FoveaContext(fovea="rgb").out({"rgb": Shape(4, 3, 8, 8)})["rgb"] == Shape(4, 3, 4, 4)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rgb": Shape(4, 3, 177, 178)},
         "halves frames of even height and width, but gets 177x178; give crop_resize an even size"),
        ({"flow": Shape(4, 2, 8, 8)}, "takes the modality 'rgb', but there is 'flow'; name one"),
        ({"rgb": Shape(4, 3, 8, 8), "context": Shape(4, 3, 8, 8)},
         "adds 'context', which is there already; give it another name"),
    ],
)  # fmt: skip
def test_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        FoveaContext().out(shapes)


def test_refuses_one_name_for_two():
    with pytest.raises(ValueError, match=r"^gives two modalities, but both are called 'a'; "):
        FoveaContext(fovea="a", context="a")
