import cv2
import numpy as np
import pytest
import torch

from actionkit.contracts import Clip
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.mirror import Mirror

YES, NO = {"mirror": True}, {"mirror": False}


def clip(batch, channels, kind, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (batch, 2, 3, channels, 5, 7), generator=generator).to(dtype)
    front = x.shape[:3]
    return Clip(x, torch.ones(front, dtype=torch.bool), torch.zeros(front), kind)


CASES = [
    (3, "rgb", torch.uint8),
    (1, "gray", torch.uint8),
    (6, "flow", torch.uint8),
    (6, "flow", torch.float32),
    (2, "flow", torch.float16),
    (3, "rgb", torch.float32),
]


@pytest.mark.parametrize(("channels", "kind", "dtype"), CASES)
def test_is_an_involution(channels, kind, dtype):
    inp = clip(2, channels, kind, dtype)
    before = inp.x.clone()
    once = Mirror().apply({"x": inp}, [YES, YES])["x"]
    twice = Mirror().apply({"x": once}, [YES, YES])["x"]
    assert not torch.equal(once.x, before)
    assert torch.equal(twice.x, before)
    assert torch.equal(inp.x, before)
    assert once.x.dtype == dtype


@pytest.mark.parametrize(("channels", "kind", "dtype"), CASES)
def test_equals_a_loop_over_frames(channels, kind, dtype):
    inp = clip(1, channels, kind, dtype)
    out = Mirror().apply({"x": inp}, [YES])["x"].x
    for v in range(2):
        for t in range(3):
            for c in range(channels):
                expected = np.fliplr(inp.x[0, v, t, c].numpy())
                if kind == "flow" and c % 2 == 0:
                    expected = 255 - expected if dtype == torch.uint8 else -expected
                assert np.array_equal(out[0, v, t, c].numpy(), expected)


@pytest.mark.parametrize(("channels", "kind", "dtype"), CASES)
@pytest.mark.parametrize("draws", [[YES, NO, YES], [NO, NO, NO], [YES, YES, YES]])
def test_batch_equals_sample_by_sample(channels, kind, dtype, draws):
    inp = clip(3, channels, kind, dtype)
    out = Mirror().apply({"x": inp}, draws)["x"].x
    for b, draw in enumerate(draws):
        one = Clip(inp.x[b : b + 1], inp.mask[b : b + 1], inp.times[b : b + 1], kind)
        assert torch.equal(out[b : b + 1], Mirror().apply({"x": one}, [draw])["x"].x)


def test_modalities_go_together_and_others_stay():
    clips = {"rgb": clip(2, 3, "rgb"), "flow": clip(2, 2, "flow"), "score": clip(2, 4, "score")}
    out = Mirror().apply(clips, [NO, YES])
    for name in ("rgb", "flow"):
        assert torch.equal(out[name].x[0], clips[name].x[0])
        assert not torch.equal(out[name].x[1], clips[name].x[1])
    assert out["score"] is clips["score"]


def test_draws():
    assert Mirror(probability=1.0).draw(None) == NO
    rng = np.random.default_rng(0)
    assert not any(Mirror(probability=0.0).draw(rng)["mirror"] for _ in range(50))
    assert all(Mirror(probability=1.0).draw(rng)["mirror"] for _ in range(50))
    share = np.mean([Mirror(probability=0.3).draw(rng)["mirror"] for _ in range(4000)])
    assert abs(share - 0.3) < 0.03


def test_flow_of_mirrored_frames_is_mirrored_flow():
    """Up to DIS itself, whose patches start at the left: within 0.1 pixels at 19 of 20 places."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 140), dtype=np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    frames = np.stack([texture[10 + t : 106 + t, 20 - 2 * t : 116 - 2 * t] for t in range(4)])
    x = torch.from_numpy(frames)[None, None, :, None]  # moves right 2, up 1
    front = (1, 1, 4)
    rgb = {"rgb": Clip(x, torch.ones(front, dtype=torch.bool), torch.zeros(front), "gray")}
    flow, mirror = DISFlow(length=3, bound=10.0, preset="medium"), Mirror()
    ours = mirror.apply(flow.apply(rgb, [{}]), [YES])["flow"].x
    theirs = flow.apply(mirror.apply(rgb, [YES]), [{}])["flow"].x
    inner = (..., slice(12, -12), slice(12, -12))
    difference = (ours[inner].float() - theirs[inner].float()).abs() * 10 / 127.5
    assert difference.quantile(0.95) < 0.1
    assert abs(theirs[inner][..., 0, :, :].float().mean() - (127.5 - 2 * 12.75)) < 1.5


def test_refuses():
    with pytest.raises(ValueError, match=r"^takes a probability from 0 to 1, but gets 1.5"):
        Mirror(probability=1.5)
