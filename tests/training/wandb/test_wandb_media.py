"""Clips become videos that show what was there."""

import av
import makers
import numpy as np
import pytest
import torch

from actionkit.contracts import Clip
from actionkit.data.transforms.kinds import quantize_flow
from actionkit.training.wandb.media import RATES, SECONDS, SIDE, film, write_film


def clip(x, kind="rgb", seconds=0.25, real=None):
    """A clip of one view from frames [T, C, H, W]."""
    steps = len(x)
    mask = (torch.arange(steps) < (steps if real is None else real))[None]
    times = (torch.arange(steps) * seconds)[None].masked_fill(~mask, torch.nan)
    return Clip(x[None], mask, times, kind)


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        rate = stream.average_rate
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]), rate


def test_a_video_shows_the_frames_at_their_speed(tmp_path):
    x = torch.arange(0, 250, 50, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 32, 48)
    shown = film({"rgb": clip(x)})
    np.testing.assert_array_equal(shown.frames, x.permute(0, 2, 3, 1).numpy())
    frames, rate = decoded(write_film(tmp_path / "a.mp4", shown))
    assert rate == 4
    assert frames.shape == (5, 32, 48, 3)
    assert np.abs(frames.astype(int) - shown.frames).max() <= 6  # H.264 is not lossless


@pytest.mark.parametrize(("size", "wanted"), [
    ((33, 47), (32, 46)),
    ((300, 600), (112, SIDE)),
    ((1001, 500), (SIDE, 110)),
    ((1, 1), (2, 2)),
])  # fmt: skip
def test_sides_are_even_and_small(tmp_path, size, wanted):
    shown = film({"rgb": clip(torch.zeros(2, 3, *size, dtype=torch.uint8))})
    assert decoded(write_film(tmp_path / "a.mp4", shown))[0].shape == (2, *wanted, 3)


@pytest.mark.parametrize(
    ("seconds", "rate"), [(10.0, RATES[0]), (0.2, 5), (0.04, RATES[1]), (0.0, RATES[0])]
)
def test_a_few_frames_a_second_for_some_seconds(seconds, rate):
    shown = film({"rgb": clip(torch.zeros(200, 3, 4, 4, dtype=torch.uint8), seconds=seconds)})
    assert shown.rate == rate
    assert len(shown.frames) == SECONDS * rate


def test_one_frame_is_a_video_too(tmp_path):
    shown = film({"rgb": clip(torch.full((1, 3, 16, 16), 200, dtype=torch.uint8))})
    assert decoded(write_film(tmp_path / "a.mp4", shown))[0].shape == (1, 16, 16, 3)


def test_padding_is_not_shown():
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    assert len(film({"rgb": clip(x, real=3)}).frames) == 3
    assert film({"rgb": clip(x, real=0)}) is None


def test_floats_and_gray_are_shown_as_they_look():
    x = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 1, 8, 8)
    frames = film({"gray": clip(x, "gray")}).frames
    assert frames[:, 0, 0].tolist() == [[v] * 3 for v in (0, 51, 102, 153, 204, 255)]


def test_flow_alone_becomes_colours_that_tell_direction():
    moves = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    flow = moves[:, :, None, None].expand(4, 2, 8, 8)
    frames = film({"flow": clip(flow, "flow")}).frames
    seen = {tuple(frame[4, 4]) for frame in frames}
    assert len(seen) == 4
    assert tuple(frames[3, 0, 0]) == (255, 255, 255)  # no motion
    stored = film({"flow": clip(quantize_flow(flow, 4.0), "flow")}).frames
    assert np.abs(stored.astype(int) - frames).max() <= 4


def test_a_stack_of_flow_shows_its_first_field():
    field = torch.randn(3, 2, 8, 8)
    stack = torch.cat([field, torch.randn(3, 4, 8, 8)], 1)
    shown = [film({"flow": clip(x, "flow")}).frames for x in (field, stack)]
    np.testing.assert_array_equal(*shown)


def test_what_a_camera_saw_comes_first_and_what_cannot_be_seen_never():
    rgb = makers.clip(seed=1)
    flow = makers.clip(seed=2, size=(2, 8, 8), kind="flow")
    sound = makers.clip(kind="audio")
    both = film({"flow": flow, "rgb": rgb}).frames
    np.testing.assert_array_equal(both, film({"rgb": rgb}).frames)
    assert film({"sound": sound}) is None


def test_attention_reddens_where_it_is_high_at_its_steps():
    x = torch.full((4, 3, 32, 32), 100, dtype=torch.uint8)
    attention = torch.zeros(2, 4, 4)
    attention[0, 0, 0] = attention[1, 3, 3] = 5.0
    frames = film({"rgb": clip(x)}, attention).frames
    for step, (high, low) in enumerate([(0, 31), (0, 31), (31, 0), (31, 0)]):
        assert tuple(frames[step, low, low]) == (100, 100, 100)
        red, green, blue = frames[step, high, high].tolist()
        assert red > 150 > 60 > green == blue


def test_even_attention_leaves_the_frames():
    x = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    assert (film({"rgb": clip(x)}, torch.ones(2, 2, 2)).frames == 100).all()
