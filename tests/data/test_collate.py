import numpy as np
import pytest
import torch
from makers import clip, sample
from torch.utils.data import DataLoader

from actionkit.contracts import Bad, Clip
from actionkit.data.collate import collate

BAD = Bad("b", "b.mp4", "list.txt:2", "pyav", "the file is empty")


def naive(clips):
    """Stacking by hand: zeros, then every clip copied in."""
    views, steps = (max(c.x.shape[axis] for c in clips) for axis in (0, 1))
    x = torch.zeros(len(clips), views, steps, *clips[0].x.shape[2:], dtype=clips[0].x.dtype)
    mask = torch.zeros(len(clips), views, steps, dtype=torch.bool)
    times = torch.full((len(clips), views, steps), torch.nan)
    for b, c in enumerate(clips):
        for v in range(c.x.shape[0]):
            for t in range(c.x.shape[1]):
                x[b, v, t], mask[b, v, t], times[b, v, t] = c.x[v, t], c.mask[v, t], c.times[v, t]
    return Clip(x, mask, times, clips[0].kind)


def same(a, b):
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.mask, b.mask)
    torch.testing.assert_close(a.times, b.times, equal_nan=True, rtol=0, atol=0)
    assert a.kind == b.kind


@pytest.mark.parametrize(
    "sizes",
    [[(1, 3), (1, 3)], [(1, 2), (1, 5), (1, 3)], [(2, 4), (3, 1)], [(1, 1)]],
    ids=["equal", "steps", "views and steps", "one"],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_equals_naive_stacking_in_channels_last_memory(sizes, dtype):
    clips = [clip(v, t, (3, 4, 6), seed=i) for i, (v, t) in enumerate(sizes)]
    clips = [c._replace(x=c.x.to(dtype)) for c in clips]
    found = collate([sample(i, rgb=c) for i, c in enumerate(clips)]).clips["rgb"]
    same(found, naive(clips))
    assert found.x.dtype == dtype
    assert found.x.permute(0, 1, 2, 4, 5, 3).is_contiguous()  # [B, V, T, H, W, C] in memory
    assert found.x.stride()[-3:] == (1, 6 * 3, 3)
    views, steps = found.x.shape[1:3]
    assert found.x.stride()[:3] == tuple(72 * n for n in (views * steps, steps, 1))


def test_memory_is_channels_last_also_where_a_clip_is_not():
    clips = [clip(), clip(1, 3)]
    clips[0] = clips[0]._replace(x=clips[0].x.contiguous())
    found = collate([sample(i, rgb=c) for i, c in enumerate(clips)]).clips["rgb"]
    same(found, naive(clips))
    assert found.x.permute(0, 1, 2, 4, 5, 3).is_contiguous()


def test_one_byte_a_value():
    found = collate([sample(0), sample(1)]).clips["rgb"].x
    assert found.untyped_storage().nbytes() == 2 * 2 * 3 * 8 * 8


def test_every_modality_with_its_own_length():
    samples = [
        sample(i, rgb=clip(1, 2 + i, seed=i), flow=clip(1, 3 - i, (2, 8, 8), seed=i, kind="flow"))
        for i in range(2)
    ]
    found = collate(samples).clips
    for name in ("rgb", "flow"):
        same(found[name], naive([s.clips[name] for s in samples]))
    assert found["flow"].mask.tolist() == [[[True] * 3], [[True, True, False]]]


def test_in_a_worker_as_in_the_main_process():
    samples = [sample(i, rgb=clip(1, 1 + i % 3, seed=i)) for i in range(6)]
    loaders = [DataLoader(samples, 3, collate_fn=collate, num_workers=n) for n in (0, 1)]
    for here, there in zip(*loaders, strict=True):
        same(here.clips["rgb"], there.clips["rgb"])
        assert here.clips["rgb"].x.stride() == there.clips["rgb"].x.stride()
        assert here.id == there.id


def test_ids_indices_and_seeds():
    found = collate([sample(2), sample(0)])
    assert found.id == ["v2", "v0"]
    assert found.index.tolist() == [2, 0]
    assert found.seed.tolist() == [102, 100]
    large = 2**63 - 1
    assert collate([sample(0)._replace(seed=large)]).seed.item() == large


def test_class_targets():
    target = collate([sample(0, -1), sample(1, 2)]).target
    assert target.dtype == torch.int64
    assert target.tolist() == [-1, 2]


def test_float_targets():
    soft = [np.array([0.25, 0.75]), np.array([np.nan, np.nan])]
    target = collate([sample(i, t) for i, t in enumerate(soft)]).target
    assert target.dtype == torch.float32
    np.testing.assert_array_equal(target.numpy(), np.stack(soft).astype(np.float32))


def test_targets_by_head():
    targets = [
        {"verb": 1, "noun": np.array([1.0, 0.0])},
        {"noun": np.array([0.0, 1.0]), "verb": -1},
    ]
    target = collate([sample(i, t) for i, t in enumerate(targets)]).target
    assert target["verb"].tolist() == [1, -1]
    assert target["noun"].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_boxes_are_padded_with_nan():
    short, long = torch.rand(1, 1, 2, 4), torch.rand(1, 3, 1, 4)
    boxes = collate([sample(0)._replace(boxes=short), sample(1)._replace(boxes=long)]).boxes
    assert boxes.shape == (2, 1, 3, 2, 4)
    assert torch.equal(boxes[0, :, :1], short)
    assert torch.equal(boxes[1, :, :, :1], long)
    assert boxes[0, :, 1:].isnan().all()
    assert boxes[1, :, :, 1:].isnan().all()


def test_boxes_stay_with_their_clip_where_others_have_none():
    some = torch.rand(1, 2, 1, 4)
    boxes = collate([sample(0), sample(1)._replace(boxes=some)]).boxes
    assert boxes.shape == (2, 1, 2, 1, 4)
    assert boxes[0].isnan().all()
    assert torch.equal(boxes[1], some)
    assert collate([sample(0), sample(1)]).boxes is None


def test_unreadable_samples_are_in_bad_only():
    lost = sample(1)._replace(clips={}, bad=(BAD,))
    replaced = sample(2)._replace(bad=(BAD._replace(id="c"),))
    found = collate([sample(0), lost, replaced])
    assert found.id == ["v0", "v2"]
    assert len(found.clips["rgb"].x) == len(found.target) == len(found.seed) == 2
    assert [b.id for b in found.bad] == ["b", "c"]


def test_only_unreadable_samples():
    found = collate([sample(i)._replace(clips={}, bad=(BAD,)) for i in range(2)])
    assert found.clips == {}
    assert found.id == []
    assert len(found.index) == len(found.seed) == len(found.target) == 0
    assert found.boxes is None
    assert found.bad == (BAD, BAD)
