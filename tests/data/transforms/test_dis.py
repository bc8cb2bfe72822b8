import cv2
import numpy as np
import pytest
import torch
from flows import clip, moving

from actionkit.contracts import Clip
from actionkit.data.transforms.dis import PRESETS, DISFlow
from actionkit.data.transforms.kinds import dequantize_flow


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


def test_smallest_frames_work():
    x = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    for preset in PRESETS:
        flow = DISFlow(length=1, preset=preset).apply({"rgb": clip(x)}, [{}])["flow"]
        assert flow.x.shape == (1, 1, 1, 2, 12, 12)
