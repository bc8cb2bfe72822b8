import numpy as np
import pytest
import torch
from videos import moving_frames, write_video

from actionkit.contracts import Clip, Info
from actionkit.data import contact_sheet
from actionkit.data.contact_sheet import Block, draw
from actionkit.data.look import Box, Look, look
from actionkit.data.module import Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("good") / "good.mp4", moving_frames(20, 60, 80))


def made(clips, boxes=None, views=1):
    """A Look of rgb or flow [V, T, C, H, W] by hand; frame i is shown at second i."""
    clip = next(iter(clips.values()))
    indices = np.where(clip.mask, np.nan_to_num(clip.times.numpy(), nan=-1), -1).astype(np.int64)
    frames = {i: np.full((120, 160, 3), 77, np.uint8) for i in range(1000)}
    boxes = boxes or [[None] * clip.mask.shape[1]] * len(clip.mask)
    return Look(indices, clips, clip, boxes, views, frames, Info(1000, 1.0, 1000.0, 30, 40))


def clip(x, kind="rgb", real=None):
    x = torch.tensor(np.array(x), dtype=torch.float32)  # [T, C, H, W]
    mask = (torch.arange(len(x)) < (len(x) if real is None else real))[None]
    times = torch.arange(len(x)).float()[None].masked_fill(~mask, torch.nan)
    return Clip(x[None], mask, times, kind)


def sheet(clips, **options):
    return draw("title", ["a line"], [Block("block", ["another"], made(clips, **options))])


def count(picture, colour):
    """How many pixels have a colour, or one that is a level off."""
    return int((np.abs(picture - np.array(colour, np.int16)) <= 1).all(-1).sum())


@pytest.mark.parametrize("steps", [1, 2, 12, 17, 18, 25, 119])
def test_a_sheet_is_never_too_wide_and_shows_every_step(steps):
    colours = np.stack([np.array([2 * i, 100, 200]) for i in range(steps)])
    x = np.broadcast_to(colours[:, :, None, None] / 255, (steps, 3, 24, 24))
    picture = sheet({"rgb": clip(x)})
    assert picture.dtype == np.uint8
    assert 900 <= picture.shape[1] <= 1600
    here = picture[..., 0][(picture[..., 1:] == (100, 200)).all(-1)]
    values, sizes = np.unique(here, return_counts=True)
    assert values.tolist() == colours[:, 0].tolist()
    assert len(set(sizes)) == 1
    assert 80**2 <= sizes[0] <= 160**2


def test_steps_beyond_the_most_are_left_out_and_this_is_said(monkeypatch):
    x = np.zeros((130, 3, 8, 8))
    x[119, 1], x[120, 0] = 1, 1
    said = []
    text = contact_sheet._Grid.text
    monkeypatch.setattr(
        contact_sheet._Grid, "text", lambda s, t, *a, **k: said.append(t) or text(s, t, *a, **k)
    )
    picture = sheet({"rgb": clip(x)})
    assert count(picture, (0, 255, 0)) > 0
    assert count(picture, (255, 0, 0)) == 0
    assert "sampled: 1 view of 130 frames; 120 steps of each are shown" in said
    assert "rgb: 130 steps of 8x8" in said
    said.clear()
    sheet({"rgb": clip(x[:3])}, views=7)
    assert "sampled: 1 view of 3 frames; 1 of 7 views are shown" in said


def test_padding_is_crossed_out():
    x = np.full((3, 3, 30, 40), 0.5)
    full, padded = (sheet({"rgb": clip(x, real=real)}) for real in (3, 2))
    assert full.shape == padded.shape
    assert count(full, contact_sheet.NOTHING) < 500  # in letters
    assert count(padded, contact_sheet.NOTHING) > 2 * 160 * 120 * 0.9  # a frame, and its picture
    grays = count(full, (128, 128, 128)), count(padded, (128, 128, 128))
    assert grays == pytest.approx((3 * 160 * 120, 2 * 160 * 120), abs=300)


def test_a_frame_that_comes_again_has_another_colour():
    x = np.full((4, 3, 30, 40), 0.5)
    plain, looped = clip(x), clip(x)
    looped.times[0, 3] = 0
    assert count(sheet({"rgb": plain}), contact_sheet.AGAIN) == 0
    assert count(sheet({"rgb": looped}), contact_sheet.AGAIN) > 0


def test_a_frame_is_pale_outside_its_box():
    x = np.full((1, 3, 30, 40), 0.5)
    whole, part = (
        sheet({"rgb": clip(x)}, boxes=[[box]]) for box in (None, Box(0.25, 0, 0.75, 0.5))
    )
    assert count(whole, (77, 77, 77)) == pytest.approx(160 * 120, abs=300)  # letters have it too
    assert count(part, (77, 77, 77)) == pytest.approx(78 * 58, abs=300)  # the edge is a pixel wide
    assert count(part, contact_sheet.EDGE) == 80 * 60 - 78 * 58


def test_flow_is_drawn_in_the_colours_of_its_directions():
    directions = [(1, 0), (-1, 0), (0, 1), (0, 0)]  # right, left, down, none
    x = np.broadcast_to(np.array(directions)[:, :, None, None], (4, 2, 16, 16))
    picture = sheet({"flow": clip(x, "flow")})
    for colour in ((255, 0, 0), (0, 255, 255), (128, 255, 0), (255, 255, 255)):
        assert count(picture, colour) >= 80 * 80
    stacked = sheet({"flow": clip(x.reshape(2, 4, 16, 16), "flow")})  # two fields a step
    for colour in ((255, 0, 0), (0, 255, 255), (128, 255, 0), (255, 255, 255)):
        assert count(stacked, colour) >= 80 * 80


def test_values_that_are_no_light_are_stretched():
    x = np.zeros((2, 3, 16, 16))
    x[0], x[1] = -1, 1
    picture = sheet({"rgb_diff": clip(x)})
    assert count(picture, (0, 0, 0)) >= 80 * 80
    assert count(picture, (255, 255, 255)) >= 80 * 80


def test_gray_stacked_and_pictureless_modalities_can_be_drawn():
    gray = np.full((1, 1, 16, 16), 100 / 255)
    assert count(sheet({"gray": clip(gray, "gray")}), (100, 100, 100)) >= 80 * 80
    rgb = np.repeat(np.array([10, 20, 30, 40, 50, 60]) / 255, 256).reshape(1, 6, 16, 16)
    picture = sheet({"rgb": clip(rgb), "score": clip(np.ones((1, 9, 1, 1)), "score")})
    assert count(picture, (10, 20, 30)) == count(picture, (40, 50, 60)) >= 80 * 80


def test_the_same_look_is_the_same_sheet(video):
    stage = Stage(Dense(length=17), [CropResize(size=48)], [])
    found = [look(stage, Sources(PyAV()), video, train=True, seed=4, views=10) for _ in range(2)]
    one, other = (draw("t", [], [Block("b", [], x)]) for x in found)
    assert np.array_equal(one, other)


def test_long_and_strange_text_stays_on_the_sheet():
    wide = "é漢字 " + "word " * 200
    picture = draw(
        wide, [wide], [Block("x" * 400, [], made({"rgb": clip(np.zeros((1, 3, 8, 8)))}))]
    )
    edge = picture[:, -contact_sheet.MARGIN :]
    assert picture.shape[1] == contact_sheet.LEAST_WIDTH
    assert {tuple(p) for p in edge.reshape(-1, 3)} == {contact_sheet.PAPER, contact_sheet.FAINT}
