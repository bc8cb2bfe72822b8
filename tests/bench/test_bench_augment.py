"""Each variant does the same work, and none sends more bytes than it says."""

import numpy as np
import torch

from actionkit.bench import augment as bench
from actionkit.bench.pictures import scene


def test_both_comparisons_have_all_their_rows_and_bytes():
    order, types = bench.augment(1, frames=2)
    assert len(order.rows) + len(types.rows) == bench.MEASUREMENTS
    assert not [note for note in types.notes if "left out" in note]
    clip = 2 * 3 * bench.OUT**2
    for row in types.rows:
        floats = "float" in row.name
        assert row.facts["kB to the device"] * 1e3 == (4 if floats else 1) * clip, row.name


def test_cropping_first_gives_nearly_the_same_picture():
    frames = scene(2, *bench.WIDE)
    late, early = bench._resize_crop(frames), bench._crop_resize(frames)
    assert late.shape == early.shape == (2, bench.OUT, bench.OUT, 3)
    other = np.abs(late.astype(int) - early[::-1]).mean()
    assert np.abs(late.astype(int) - early).mean() < min(4, other)


def test_every_library_gives_a_mirrored_clip_of_the_wanted_size():
    bright = np.zeros((2, bench.SIDE, bench.SIDE, 3), np.uint8)
    bright[:, :, : bench.SIDE // 2] = 200  # the left half; mirrored it is the right one
    variants, _ = bench._libraries(bench._clip(bright))
    for name, run in variants.items():
        result = run().float()
        assert result.shape[-3:] == (3, bench.OUT, bench.OUT), name
        assert result[..., -1].mean() > result[..., 0].mean(), name
        assert torch.isfinite(result).all()
