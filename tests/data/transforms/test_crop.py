import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from actionkit.contracts import Clip, Sample, Shape
from actionkit.data.collate import collate
from actionkit.data.transforms.boxes import Box
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.mirror import Mirror


def clip(*shape, kind="rgb", dtype=torch.uint8, channels_last=True, seed=0):
    """Random smooth frames [B, V, T, C, H, W]."""
    *front, c, h, w = shape
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (*front, h, w, c), dtype=np.uint8)
    x = torch.from_numpy(x).movedim(-1, -3).to(dtype)
    mask = torch.ones(front, dtype=torch.bool)
    return Clip(x if channels_last else x.contiguous(), mask, torch.zeros(front), kind)


def naive(frame, box, size, method=cv2.INTER_LINEAR):
    """Crop and resize of one frame [C, H, W], channel by channel."""
    top, bottom, left, right = box
    planes = [np.ascontiguousarray(p[top:bottom, left:right]) for p in frame.numpy()]
    return np.stack([cv2.resize(p, size[::-1], interpolation=method) for p in planes])


def edges(box, height, width):
    rows, columns = box.pixels(height, width)
    return rows.start, rows.stop, columns.start, columns.stop


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("frame", [(120, 160), (33, 21), (64, 64)])
def test_training_equals_naive_crop_then_resize(frame, channels, channels_last):
    transform = CropResize(size=(64, 56), scale=(0.5, 1.0))
    inp = clip(2, 1, 3, channels, *frame, channels_last=channels_last)
    draws = [transform.draw(np.random.default_rng(seed)) for seed in (1, 2)]
    out = transform.apply({"rgb": inp}, draws)["rgb"]
    assert out.x.shape == (2, 1, 3, channels, 64, 56)
    for b, draw in enumerate(draws):
        box = edges(transform.box(draw, frame[1] / frame[0]), *frame)
        for t in range(3):
            assert np.array_equal(out.x[b, 0, t].numpy(), naive(inp.x[b, 0, t], box, (64, 56)))


def test_area_is_used_below_half_size():
    inp = clip(1, 1, 1, 3, 100, 150)
    out = CropResize(size=(20, 30)).apply({"rgb": inp}, [{}])["rgb"].x[0, 0, 0]
    expected = naive(inp.x[0, 0, 0], (0, 100, 0, 150), (20, 30), cv2.INTER_AREA)
    assert np.array_equal(out.numpy(), expected)


@pytest.mark.parametrize(
    ("frame", "scale", "box"),
    [
        ((120, 160), 1.0, (0, 120, 20, 140)),
        ((160, 120), 1.0, (20, 140, 0, 120)),
        ((256, 340), 0.875, (16, 240, 58, 282)),
        ((30, 30), 1.0, (0, 30, 0, 30)),
        ((240, 320), 227 / 240, (6, 233, 46, 273)),  # an odd box in an even frame
    ],
)
def test_evaluation_takes_the_largest_centred_box(frame, scale, box):
    transform = CropResize(size=112, eval_scale=scale)
    assert transform.draw(None) == {}
    inp = clip(1, 2, 2, 3, *frame)
    out = transform.apply({"rgb": inp}, [{}])["rgb"].x
    method = cv2.INTER_AREA if box[1] - box[0] > 224 else cv2.INTER_LINEAR
    for v in range(2):
        for t in range(2):
            assert np.array_equal(
                out[0, v, t].numpy(), naive(inp.x[0, v, t], box, (112, 112), method)
            )


def test_evaluation_box_has_the_output_ratio():
    box = CropResize(size=(100, 200)).box({}, 1.0)
    assert box == Box(0, 0.25, 1, 0.75)


@pytest.mark.parametrize("frame", [(1, 1), (1, 500), (500, 1), (7, 300), (64, 64), (300, 200)])
@pytest.mark.parametrize("training", [True, False])
def test_output_size_for_every_input_size(frame, training):
    transform = CropResize(size=(16, 24), scale=(1e-4, 1.0))
    for seed in range(20 if training else 1):
        draw = transform.draw(np.random.default_rng(seed) if training else None)
        out = transform.apply({"rgb": clip(1, 1, 1, 3, *frame)}, [draw])["rgb"].x
        assert out.shape == (1, 1, 1, 3, 16, 24)
        assert out.dtype == torch.uint8


def test_boxes_lie_in_the_frame_and_follow_torchvision():
    """Area, ratio and centre are distributed as in torchvision's random resized crop."""
    height, width, count = 240, 320, 3000
    transform = CropResize(size=8)
    rng = np.random.default_rng(0)
    ours = np.array([transform.box(transform.draw(rng), width / height) for _ in range(count)])
    assert ours.min() >= 0
    assert ours.max() <= 1 + 1e-12
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(8, scale=(0.08, 1.0), ratio=(0.75, 1.3333))
    image = torch.empty(1, height, width)
    drawn = [theirs.make_params([image]) for _ in range(count)]
    theirs = np.array(
        [
            (p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"])
            for p in drawn
        ]
    ) / (width, height, width, height)  # fmt: skip
    for statistic in (area, ratio, centre):
        low, mid, high = 0.1, 0.5, 0.9
        a, b = np.quantile([statistic(ours), statistic(theirs)], [low, mid, high], axis=1).T
        assert np.abs(a - b).max() < 0.03


def area(b):
    return (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])


def ratio(b):
    return np.log((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]))


def centre(b):
    return (b[:, 0] + b[:, 2]) / 2


def test_areas_are_uniform_in_scale_where_every_box_fits():
    transform = CropResize(size=8, scale=(0.1, 0.5))
    rng = np.random.default_rng(3)
    boxes = np.array([transform.box(transform.draw(rng), 1.0) for _ in range(2000)])
    areas = np.sort(area(boxes))
    assert areas[0] >= 0.1 - 1e-9
    assert areas[-1] <= 0.5 + 1e-9
    assert np.abs(areas - np.linspace(0.1, 0.5, 2000)).max() < 0.02


def test_box_that_never_fits_becomes_the_largest_of_the_nearest_ratio():
    transform = CropResize(size=8, scale=(1.0, 1.0), ratio=(1.0, 2.0))
    draw = transform.draw(np.random.default_rng(0))
    assert transform.box(draw, 4.0) == Box(0.25, 0, 0.75, 1)


def test_all_pixel_modalities_share_the_box_and_others_stay():
    transform = CropResize(size=32, scale=(0.2, 0.6))
    small = clip(1, 1, 2, 2, 60, 80, kind="flow")
    large = clip(1, 1, 4, 3, 120, 160)
    scores = clip(1, 1, 4, 7, 1, 1, kind="score")
    draw = transform.draw(np.random.default_rng(5))
    out = transform.apply({"rgb": large, "flow": small, "score": scores}, [draw])
    assert list(out) == ["rgb", "flow", "score"]
    assert out["score"] is scores
    assert out["rgb"].x.shape == (1, 1, 4, 3, 32, 32)
    assert out["flow"].x.shape == (1, 1, 2, 2, 32, 32)
    # A ramp over the frame shows where the box lay.
    ramp = torch.linspace(0, 255, 160).round().to(torch.uint8).expand(1, 1, 1, 3, 120, 160)
    half = ramp[..., ::2, ::2]
    a, b = (
        transform.apply({"rgb": clip(1, 1, 1, 3, 2, 2)._replace(x=x)}, [draw])["rgb"].x.float()
        for x in (ramp, half)
    )
    assert (a - b).abs().max() <= 5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flow_is_scaled_with_the_picture(dtype):
    x = torch.empty(1, 1, 1, 2, 40, 80)
    x[..., 0, :, :], x[..., 1, :, :] = 12.0, -8.0
    if dtype == torch.uint8:
        x = (x + 127.5).round().to(dtype)  # 140 (+12.5), 120 (-7.5)
    flow = Clip(x, torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1), "flow")
    same = CropResize(size=(20, 80)).apply({"flow": flow}, [{}])["flow"].x  # box of 20x80
    assert torch.equal(same, x[..., :20, :])
    draw = {"area": np.array([0.5]), "ratio": np.array([1.0]), "place": np.zeros(2)}  # 40x40
    out = CropResize(size=(160, 20)).apply({"flow": flow}, [draw])["flow"].x
    expected = (6.0, -32.0) if dtype == torch.float32 else (127.5 + 6.25, 127.5 - 30)
    for channel, value in enumerate(expected):  # dx halved, dy four times as large
        assert (out[0, 0, 0, channel].float() - value).abs().max() <= 0.5


def test_flow_saturates_at_its_bound():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2, 1, 1).expand(1, 1, 1, 2, 4, 4)
    flow = Clip(x, torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1), "flow")
    out = CropResize(size=8).apply({"flow": flow}, [{}])["flow"].x[0, 0, 0]
    assert out[0].eq(0).all()
    assert out[1].eq(255).all()


def test_pure_and_padding_is_zero():
    transform = CropResize(size=8)
    inp = clip(1, 1, 3, 3, 20, 20)
    inp.mask[0, 0, 1] = False
    before = inp.x.clone()
    draw = transform.draw(np.random.default_rng(0))
    first, second = (transform.apply({"rgb": inp}, [draw])["rgb"].x for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(inp.x, before)
    assert first[0, 0, 1].eq(0).all()
    assert first[0, 0, 2].float().mean() > 50


def test_same_generator_same_draw_and_global_state_untouched():
    transform = CropResize(size=8)
    state = np.random.get_state()[1].copy()
    a, b = (transform.draw(np.random.default_rng(7)) for _ in range(2))
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert np.array_equal(np.random.get_state()[1], state)


def test_frames_reach_the_device_as_one_byte_per_pixel_and_channel():
    transforms = [CropResize(size=(24, 32)), Mirror(probability=0.5)]
    samples = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        clips = {"rgb": clip(1, 2, 3, 3, 60, 80, seed=seed), "flow": clip(1, 2, 3, 2, 60, 80)}
        clips["flow"] = clips["flow"]._replace(kind="flow")
        for transform in transforms:
            clips = transform.apply(clips, [transform.draw(rng)])
        clips = {m: Clip(c.x[0], c.mask[0], c.times[0], c.kind) for m, c in clips.items()}
        samples.append(Sample(clips, 0, None, str(seed), seed, seed))
    batch = collate(samples)
    for name, channels in (("rgb", 3), ("flow", 2)):
        x = batch.clips[name].x
        assert x.dtype == torch.uint8
        assert x.shape == (4, 2, 3, channels, 24, 32)
        assert x.untyped_storage().nbytes() == 4 * 2 * 3 * channels * 24 * 32


def test_out():
    shapes = {
        "rgb": Shape(8, 3, None, None),
        "flow": Shape(8, 2, 240, 320),
        "score": Shape(8, 400, 1, 1),
    }
    assert CropResize(size=(10, 20)).out(shapes) == {
        "rgb": Shape(8, 3, 10, 20),
        "flow": Shape(8, 2, 10, 20),
        "score": Shape(8, 400, 1, 1),
    }


@pytest.mark.parametrize("channels", [6, 20])
def test_stacked_flow_is_resized_field_by_field(channels):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (1, 1, 2, channels, 20, 30), np.uint8))
    mask, times = torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1, 2)
    crop = CropResize(size=(9, 12))
    draw = crop.draw(np.random.default_rng(1))
    whole = crop.apply({"flow": Clip(x, mask, times, "flow")}, [draw])["flow"].x
    for first in range(0, channels, 2):
        field = Clip(x[:, :, :, first : first + 2], mask, times, "flow")
        single = crop.apply({"flow": field}, [draw])["flow"].x
        assert torch.equal(whole[:, :, :, first : first + 2], single)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, " size of at least 1 pixel, but gets 0"),
        ({"size": 8, "scale": (0.5, 0.1)}, r" scale .* but gets \(0.5, 0.1\)"),
        ({"size": 8, "scale": (0.5, 1.5)}, " scale .* within 0 and 1"),
        ({"size": 8, "ratio": (0.0, 1.0)}, " ratio .* above 0"),
        ({"size": 8, "eval_scale": 0.0}, "n eval_scale above 0 and at most 1, but gets 0.0"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^takes a{sentence}"):
        CropResize(**options)
