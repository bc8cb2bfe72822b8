"""The store of features: what is read is what was written, whatever happened in between."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from makers import Listed

from actionkit.contracts import Clip, Info, Record, Shape, VideoReadError
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.device import on_device
from actionkit.data.order import Ask
from actionkit.data.samplers import Full, Segments
from actionkit.data.sources import Sources
from actionkit.data.stores.features import ARRAY, LIST, StoredFeatures, Writer
from actionkit.data.stores.folder import Failure, Store
from actionkit.errors import NoRoomError, RunError
from actionkit.testing.subject import open_files

IDS = [
    "plain",
    "Run/v_Run_g01.avi",
    "a b#t=1,2.5",
    "../up",
    "/abs",
    ".",
    "..",
    "",
    "ü",
    "%2E",
    "\udcff",
]
SIZES = (3, 2, 1)


def rows(seed, steps, sizes=SIZES, dtype="float16"):
    return np.random.default_rng(seed).normal(size=(steps, *sizes)).astype(dtype)


def made(folder, batches, failures=(), *, dtype="float16"):
    """A whole store of batches [(id, features)], the failures in the last."""
    store = Store.begin(folder, "features", {}, folder)
    writer = Writer(folder, dtype)
    for i, batch in enumerate(batches):
        writer.append(batch, failures if i == len(batches) - 1 else [])
    writer.finish()
    store.finish(writer.failures)
    return StoredFeatures(path=folder)


def at(reader, name):
    return reader.source(Record(name, {}), "any")


def test_any_step_of_any_clip_comes_back_under_any_id(tmp_path):
    whole = {name: rows(i, 1 + i) for i, name in enumerate(IDS)}
    pairs = list(whole.items())
    reader = made(tmp_path, [pairs[:4], pairs[4:]])
    assert len({at(reader, name) for name in IDS}) == len(IDS)
    rng = np.random.default_rng(0)
    for name, x in pairs:
        path = at(reader, name)
        assert path.parent == tmp_path
        assert reader.probe(path) == Info(len(x), 1.0, float(len(x)), 2, 1)
        every = np.arange(len(x))
        for indices in (every, every[::-1], rng.integers(0, len(x), 9), every[:0], every[-1:]):
            found = reader.read(path, indices)
            assert found.dtype == torch.float16
            np.testing.assert_array_equal(found.numpy(), x[indices])
    assert reader.out(Shape(7, 3, None, None)) == Shape(7, *SIZES)
    together = np.concatenate([x for _, x in pairs])
    np.testing.assert_array_equal(np.load(tmp_path / ARRAY, mmap_mode="r"), together)


def test_pieces_of_a_clip_are_one_clip(tmp_path):
    a, b, c = rows(0, 2), rows(1, 3), rows(2, 1)
    reader = made(tmp_path, [[("x", a)], [("x", b), ("y", c)]], dtype="float16")
    found = reader.read(at(reader, "x"), np.arange(5))
    np.testing.assert_array_equal(found.numpy(), np.concatenate([a, b]))


def test_what_is_not_there_is_said(tmp_path):
    parts = [[("whole", rows(0, 2)), ("half", rows(1, 2))], [("half", rows(2, 1))]]
    reader = made(tmp_path, parts, [Failure("half", "a.mp4 (pyav): broken"), Failure("half", "b")])
    for name, reason in (
        ("half", r"could not be read when features were extracted: a.mp4 \(pyav\): broken"),
        ("other", "no clip of this id; extract features of this data set"),
    ):
        for act in (reader.probe, lambda path: reader.read(path, np.array([0]))):
            with pytest.raises(VideoReadError, match=reason):
                act(at(reader, name))
    with pytest.raises(VideoReadError, match="steps -1 to 2 were asked for, but it has steps 0 to"):
        reader.read(at(reader, "whole"), np.array([2, -1]))
    os.truncate(tmp_path / ARRAY, 130)
    with pytest.raises(ValueError, match=r"no sound features.npy in .*cut short.*extract again"):
        StoredFeatures(path=tmp_path)
    with pytest.raises(VideoReadError, match=f"{ARRAY} cannot be read: it is cut short"):
        reader.read(at(reader, "whole"), np.array([1]))
    (tmp_path / "store.json").unlink()
    with pytest.raises(VideoReadError, match="the store cannot be read"):
        reader.probe(at(reader, "whole"))


def test_only_a_whole_store_of_features_is_taken(tmp_path):
    with pytest.raises(
        ValueError, match=r"finds no store in .*make it: actionkit extract features"
    ):
        StoredFeatures(path=tmp_path / "none")
    Store.begin(tmp_path / "begun", "features", {}, tmp_path)
    with pytest.raises(ValueError, match="unfinished"):
        StoredFeatures(path=tmp_path / "begun")
    Store.begin(tmp_path / "flow", "flow", {}, tmp_path).finish([])
    with pytest.raises(ValueError, match=r"but .* holds flow; use stored_flow"):
        StoredFeatures(path=tmp_path / "flow")


def test_it_pickles_and_keeps_nothing_open(tmp_path):
    x = rows(0, 4)
    reader = pickle.loads(pickle.dumps(made(tmp_path, [[("a", x)]])))
    before = open_files()
    np.testing.assert_array_equal(reader.read(at(reader, "a"), np.arange(4)).numpy(), x)
    with pytest.raises(VideoReadError):
        reader.probe(at(reader, "b"))
    assert open_files() == before


def test_a_store_made_anew_is_seen(tmp_path):
    reader = made(tmp_path, [[("a", rows(0, 4))]])
    assert reader.probe(at(reader, "a")).frames == 4
    for file in tmp_path.iterdir():
        file.unlink()
    x = rows(1, 2)
    made(tmp_path, [[("b", rows(2, 3)), ("a", x)]])
    os.utime(tmp_path / "store.json", ns=(1, 1))
    assert reader.probe(at(reader, "a")).frames == 2
    np.testing.assert_array_equal(reader.read(at(reader, "a"), np.arange(2)).numpy(), x)


@pytest.mark.parametrize("readers", ["one", "by modality"])
def test_they_pass_the_pipeline_as_floats_of_kind_score(tmp_path, readers):
    whole = {"a": rows(0, 2, (5, 1, 1)), "b": rows(1, 4, (5, 1, 1))}
    reader = made(tmp_path, [list(whole.items())])
    name = "rgb" if readers == "one" else "features"
    sources = Sources(reader if readers == "one" else {"features": reader})
    # a clip's place in its video is not its place in the store
    records = [Record(i, {"rgb": tmp_path / "no.mp4"}, 0, start=9.0, end=11.0) for i in whole]
    clips = Clips(Listed(records), sources, Full(), [], train=False)
    batch = collate([clips[Ask(i, 0)] for i in range(2)])
    assert batch.clips[name].x.dtype == torch.float16
    clip: Clip = on_device(batch, [], train=False).clips[name]
    assert clip.kind == "score"
    assert clip.x.dtype == torch.float32
    assert clip.mask.tolist() == [[[True, True, False, False]], [[True] * 4]]
    for found, real, x in zip(clip.x, clip.mask, whole.values(), strict=True):
        np.testing.assert_array_equal(found[real].numpy(), x.astype("float32"))
        assert not found[~real].any()
    some = Clips(Listed(records), sources, Segments(count=2), [], train=False)[Ask(1, 0)]
    np.testing.assert_array_equal(some.clips[name].x[0].numpy(), whole["b"][[1, 3]])


# --------------------------------------------------------------------------------------- writing

BATCHES = [
    [("a", rows(0, 2)), ("b", rows(1, 1))],
    [],
    [("c", rows(2, 3))],
    [("d", rows(3, 1)), ("e", rows(4, 2))],
]
BAD = [[], [Failure("x", "gone")], [Failure("x", "again")], []]


def go_on(folder, *, finish=True):
    """Writes the batches that are not there yet."""
    writer = Writer(folder, "float16")
    for i in range(len(writer.lines), len(BATCHES)):
        writer.append(BATCHES[i], BAD[i])
    if finish:
        writer.finish()
    return writer


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_tail_of_any_length_is_cut_off_and_written_again(tmp_path, monkeypatch):
    """A line is written when its rows are; so rows may lie behind the last line, never miss."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (tmp_path / "whole").mkdir()
    go_on(tmp_path / "whole", finish=False)
    text, array = ((tmp_path / "whole" / name).read_bytes() for name in (LIST, ARRAY))
    writer = go_on(tmp_path / "whole")
    assert writer.failures == [Failure("x", "gone")]
    right = contents(tmp_path / "whole")
    assert right[LIST] == text
    assert len(right[ARRAY]) == len(array)
    size = int(np.prod(SIZES)) * 2
    head = len(array) - 9 * size
    ends = [0, *(i + 1 for i, byte in enumerate(text) if byte == ord("\n"))]
    steps = np.cumsum([0, *(sum(len(x) for _, x in batch) for batch in BATCHES)])
    tried = 0
    for cut in range(len(text) + 1):
        lines = max(i for i, end in enumerate(ends) if end <= cut)
        least = head + steps[lines] * size if steps[lines] else 0
        most = head + steps[min(lines + 1, len(BATCHES))] * size
        for length in {least, (least + most) // 2, most}:
            folder = tmp_path / f"{cut}-{length}"
            folder.mkdir()
            (folder / LIST).write_bytes(text[:cut])
            (folder / ARRAY).write_bytes(array[:length])
            go_on(folder)
            assert contents(folder) == right
            tried += 1
    assert tried > 2 * len(text)


def test_rows_that_are_missing_are_not_made_up(tmp_path):
    go_on(tmp_path)
    for length, text in ((135, "is damaged: it is cut short; remove"), (50, "is damaged: EOF")):
        os.truncate(tmp_path / ARRAY, length)
        with pytest.raises(RunError, match=text):
            Writer(tmp_path, "float16")
    (tmp_path / "open").mkdir()
    go_on(tmp_path / "open", finish=False)
    os.truncate(tmp_path / "open" / ARRAY, 135)
    with pytest.raises(RunError, match=f"is damaged: {ARRAY} is shorter than {LIST} says"):
        Writer(tmp_path / "open", "float16")


def test_features_of_two_sizes_are_refused_with_a_cure(tmp_path):
    writer = Writer(tmp_path, "float16")
    writer.append([("a", rows(0, 2))], [])
    with pytest.raises(
        RunError, match=r"b has features of 3x4x1, but those before it have 3x2x1.*crop_resize"
    ):
        writer.append([("b", rows(0, 2, (3, 4, 1)))], [])


def test_two_processes_do_not_write_one_store(tmp_path):
    first, second = Writer(tmp_path, "float16"), Writer(tmp_path, "float16")
    first.append(*both(0))
    with pytest.raises(RunError, match=r"another process writes to .* too; this one stops"):
        second.append(*both(0))
    for i in range(1, len(BATCHES)):
        first.append(*both(i))
    first.finish()
    (tmp_path / "alone").mkdir()
    go_on(tmp_path / "alone")
    assert (tmp_path / ARRAY).read_bytes() == (tmp_path / "alone" / ARRAY).read_bytes()
    assert json.loads((tmp_path / LIST).read_bytes().splitlines()[2])["pieces"] == [["c", 3]]


def both(i):
    return BATCHES[i], BAD[i]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_a_sentence(tmp_path):
    writer = Writer(tmp_path, "float16")
    writer.append(*both(0))
    (tmp_path / ARRAY).unlink()
    (tmp_path / ARRAY).symlink_to("/dev/full")
    with pytest.raises(NoRoomError, match=r"No space left on device; .* are free. Free space and"):
        writer.append(*both(2))
