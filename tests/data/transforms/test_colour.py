import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from actionkit.data.transforms.colour import ADJUST, ColorJitter, Grayscale
from actionkit.testing import toy

STEPS = [
    [("brightness", 1.2718)],
    [("contrast", 0.7)],
    [("saturation", 1.4)],
    [("hue", 0.1)],
    [("saturation", 0.7), ("brightness", 0.8), ("contrast", 1.2)],
]


@pytest.mark.parametrize("steps", STEPS, ids=lambda s: "+".join(name for name, _ in s))
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_torchvision_frame_by_frame(steps, channels):
    kind = "rgb" if channels == 3 else "gray"
    clip = toy.clip(kind, channels=channels)
    out = ColorJitter().apply({"x": clip}, [{"steps": steps}] * 2)["x"].x
    for frame, changed in zip(clip.x[clip.mask][::7], out[clip.mask][::7], strict=True):
        exact, stored = frame.double() / 255, frame
        for name, amount in steps:
            exact = ADJUST[name](exact, amount)
            stored = ADJUST[name](stored, amount)
        # In float64 and rounded once; it truncates uint8 after every step.
        expected = (exact * 255).round()
        assert (changed - expected).abs().max() <= 1
        assert (changed == expected).double().mean() > 0.999
        assert (changed.double() - stored).abs().max() <= 1 + 2 * len(steps)


@pytest.mark.parametrize("transform", [ColorJitter(hue=0.2), Grayscale(probability=1.0)])
def test_all_frames_are_changed_by_one_draw(transform):
    clip = toy.clip("rgb")
    clip = clip._replace(x=clip.x[:, :, :1].expand_as(clip.x).clone())
    draws = [transform.draw(np.random.default_rng(seed)) for seed in range(2)]
    out = transform.apply({"rgb": clip}, draws)["rgb"]
    assert torch.equal(out.x[0], out.x[0, :, :1].expand_as(out.x[0]))
    assert not torch.equal(out.x[0], clip.x[0])


def test_draws_of_the_jitter():
    transform = ColorJitter(brightness=0.4, contrast=2.0, saturation=0.0, hue=0.1, probability=0.8)
    assert transform.draw(None) == {}
    rng = np.random.default_rng(0)
    drawn = [transform.draw(rng) for _ in range(4000)]
    assert pickle.loads(pickle.dumps(drawn)) == drawn
    assert abs(np.mean([bool(d) for d in drawn]) - 0.8) < 0.03
    steps = [d["steps"] for d in drawn if d]
    assert {tuple(name for name, _ in s) for s in steps} == {  # all orders, saturation is off
        (a, b, c) for a in NAMES for b in NAMES for c in NAMES if len({a, b, c}) == 3
    }
    for name, least, most in [("brightness", 0.6, 1.4), ("contrast", 0, 3), ("hue", -0.1, 0.1)]:
        amounts = np.sort([dict(s)[name] for s in steps])
        expected = np.linspace(least, most, len(amounts))
        assert np.abs(amounts - expected).max() < 0.05 * (most - least)


NAMES = ("brightness", "contrast", "hue")


def test_nothing_on_is_nothing_drawn():
    off = ColorJitter(brightness=0, contrast=0, saturation=0)
    assert off.draw(np.random.default_rng(0)) == {}
    assert ColorJitter(probability=0).draw(np.random.default_rng(0)) == {}


def test_grayscale_equals_torchvision_and_keeps_three_channels():
    clip = toy.clip("rgb")
    out = Grayscale().apply({"rgb": clip}, [{"gray": True}, {}])["rgb"].x
    assert torch.equal(out[0], functional.rgb_to_grayscale(clip.x[0], num_output_channels=3))
    assert torch.equal(out[0, :, :, 0], out[0, :, :, 2])
    assert torch.equal(out[1], clip.x[1])
    gray = toy.clip("gray", channels=1)
    same = Grayscale().apply({"gray": gray}, [{"gray": True}] * 2)["gray"]
    assert torch.equal(same.x[gray.mask], gray.x[gray.mask])


def test_draws_of_grayscale():
    rng = np.random.default_rng(0)
    share = np.mean([bool(Grayscale(probability=0.3).draw(rng)) for _ in range(4000)])
    assert abs(share - 0.3) < 0.03
    assert Grayscale(probability=1.0).draw(None) == {}


def test_flow_is_untouched():
    clips = {"rgb": toy.clip("rgb"), "flow": toy.clip("flow", channels=2)}
    for transform, draw in [(ColorJitter(), {"steps": STEPS[0]}), (Grayscale(), {"gray": True})]:
        assert transform.apply(clips, [draw, draw])["flow"] is clips["flow"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"brightness": -0.1}, "brightness of at least 0, but gets -0.1"),
        ({"hue": 0.6}, "hue from 0 to 0.5, but gets 0.6"),
        ({"probability": 1.5}, "probability from 0 to 1, but gets 1.5"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^takes a {sentence}"):
        ColorJitter(**options)
    if "probability" in options:
        with pytest.raises(ValueError, match=f"^takes a {sentence}"):
            Grayscale(**options)
