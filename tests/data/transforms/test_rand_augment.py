import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from actionkit.data.transforms.rand_augment import COLOUR, OPERATIONS, RandAugment
from actionkit.testing import toy

THEIRS = {name: name.title().replace("_", "") for name in OPERATIONS}


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("magnitude", [4, 9, 25])
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_torchvision_frame_by_frame(name, magnitude, sign):
    clip = toy.clip("rgb", steps=3)
    draw = {"steps": [(name, sign * magnitude / 30)]}
    out = RandAugment().apply({"rgb": clip}, [draw, draw])["rgb"].x
    reference = v2.RandAugment(magnitude=magnitude)
    values, signed = reference._AUGMENTATION_SPACE[THEIRS[name]]
    values = values(31, 32, 32)
    amount = 0.0 if values is None else float(values[magnitude]) * (sign if signed else 1)
    for frame, changed in zip(clip.x[clip.mask], out[clip.mask], strict=True):
        expected = reference._apply_image_or_video_transform(
            frame, THEIRS[name], amount, interpolation="nearest", fill={}
        )
        # Their amounts are float32: a threshold or a place may fall to the other side.
        assert (changed == expected).float().mean() > 0.99


def test_operations_are_the_published_fourteen():
    assert set(THEIRS.values()) == set(v2.RandAugment._AUGMENTATION_SPACE)


def test_all_frames_are_changed_by_one_draw():
    clip = toy.clip("rgb")
    clip = clip._replace(x=clip.x[:, :, :1].expand_as(clip.x).clone())
    transform = RandAugment(count=3, magnitude=20)
    for seed in range(10):
        draws = [transform.draw(np.random.default_rng((seed, b))) for b in range(2)]
        out = transform.apply({"rgb": clip}, draws)["rgb"].x
        assert torch.equal(out[0], out[0, :, :1].expand_as(out[0]))


def test_draws():
    transform = RandAugment(count=2, magnitude=15)
    assert transform.draw(None) == {}
    rng = np.random.default_rng(0)
    drawn = [transform.draw(rng) for _ in range(3500)]
    assert pickle.loads(pickle.dumps(drawn)) == drawn
    steps = [step for draw in drawn for step in draw["steps"]]
    assert len(steps) == 7000
    names = Counter(name for name, _ in steps)
    assert set(names) == set(OPERATIONS)
    assert all(abs(count - 500) < 100 for count in names.values())
    assert Counter(level for _, level in steps)[0.5] == pytest.approx(3500, abs=200)
    assert {level for _, level in steps} == {-0.5, 0.5}


def test_without_geometric_operations_no_pixel_moves():
    transform = RandAugment(count=5, geometric=False)
    rng = np.random.default_rng(0)
    names = {name for _ in range(200) for name, _ in transform.draw(rng)["steps"]}
    assert names == set(COLOUR)
    assert not names & {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}


def test_flow_is_untouched_and_padding_zero():
    clips = {"rgb": toy.clip("rgb"), "flow": toy.clip("flow", channels=2)}
    draw = {"steps": [("brightness", 1.0), ("rotate", 0.5), ("solarize", 1.0)]}
    out = RandAugment().apply(clips, [draw, draw])
    assert out["flow"] is clips["flow"]
    assert out["rgb"].x[~clips["rgb"].mask].eq(0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 0}, "count of at least 1, but gets 0"),
        ({"magnitude": 31}, "magnitude from 0 to 30, but gets 31"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^takes a {sentence}"):
        RandAugment(**options)
