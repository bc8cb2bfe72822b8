"""What all makers of flow share, shown with the quickest of them."""

import numpy as np
import pytest
import torch
from flows import clip, moving

from actionkit.contracts import Shape
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.fields import FlowMaker, sample
from actionkit.data.transforms.kinds import dequantize_flow
from actionkit.data.transforms.raft import RAFTFlow
from actionkit.data.transforms.stack import FlowStack
from actionkit.data.transforms.tvl1 import TVL1Flow


@pytest.mark.parametrize(
    ("keep", "steps"),
    [
        ("first", [0, 5]),
        ("middle", [2, 7]),
        ("starts", [0, 1, 2, 3, 5, 6, 7, 8]),
        ("all", list(range(10))),
    ],
)
def test_keep(keep, steps):
    source = clip(moving(10, 1, 0))
    before = source.x.clone()
    out = DISFlow(length=4, keep=keep).apply({"rgb": source}, [{}])
    assert torch.equal(out["rgb"].x, source.x[:, :, steps])
    assert out["rgb"].times.tolist() == [[steps]]
    assert out["rgb"].mask.shape == (1, 1, len(steps))
    assert out["flow"].x.shape[2] == 8
    assert out["flow"].kind == "flow"
    assert torch.equal(source.x, before)
    assert DISFlow(length=4, keep=keep).out({"rgb": Shape(10, 3, 96, 96)}) == {
        name: Shape(c.x.shape[2], *c.x.shape[3:]) for name, c in out.items()
    }


def test_where_fields_start_frame_and_field_are_one_step():
    out = DISFlow(length=4, keep="starts").apply({"rgb": clip(moving(10, 1, 0))}, [{}])
    assert torch.equal(out["rgb"].times, out["flow"].times)
    assert torch.equal(out["rgb"].mask, out["flow"].mask)


@pytest.mark.parametrize("keep", ["first", "middle", "starts", "all"])
def test_kept_frames_of_one_snippet_are_a_view(keep):
    source = clip(moving(5, 1, 0))
    kept = DISFlow(length=4, keep=keep).apply({"rgb": source}, [{}])["rgb"].x
    assert kept.untyped_storage().data_ptr() == source.x.untyped_storage().data_ptr()


def test_padding():
    source = clip(moving(6, 1, 0))
    source.mask[0, 0, 5:] = False
    source.times[0, 0, 5:] = torch.nan
    flow = DISFlow(length=2).apply({"rgb": source}, [{}])["flow"]
    assert flow.mask.tolist() == [[[True, True, True, False]]]
    assert flow.times[0, 0, :3].tolist() == [0, 1, 3]
    assert flow.times[0, 0, 3].isnan()
    stack = FlowStack(length=2).apply({"flow": flow}, [{}])["flow"]
    assert stack.mask.tolist() == [[[True, False]]]
    assert stack.times[0, 0, 0] == 0
    assert stack.times[0, 0, 1].isnan()


def test_out():
    shapes = {"rgb": Shape(33, 3, 64, 80)}
    out = DISFlow(length=10).out(shapes)
    assert out == {"rgb": Shape(3, 3, 64, 80), "flow": Shape(30, 2, 64, 80)}
    assert FlowStack(length=10).out(out)["flow"] == Shape(3, 20, 64, 80)
    assert FlowStack(length=5).out(out)["flow"] == Shape(6, 10, 64, 80)
    assert DISFlow(length=10, keep="all").out(shapes)["rgb"].steps == 33
    assert DISFlow(length=10, keep="middle").out(shapes)["rgb"].steps == 3
    varies = FlowStack(length=5).out(DISFlow(length=5).out({"rgb": Shape(None, 3, None, None)}))
    assert varies["rgb"].steps is None
    assert varies["flow"] == Shape(None, 10, None, None)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (
            {"rgb": Shape(8, 3, 64, 64)},
            "snippets of 11 frames .* 8 steps; set the sampler's length",
        ),
        ({"video": Shape(11, 3, 64, 64)}, "modality 'rgb', but there is 'video'; name one"),
        ({}, "modality 'rgb', but there is nothing"),
        (
            {"rgb": Shape(11, 2, 64, 64)},
            "frames of 1 or 3 channels, but 'rgb' has 2; put it before",
        ),
        ({"rgb": Shape(11, 3, 8, 64)}, "at least 12x12 pixels, but gets 8x64; give crop_resize"),
    ],
)
def test_dis_flow_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=f"^takes .*{sentence}"):
        DISFlow(length=10).out(shapes)


def test_dis_flow_refuses_a_name_that_is_taken():
    shapes = {"rgb": Shape(11, 3, 64, 64), "flow": Shape(1, 2, 64, 64)}
    with pytest.raises(ValueError, match=r"^adds 'flow', which is there already; give it another"):
        DISFlow(length=10).out(shapes)


def test_bidirectional_fields_lead_away_from_the_middle():
    x = torch.cat([moving(5, 2, 0), moving(5, -1, 1, seed=1)])
    both = DISFlow(length=4, bound=10.0, direction="bidirectional", keep="middle")
    out = both.apply({"rgb": clip(x)}, [{}])
    for k in range(2):
        frames = x[5 * k : 5 * k + 5]
        forward = DISFlow(length=2, bound=10.0).apply({"rgb": clip(frames[2:])}, [{}])["flow"]
        back = DISFlow(length=2, bound=10.0).apply({"rgb": clip(frames[:3].flip(0))}, [{}])["flow"]
        assert torch.equal(out["flow"].x[:, :, 4 * k : 4 * k + 2], forward.x)
        assert torch.equal(out["flow"].x[:, :, 4 * k + 2 : 4 * k + 4], back.x)
    assert out["flow"].times.tolist() == [[[2, 3, 2, 1, 7, 8, 7, 6]]]
    assert out["rgb"].times.tolist() == [[[2, 7]]]
    assert FlowStack(length=4).apply(out, [{}])["flow"].times.tolist() == [[[2, 7]]]


def test_bidirectional_flow_keeps_a_frame_for_every_field():
    both = DISFlow(length=4, direction="bidirectional", keep="starts")
    out = both.apply({"rgb": clip(moving(5, 1, 0))}, [{}])
    assert torch.equal(out["rgb"].times, out["flow"].times)
    assert both.out({"rgb": Shape(5, 3, 96, 96)})["rgb"].steps == out["rgb"].x.shape[2] == 4


def test_fields_between_padded_frames_are_not_real():
    source = clip(moving(5, 1, 0))
    source.mask[0, 0, 4:] = False
    both = DISFlow(length=4, direction="bidirectional").apply({"rgb": source}, [{}])["flow"]
    assert both.mask.tolist() == [[[True, False, True, True]]]


@pytest.mark.parametrize("kind", [DISFlow, TVL1Flow, RAFTFlow])
def test_makers_refuse_what_gives_no_flow(kind):
    for options, sentence in [
        ({"length": 0}, r"^takes a length of at least 1, but gets 0"),
        ({"length": 1, "bound": 0}, r"^takes a bound above 0 pixels, but gets 0"),
        ({"length": 3, "direction": "bidirectional"}, r"^takes an even length .* gets 3; half"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            kind(**options)


def test_floats_are_refused():
    source = clip(moving(3, 1, 0))
    with pytest.raises(ValueError, match=r"^takes frames as uint8, but 'rgb' is torch.float32 .*"):
        TVL1Flow(length=2).apply({"rgb": source._replace(x=source.x / 255)}, [{}])


class Counting(FlowMaker):
    """The flow is the brightness of the pair's frames; notes how it was asked."""

    least, at_once = 1, 3

    def fields(self, snippets, real):
        self.asked = []
        return self.fields_of_pairs(snippets, real, self.estimate)

    def estimate(self, first, second):
        self.asked.append(len(first))
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        return torch.cat([first, second], 1).float()


def test_pairs_come_together_but_never_too_many_and_only_real_ones():
    maker = Counting(
        length=2, bound=255.0, direction="forward", keep="all", source="rgb", name="flow"
    )
    x = torch.arange(12, dtype=torch.uint8).view(2, 1, 6, 1, 1, 1).expand(2, 1, 6, 1, 4, 5)
    mask = torch.ones(2, 1, 6, dtype=torch.bool)
    mask[1, 0, 5] = False
    source = clip(x[0, 0], "gray")._replace(x=x, mask=mask, times=torch.zeros(2, 1, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow = maker.apply({"rgb": source}, [{}, {}])["flow"]
    assert maker.asked == [3, 3, 1]
    expected = [[0, 1, 3, 4], [6, 7, 9, 0]], [[1, 2, 4, 5], [7, 8, 10, 0]]
    found = dequantize_flow(flow.x[:, 0, :, :, 0, 0], 255.0)  # [B, T, 2]
    found.masked_fill_(~flow.mask[:, 0, :, None], 0)
    for channel in range(2):
        assert (found[..., channel] - torch.tensor(expected[channel])).abs().max() <= 1
    assert (flow.x[1, 0, 3] == 0).all()


def test_nothing_real_asks_for_nothing():
    source = clip(moving(3, 1, 0))
    source.mask[:] = False
    flow = TVL1Flow(length=2).apply({"rgb": source}, [{}])["flow"]
    assert not flow.mask.any()
    assert (flow.x == 0).all()


def test_sampling_is_bilinear_and_clamped_at_the_border():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 13)).astype(np.float32)
    x = rng.uniform(-5, 18, (7, 11)).astype(np.float32)
    y = rng.uniform(-5, 14, (7, 11)).astype(np.float32)
    expected = np.empty((7, 11))
    for at in np.ndindex(7, 11):
        px, py = min(max(float(x[at]), 0), 12), min(max(float(y[at]), 0), 8)
        i, j = min(int(py), 7), min(int(px), 11)
        fy, fx = py - i, px - j
        expected[at] = (1 - fy) * ((1 - fx) * image[i, j] + fx * image[i, j + 1]) + fy * (
            (1 - fx) * image[i + 1, j] + fx * image[i + 1, j + 1]
        )
    found = sample(*(torch.from_numpy(a)[None] for a in (image[None], x, y)))[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
