import cv2
import numpy as np
import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.gray_gradients_flow import GrayGradientsFlow
from actionkit.data.transforms.kinds import dequantize_flow
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize


def clip(steps, channels=3, height=20, width=28, channels_last=True):
    """Smooth random frames [2, 1, steps, C, H, W] uint8."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2 * steps, height, width, channels), np.uint8)
    frames = np.stack([cv2.GaussianBlur(f, (0, 0), 2).reshape(f.shape) for f in noise])
    x = torch.from_numpy(frames).movedim(-1, -3).unflatten(0, (2, 1, steps))
    times = torch.arange(steps).float().expand(2, 1, steps).clone()
    mask = torch.ones(2, 1, steps, dtype=torch.bool)
    return Clip(x if channels_last else x.contiguous(), mask, times, "rgb")


def naive_gradients(gray):
    """d/dx and d/dy of a picture [H, W] in float64, pixel by pixel."""
    height, width = gray.shape
    result = np.zeros((2, height, width))
    for i in range(height):
        for j in range(width):
            left, right = gray[i, max(j - 1, 0)], gray[i, min(j + 1, width - 1)]
            above, below = gray[max(i - 1, 0), j], gray[min(i + 1, height - 1), j]
            result[:, i, j] = (right - left) / 2, (below - above) / 2
    return result


@pytest.mark.parametrize(("frames", "maps"), [(7, 33), (9, 43)])
def test_a_snippet_has_the_published_number_of_maps(frames, maps):
    transform = GrayGradientsFlow(length=frames)
    out = transform.apply({"rgb": clip(frames)}, [{}, {}])
    assert sum(c.x.shape[2] * c.x.shape[3] for c in out.values()) == maps
    kinds = {name: (c.x.shape[2], c.x.shape[3], c.kind, c.x.dtype) for name, c in out.items()}
    assert kinds == {
        "gray": (frames, 1, "gray", torch.uint8),
        "gradients": (frames, 2, "flow", torch.uint8),
        "flow": (frames - 1, 2, "flow", torch.uint8),
    }
    assert transform.out({"rgb": Shape(frames, 3, 60, 40)}) == {
        "gray": Shape(frames, 1, 60, 40),
        "gradients": Shape(frames, 2, 60, 40),
        "flow": Shape(frames - 1, 2, 60, 40),
    }


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_gradients_equal_a_loop_over_pixels(channels, channels_last):
    frames = clip(3, channels, channels_last=channels_last)
    out = GrayGradientsFlow(length=3, gradient_bound=127.5).apply({"rgb": frames}, [{}, {}])
    for b in range(2):
        for t in range(3):
            picture = np.ascontiguousarray(frames.x[b, 0, t].movedim(0, -1).numpy())
            gray = picture[..., 0] if channels == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            assert np.array_equal(out["gray"].x[b, 0, t, 0].numpy(), gray)
            expected = np.rint(naive_gradients(gray.astype(np.float64)) + 127.5)
            assert np.array_equal(out["gradients"].x[b, 0, t].double().numpy(), expected)


def test_gradients_are_clipped_to_their_bound_and_normalized_to_a_fraction_of_it():
    edge = torch.zeros(1, 1, 2, 1, 12, 12, dtype=torch.uint8)
    edge[..., 6:] = 200
    front = (1, 1, 2)
    frames = Clip(edge, torch.ones(front, dtype=torch.bool), torch.zeros(front), "gray")
    for bound, height in ((50.0, 1.0), (100.0, 1.0), (125.0, 0.8)):
        transform = GrayGradientsFlow(length=2, gradient_bound=bound)
        out = transform.apply({"rgb": frames}, [{}])
        slopes = Normalize().apply(out, [{}])["gradients"].x
        assert slopes[..., 0, :, 5:7].sub(height).abs().max() < 1 / 127.5
        assert slopes[..., 0, :, :5].abs().max() < 1 / 127.5
        assert slopes[..., 1, :, :].abs().max() < 1 / 127.5


def test_flow_is_that_of_dis_flow_and_snippets_never_cross():
    frames = clip(6)
    ours = GrayGradientsFlow(length=3, bound=8.0).apply({"rgb": frames}, [{}, {}])["flow"]
    theirs = DISFlow(length=2, bound=8.0).apply({"rgb": frames}, [{}, {}])["flow"]
    assert torch.equal(ours.x, theirs.x)
    assert ours.times[0, 0].tolist() == [0, 1, 3, 4]


def test_a_mirrored_gradient_changes_its_sign_across_alone():
    yes, transform = [{"mirror": True}] * 2, GrayGradientsFlow(length=2, gradient_bound=127.5)
    frames = {"rgb": clip(2)}
    before = transform.apply(Mirror().apply(frames, yes), [{}, {}])
    behind = Mirror().apply(transform.apply(frames, [{}, {}]), yes)
    assert torch.equal(before["gray"].x, behind["gray"].x)
    ours, theirs = (dequantize_flow(c["gradients"].x, 127.5) for c in (before, behind))
    assert (ours - theirs).abs().max() <= 1  # a level, where a half is rounded
    assert (ours[..., 0, :, :] + theirs[..., 0, :, :]).abs().max() > 5  # the sign matters


def test_padding():
    frames = clip(6)
    frames.x[0, 0, 4:] = 0
    frames.mask[0, 0, 4:] = False
    frames.times[0, 0, 4:] = torch.nan
    out = GrayGradientsFlow(length=3).apply({"rgb": frames}, [{}, {}])
    assert out["gray"].mask[0, 0].tolist() == [True] * 4 + [False] * 2
    assert torch.equal(out["gradients"].mask, out["gray"].mask)
    assert out["flow"].mask[0, 0].tolist() == [True, True, False, False]
    assert out["flow"].times[0, 0].isnan().tolist() == [False, False, True, True]


def test_other_modalities_stay_and_nothing_is_changed_in_place():
    frames, other = clip(2), clip(2, height=4)
    before = frames.x.clone()
    out = GrayGradientsFlow(length=2).apply({"rgb": frames, "b": other}, [{}, {}])
    assert list(out) == ["b", "gray", "gradients", "flow"]
    assert out["b"] is other
    assert torch.equal(frames.x, before)


def test_a_gray_source_is_replaced_by_itself():
    out = GrayGradientsFlow(length=2, source="gray").out({"gray": Shape(4, 1, None, None)})
    assert out == {
        "gray": Shape(4, 1, None, None),
        "gradients": Shape(4, 2, None, None),
        "flow": Shape(2, 2, None, None),
    }


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rgb": Shape(8, 3, 60, 40)}, "takes snippets of 7 frames .length., but gets 8 steps; set "
                                       "the sampler's length to 7"),
        ({"a": Shape(7, 3, 60, 40)}, "takes the modality 'rgb', but there is 'a'; name one"),
        ({"rgb": Shape(7, 2, 60, 40)}, "takes frames of 1 or 3 channels, but 'rgb' has 2; put it "
                                       "before what stacks them"),
        ({"rgb": Shape(7, 3, 8, 40)}, "takes frames of at least 12x12 pixels, but gets 8x40; give"),
        ({"rgb": Shape(7, 3, 60, 40), "flow": Shape(6, 2, 60, 40)},
         "adds 'flow', which is there already; give it another name"),
    ],
)  # fmt: skip
def test_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        GrayGradientsFlow().out(shapes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length": 1}, "takes a length of at least 2, for flow lies between frames, but gets 1"),
        ({"gradient_bound": 0}, "takes a gradient_bound above 0, but gets 0"),
        ({"bound": 0}, "takes a bound above 0 pixels, but gets 0"),
    ],
)
def test_constructor_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        GrayGradientsFlow(**options)
