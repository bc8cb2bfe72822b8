import cv2
import numpy as np
import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.flow import PRESETS, DISFlow, FlowStack
from actionkit.data.transforms.kinds import dequantize_flow


def texture(size=160, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def moving(steps, dx, dy, seed=0):
    """Frames [steps, 3, 96, 96] of a texture that moves by dx, dy pixels a step."""
    whole = texture(seed=seed)
    frames = [whole[32 - t * dy : 128 - t * dy, 32 - t * dx : 128 - t * dx] for t in range(steps)]
    return torch.from_numpy(np.stack(frames)).movedim(-1, -3)


def clip(x, kind="rgb"):
    """A clip [1, 1, T, ...] of x [T, C, H, W], a step a second."""
    steps = x.shape[0]
    times = torch.arange(steps, dtype=torch.float32).view(1, 1, -1)
    return Clip(x[None, None], torch.ones(1, 1, steps, dtype=torch.bool), times, kind)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -2), (3, 1), (-2, 2)])
def test_flow_of_a_translated_texture(dx, dy, preset):
    transform = DISFlow(length=3, bound=10.0, preset=preset)
    flow = transform.apply({"rgb": clip(moving(4, dx, dy))}, [{}])["flow"]
    assert flow.x.shape == (1, 1, 3, 2, 96, 96)
    assert flow.x.dtype == torch.uint8
    inner = dequantize_flow(flow.x[..., 16:-16, 16:-16], 10.0)
    found = inner.median(-1).values.median(-1).values  # [1, 1, 3, 2]
    assert (found - torch.tensor([dx, dy])).abs().max() < 0.25


def test_equals_dis_of_every_pair_and_snippets_never_cross():
    x = torch.cat([moving(3, 2, 0), moving(3, -1, 1, seed=1)])
    flow = DISFlow(length=2, bound=10.0).apply({"rgb": clip(x)}, [{}])["flow"]
    gray = [cv2.cvtColor(f.movedim(0, -1).numpy(), cv2.COLOR_RGB2GRAY) for f in x]
    expected = []
    for i, j in [(0, 1), (1, 2), (3, 4), (4, 5)]:  # never (2, 3)
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        field = dis.calc(gray[i], gray[j], None).astype(np.float64).clip(-10, 10)
        expected.append(np.round(255 * (field + 10) / 20).transpose(2, 0, 1))
    assert np.abs(flow.x[0, 0].numpy() - np.stack(expected)).max() <= 1
    assert (flow.x[0, 0].numpy() == np.stack(expected)).mean() > 0.999
    assert flow.times.tolist() == [[[0, 1, 3, 4]]]


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


def test_views_and_batch_equal_sample_by_sample():
    parts = [moving(3, dx, 0, seed=dx) for dx in range(4)]
    x = torch.stack(parts).unflatten(0, (2, 2))  # [B, V, T, C, H, W]
    front = x.shape[:3]
    whole = Clip(x, torch.ones(front, dtype=torch.bool), torch.zeros(front), "rgb")
    flow = DISFlow(length=2).apply({"rgb": whole}, [{}, {}])["flow"].x.flatten(0, 1)
    for i, part in enumerate(parts):
        alone = DISFlow(length=2).apply({"rgb": clip(part)}, [{}])["flow"].x[0, 0]
        assert torch.equal(flow[i], alone)


def test_gray_and_planar_memory_give_the_same():
    x = moving(3, 2, 1)
    gray = np.stack([cv2.cvtColor(f.movedim(0, -1).numpy(), cv2.COLOR_RGB2GRAY) for f in x])
    flows = [
        DISFlow(length=2).apply({"rgb": clip(y, kind)}, [{}])["flow"].x
        for y, kind in [
            (x, "rgb"),
            (x.contiguous(), "rgb"),
            (torch.from_numpy(gray)[:, None], "gray"),
        ]
    ]
    assert torch.equal(flows[0], flows[1])
    assert torch.equal(flows[0], flows[2])


def test_real_clip(real_data):
    path = real_data / "real_clips" / "kinetics" / "skateboarding.mp4"
    video, frames = cv2.VideoCapture(str(path)), []
    while len(frames) < 6:
        ok, frame = video.read()
        assert ok
        frames.append(frame[..., ::-1].copy())
    x = torch.from_numpy(np.stack(frames)).movedim(-1, -3)
    flow = DISFlow(length=5, preset="medium").apply({"rgb": clip(x)}, [{}])["flow"].x[0, 0]
    grid = np.stack(np.meshgrid(np.arange(x.shape[-1]), np.arange(x.shape[-2])), -1)
    still = warped = 0.0
    for i in range(5):  # a frame warped back along the flow resembles the one before it
        field = dequantize_flow(flow[i], 20.0).movedim(0, -1).numpy()
        back = cv2.remap(frames[i + 1], (grid + field).astype(np.float32), None, cv2.INTER_LINEAR)
        still += np.abs(frames[i + 1].astype(float) - frames[i]).mean()
        warped += np.abs(back.astype(float) - frames[i]).mean()
    assert warped < 0.7 * still


def test_stack_interleaves_exactly():
    x = torch.arange(6 * 2, dtype=torch.uint8).view(6, 2, 1, 1).expand(6, 2, 4, 5).contiguous()
    inp = clip(x, "flow")
    out = FlowStack(length=3).apply({"flow": inp}, [{}])["flow"]
    assert out.x.shape == (1, 1, 2, 6, 4, 5)
    assert out.x[0, 0, :, :, 0, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert out.x.data_ptr() == inp.x.data_ptr()  # a view
    assert out.times.tolist() == [[[0, 3]]]
    assert out.kind == "flow"


def test_stack_of_channels_last_memory_gives_the_same():
    x = torch.randint(0, 256, (6, 4, 5, 2), dtype=torch.uint8).movedim(-1, -3)
    a, b = (FlowStack(length=3).apply({"flow": clip(y, "flow")}, [{}])["flow"].x
            for y in (x, x.contiguous()))  # fmt: skip
    assert torch.equal(a, b)


def test_mean_subtraction_takes_the_motion_of_the_camera():
    x = torch.randint(0, 200, (4, 2, 6, 7), dtype=torch.uint8)
    pan = torch.tensor([10, 40], dtype=torch.uint8).view(2, 1, 1)
    stack = FlowStack(length=2, mean_subtraction=True)
    still, panned, floats = (
        stack.apply({"flow": clip(y, "flow")}, [{}])["flow"].x
        for y in (x, x + pan, dequantize_flow(x))
    )
    assert still.dtype == torch.float32
    assert still.mean((-1, -2)).abs().max() < 1e-6
    assert (still - panned).abs().max() < 1e-6
    assert torch.equal(still, floats)
    field = x[1, 0].double()  # dx of the second field: channel 2 of the first stack
    assert (still[0, 0, 0, 2] - (field - field.mean()) / 127.5).abs().max() < 1e-6


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


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rgb": Shape(8, 3, 64, 64)}, "takes the modality 'flow', but there is 'rgb'"),
        ({"flow": Shape(8, 2, 64, 64)}, "stacks 5 fields, but gets 8; set its length"),
        ({"flow": Shape(5, 20, 64, 64)}, "stacks flow of 2 channels, but 'flow' has 20"),
    ],
)
def test_flow_stack_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        FlowStack(length=5).out(shapes)


def test_constructors_refuse():
    for kind in (DISFlow, FlowStack):
        with pytest.raises(ValueError, match=r"^takes a length of at least 1, but gets 0"):
            kind(length=0)
    with pytest.raises(ValueError, match=r"^takes a bound above 0 pixels, but gets 0"):
        DISFlow(length=1, bound=0)


def test_smallest_frames_work():
    x = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    for preset in PRESETS:
        flow = DISFlow(length=1, preset=preset).apply({"rgb": clip(x)}, [{}])["flow"]
        assert flow.x.shape == (1, 1, 1, 2, 12, 12)
