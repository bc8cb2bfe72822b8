import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize
from actionkit.data.transforms.rgb_diff import RGBDiff


def clip(steps, channels=3, kind="rgb", seed=0):
    """[2, 2, steps, C, 4, 6] uint8 of times 0, 1, 2, ..."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, 2, steps, channels, 4, 6), generator=generator)
    times = torch.arange(steps).float().expand(2, 2, steps).clone()
    return Clip(x.to(torch.uint8), torch.ones(2, 2, steps, dtype=torch.bool), times, kind)


@pytest.mark.parametrize(("length", "count", "channels"), [(5, 1, 3), (2, 3, 3), (1, 4, 1)])
def test_equals_a_loop_over_frames(length, count, channels):
    frames = clip(count * (length + 1), channels)
    stacked = RGBDiff(length=length).apply({"rgb": frames}, [{}, {}])["rgb_diff"]
    apart = RGBDiff(length=length, stack=False).apply({"rgb": frames}, [{}, {}])["rgb_diff"]
    assert stacked.x.shape == (2, 2, count, length * channels, 4, 6)
    assert apart.x.shape == (2, 2, count * length, channels, 4, 6)
    assert stacked.x.dtype == torch.float32
    for k in range(count):
        for i in range(length):
            first = k * (length + 1) + i
            a, b = (frames.x[:, :, t].double() / 255 for t in (first, first + 1))
            ours = stacked.x[:, :, k, i * channels : (i + 1) * channels].double()
            torch.testing.assert_close(ours, b - a, rtol=0, atol=1e-6)
            assert torch.equal(apart.x[:, :, k * length + i].double(), ours)
            assert (apart.times[:, :, k * length + i] == first).all()
        assert (stacked.times[:, :, k] == k * (length + 1)).all()


def test_tsn_has_fifteen_channels_of_six_frames():
    out = RGBDiff().out({"rgb": Shape(18, 3, 224, 224)})
    assert out == {"rgb": Shape(3, 3, 224, 224), "rgb_diff": Shape(3, 15, 224, 224)}


def test_behind_normalize_the_mean_falls_out():
    std = torch.tensor([0.5, 0.25, 0.2])
    normalize = Normalize(mean=(0.3, 0.6, 0.1), std=tuple(std.tolist()))
    frames = clip(6)
    ours = RGBDiff().apply(normalize.apply({"rgb": frames}, [{}, {}]), [{}, {}])["rgb_diff"].x
    plain = RGBDiff().apply({"rgb": frames}, [{}, {}])["rgb_diff"].x
    torch.testing.assert_close(ours, plain / std.repeat(5).view(-1, 1, 1), rtol=0, atol=1e-5)


def test_a_still_video_has_no_difference():
    still = clip(6)
    still = still._replace(x=still.x[:, :, :1].expand_as(still.x))
    assert (RGBDiff().apply({"rgb": still}, [{}, {}])["rgb_diff"].x == 0).all()


def test_mirroring_before_and_behind_is_the_same():
    yes, frames, diff = [{"mirror": True}] * 2, {"rgb": clip(6)}, RGBDiff()
    before = diff.apply(Mirror().apply(frames, yes), [{}, {}])
    behind = Mirror().apply(diff.apply(frames, [{}, {}]), yes)
    for name in ("rgb", "rgb_diff"):
        assert torch.equal(before[name].x, behind[name].x)


@pytest.mark.parametrize(("keep", "steps"), [("first", [0, 4]), ("all", list(range(8)))])
def test_keep(keep, steps):
    frames = clip(8)
    transform = RGBDiff(length=3, keep=keep)
    out = transform.apply({"rgb": frames}, [{}, {}])
    assert torch.equal(out["rgb"].x, frames.x[:, :, steps])
    assert out["rgb"].times[0, 0].tolist() == steps
    assert transform.out({"rgb": Shape(8, 3, 4, 6)}) == {
        name: Shape(*c.x.shape[2:]) for name, c in out.items()
    }


def test_padding_at_either_frame_is_padding():
    frames = clip(6)
    frames.mask[0, 0, 5:] = False
    frames.times[0, 0, 5:] = torch.nan
    apart = RGBDiff(length=2, stack=False).apply({"rgb": frames}, [{}, {}])["rgb_diff"]
    assert apart.mask[0, 0].tolist() == [True, True, True, False]
    assert apart.times[0, 0, :3].tolist() == [0, 1, 3]
    assert apart.times[0, 0, 3].isnan()
    stacked = RGBDiff(length=2).apply({"rgb": frames}, [{}, {}])["rgb_diff"]
    assert stacked.mask[0, 0].tolist() == [True, False]
    assert stacked.times[0, 0].isnan().tolist() == [False, True]


def test_a_batch_is_its_samples():
    frames = clip(6)
    whole = RGBDiff().apply({"rgb": frames}, [{}, {}])["rgb_diff"].x
    for b in range(2):
        one = Clip(*(t[b : b + 1] for t in frames[:3]), "rgb")
        alone = RGBDiff().apply({"rgb": one}, [{}])["rgb_diff"].x
        assert torch.equal(whole[b : b + 1], alone)


def test_out_of_what_varies():
    out = RGBDiff(stack=False).out({"rgb": Shape(None, 3, 8, 8)})
    assert out["rgb_diff"] == Shape(None, 3, 8, 8)
    assert RGBDiff(length=4).out({"rgb": Shape(None, 3, 8, 8)})["rgb_diff"].channels == 12


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rgb": Shape(8, 3, 8, 8)}, "takes snippets of 6 frames .length . 1., but gets 8 steps; "
                                     "set the sampler's length to 6"),
        ({"flow": Shape(6, 2, 8, 8)}, "takes the modality 'rgb', but there is 'flow'; name one"),
        ({"rgb": Shape(6, 3, 8, 8), "rgb_diff": Shape(1, 3, 8, 8)},
         "adds 'rgb_diff', which is there already; give it another name"),
    ],
)  # fmt: skip
def test_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        RGBDiff().out(shapes)


def test_refuses_no_difference():
    with pytest.raises(ValueError, match=r"^takes a length of at least 1, but gets 0$"):
        RGBDiff(length=0)
