"""Attention that nobody has told where to look finds the one thing that acts."""

from contextlib import closing

import pytest
import torch
from test_learning_order import cache, top1  # noqa: F401  a fixture for all tests here

from actionkit import builder
from actionkit.data.datasets.probes.actor import FPS
from actionkit.run import restore
from actionkit.training.checkpoints import read

pytestmark = pytest.mark.slow


def test_motion_attention_looks_at_the_actor_and_knows_its_colour(tmp_path):
    untrained = attention_over_chance()
    assert 0.6 < untrained < 1.4
    assert top1(tmp_path, "videolstm") >= 0.9  # chance is 1/4
    trained = attention_over_chance(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert trained >= 2


def attention_over_chance(checkpoint=None):
    """The attention in the actor's box over the box's share of the frame, on all validation clips.

    The mean over clips and steps of either; without a checkpoint the network has learnt nothing.
    """
    found = builder.blueprint("videolstm", ["data.workers=0"])
    task, data = builder.build(found)
    if checkpoint is not None:
        restore(task, read(checkpoint), checkpoint)
    data.prepare_data()
    crop = found.stages.eval.per_sample[0].box({}, 1.0)  # of square frames, the same for all clips
    inside, shares = [], []
    with closing(data), torch.no_grad():
        task.eval()
        for batch in data.eval_dataloader("val"):
            attention = task(batch)["scores"].attention[:, 0, :, 0]  # [B, T, H, W]
            times = batch.clips["rgb"].times[:, 0].tolist()
            for maps, seconds, index in zip(attention, times, batch.index.tolist(), strict=True):
                boxes = data.datasets["val"][index].boxes
                for weights, second in zip(maps, seconds, strict=True):
                    when, *box = boxes[round(second * FPS)]
                    assert when == pytest.approx(second)
                    assert weights.sum().item() == pytest.approx(1, abs=1e-4)
                    cover = cells(seen(box, crop), *weights.shape)
                    inside.append((weights * cover).sum().item())
                    shares.append(cover.mean().item())
    assert len(shares) == len(data.datasets["val"]) * found.stages.eval.sampler.count
    return sum(inside) / sum(shares)


def seen(box, crop):
    """The box x1, y1, x2, y2 in fractions of the crop that is taken of the frame."""
    x1, y1, x2, y2 = box
    width, height = crop.right - crop.left, crop.bottom - crop.top
    left, right = ((x - crop.left) / width for x in (x1, x2))
    top, bottom = ((y - crop.top) / height for y in (y1, y2))
    return left, top, right, bottom


def cells(box, height, width):
    """How much of each cell of a map the box covers, [height, width] in 0 to 1."""
    x1, y1, x2, y2 = box
    return _overlap(y1 * height, y2 * height, height)[:, None] * _overlap(
        x1 * width, x2 * width, width
    )


def _overlap(start, stop, count):
    first = torch.arange(count)
    return ((first + 1).clamp(max=stop) - first.clamp(min=start)).clamp(min=0)


def test_boxes_on_a_map_keep_their_area():
    """The measure itself: fractional cells, and a crop."""
    covered = cells((0.25, 0.5, 0.5, 1.0), 3, 3)
    assert covered.mean().item() == pytest.approx(0.25 * 0.5)
    assert covered[2].tolist() == pytest.approx([0.25, 0.5, 0.0])
    crop = type("Crop", (), {"left": 0.25, "top": 0.0, "right": 0.75, "bottom": 0.5})
    assert seen((0.25, 0.25, 0.5, 0.5), crop) == pytest.approx((0.0, 0.5, 0.5, 1.0))
