import pytest
import torch

from actionkit.data.transforms.images import change_images
from actionkit.testing import toy

YES = {"do": True}


def invert(frames, draw):
    assert frames.ndim == 4
    return 255 - frames


def test_samples_without_a_draw_and_other_kinds_stay():
    clips = {"rgb": toy.clip("rgb"), "flow": toy.clip("flow"), "gray": toy.clip("gray", channels=1)}
    before = {name: clip.x.clone() for name, clip in clips.items()}
    out = change_images(clips, [YES, {}], invert)
    for name in ("rgb", "gray"):
        assert torch.equal(out[name].x[0], 255 - clips[name].x[0])
        assert torch.equal(out[name].x[1], clips[name].x[1])
        assert torch.equal(clips[name].x, before[name])
    assert out["flow"] is clips["flow"]
    assert change_images(clips, [{}, {}], invert) is clips


def test_padded_steps_become_zeros():
    clip = toy.clip("rgb")
    out = change_images({"rgb": clip}, [YES, YES], invert)["rgb"]
    assert not clip.mask.all()
    assert out.x[~clip.mask].eq(0).all()
    assert torch.equal(out.x[clip.mask], 255 - clip.x[clip.mask])


def test_memory_keeps_its_order():
    clip = toy.clip("rgb")
    last = clip._replace(x=clip.x.movedim(-3, -1).contiguous().movedim(-1, -3))
    for inp in (clip, last):
        out = change_images({"rgb": inp}, [YES, {}], invert)["rgb"].x
        assert out.stride() == inp.x.stride()
        assert torch.equal(out[0], 255 - clip.x[0])


def test_refuses_what_it_cannot_change():
    clip = toy.clip("rgb")
    half = clip._replace(x=clip.x / 255)
    with pytest.raises(
        ValueError, match=r"^takes uint8 frames, but 'rgb' is torch.float32; put it"
    ):
        change_images({"rgb": half}, [YES, YES], invert)
    with pytest.raises(
        ValueError, match=r"^takes frames of 1 or 3 channels, but 'x' has 6; put it"
    ):
        change_images({"x": toy.clip("gray", channels=6)}, [YES, YES], invert)
