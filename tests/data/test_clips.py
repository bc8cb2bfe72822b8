import pickle

import numpy as np
import pytest
import torch
from makers import Listed, bad_files, good_files, records

from actionkit.contracts import Record, Sampler
from actionkit.data.clips import SUBSTITUTES, Clips
from actionkit.data.order import Ask
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense, Segments
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.stack import FlowStack


class Short(Sampler):
    """Two views, the second of which has one step."""

    steps, views = 2, 2

    def __call__(self, info, record, rng):
        return np.array([[0, 3], [5, -1]])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return good_files(tmp_path_factory.mktemp("good"), 4)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return bad_files(tmp_path_factory.mktemp("bad"))


def clips(paths, train=True, sampler=None, transforms=(), **options):
    sampler = sampler or Segments(count=3)
    return Clips(
        Listed(records(paths)), Sources(PyAV()), sampler, transforms, train=train, **options
    )


def same(a, b):
    assert a._replace(clips={}) == b._replace(clips={})
    assert a.clips.keys() == b.clips.keys()
    for name, clip in a.clips.items():
        other = b.clips[name]
        assert torch.equal(clip.x, other.x)
        assert torch.equal(clip.mask, other.mask)
        assert torch.equal(clip.times.nan_to_num(-1), other.times.nan_to_num(-1))


def test_frames_are_the_readers_at_the_samplers_indices(good):
    found = clips(good, train=False)[Ask(2, 0)]
    info = PyAV().probe(good[2])
    indices = Segments(count=3)(info, Record("", {}), None)
    assert torch.equal(found.clips["rgb"].x[0], PyAV().read(good[2], indices[0]))
    assert found.clips["rgb"].x.dtype == torch.uint8
    assert found.clips["rgb"].kind == "rgb"
    torch.testing.assert_close(
        found.clips["rgb"].times, torch.from_numpy(indices / 25).float(), rtol=0, atol=1e-6
    )
    assert (found.id, found.index, found.target, found.bad) == ("good2.mp4", 2, 2, ())
    assert len(clips(good)) == 4


def test_memory_is_the_readers(good):
    x = clips(good, train=False)[Ask(0, 0)].clips["rgb"].x
    assert x.permute(0, 1, 3, 4, 2).is_contiguous()  # nothing has copied it into another order


def test_padding_is_zero_masked_and_without_time(good):
    clip = clips(good, sampler=Short())[Ask(0, 7)].clips["rgb"]
    assert clip.mask.tolist() == [[True, True], [True, False]]
    assert clip.times.isnan().tolist() == [[False, False], [False, True]]
    assert (clip.x[1, 1] == 0).all()
    expected = PyAV().read(good[0], np.array([0, 3, 5]))
    assert torch.equal(clip.x[clip.mask], expected)


def test_same_ask_same_sample_another_seed_another_sample(good):
    flow = [
        CropResize(size=16),
        DISFlow(length=2),
        FlowStack(length=2),
        Mirror(),
    ]
    data = clips(good, sampler=Segments(count=2, length=3), transforms=flow)
    again = pickle.loads(pickle.dumps(data))  # as a worker gets it
    differing = 0
    for seed in range(6):
        first = data[Ask(1, seed)]
        same(first, data[Ask(1, seed)])
        same(first, again[Ask(1, seed)])
        other = data[Ask(1, seed + 100)]
        differing += not torch.equal(first.clips["rgb"].x, other.clips["rgb"].x)
    assert differing >= 5
    assert first.clips["flow"].x.shape == (1, 2, 4, 16, 16)


def test_global_randomness_is_neither_used_nor_changed(good):
    data = clips(good, transforms=[CropResize(size=16), Mirror()])
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = data[Ask(0, 1)]
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(5)
    torch.manual_seed(5)
    same(first, data[Ask(0, 1)])


def test_evaluation_draws_nothing(good):
    data = clips(good, train=False, transforms=[CropResize(size=16), Mirror(probability=1)])
    first, second = data[Ask(0, 1)], data[Ask(0, 2)]
    assert (first.seed, second.seed) == (1, 2)
    same(first, second._replace(seed=1))


def test_parts_of_the_views_are_the_views(good):
    sampler = Dense(length=3, clips=5)
    whole = clips(good, train=False, sampler=sampler)[Ask(0, 0)].clips["rgb"].x
    data = clips(good, train=False, sampler=sampler, views_per_item=2)
    parts = [data[Ask(0, 0, part)] for part in range(3)]
    assert [len(part.clips["rgb"].x) for part in parts] == [2, 2, 1]
    assert {part.id for part in parts} == {"good0.mp4"}
    assert torch.equal(torch.cat([part.clips["rgb"].x for part in parts]), whole)


@pytest.mark.parametrize("what", ["missing", "empty", "no_moov", "audio", "text"])
def test_training_replaces_an_unreadable_clip(good, bad, what):
    data = clips([bad[what], *good])
    samples = [data[Ask(0, seed)] for seed in range(12)]
    for seed, sample in enumerate(samples):
        same(sample, data[Ask(0, seed)])  # same Ask, same substitute
        assert sample.clips
        assert sample.seed == seed
        record = data.dataset[sample.index]
        assert (sample.id, sample.target) == (record.id, record.target)  # the substitute's own
        first = sample.bad[0]
        assert (first.id, first.path) == (f"{what}.mp4", str(bad[what]))
        assert (first.reader, first.origin) == ("pyav", "list.txt:1")
        assert len(first.reason) > 10
    assert len({sample.id for sample in samples}) > 1  # not always the same one


def test_reasons_tell_the_defects_apart(bad):
    data = clips(bad.values(), train=False)
    reasons = [data[Ask(i, 0)].bad[0].reason for i in range(len(bad))]
    assert len(set(reasons)) == len(bad)


@pytest.mark.parametrize("what", ["missing", "empty", "no_moov", "audio", "text"])
def test_evaluation_never_replaces(good, bad, what):
    sample = clips([bad[what], *good], train=False)[Ask(0, 0)]
    assert sample.clips == {}
    assert sample.id == f"{what}.mp4"
    assert len(sample.bad) == 1


def test_all_unreadable_gives_a_sample_without_clips(bad):
    sample = clips(bad.values())[Ask(1, 5)]
    assert sample.clips == {}
    assert len(sample.bad) == SUBSTITUTES
    assert {b.path for b in sample.bad} <= set(map(str, bad.values()))


def test_other_errors_are_not_hidden(good):
    class Broken(PyAV):
        def read(self, path, indices):
            raise MemoryError

    data = clips(good)
    data.sources = Sources(Broken())
    with pytest.raises(MemoryError):
        data[Ask(0, 0)]
