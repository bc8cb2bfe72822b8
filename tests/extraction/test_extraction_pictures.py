"""Extraction: killed at any moment and gone on with, it ends with the very same bytes."""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from recipes_for_tests import TWO_STREAMS, changed, write
from videos import moving_frames, write_video

from actionkit import files, registry, validate
from actionkit.contracts import VideoReadError
from actionkit.data.readers.pyav import PyAV
from actionkit.data.stores import blobs, folder
from actionkit.data.stores.blobs import DATA, ENDS, VIDEOS, table
from actionkit.data.stores.folder import NOTE, Failure, Store
from actionkit.errors import NoRoomError, RunError
from actionkit.extraction import flow, pictures
from actionkit.extraction.flow import StoringFlow, device_for, maker_of, settings
from actionkit.extraction.pictures import PARTS, Storing, Videos, extract, videos_of
from actionkit.grammar import Node
from actionkit.recipe import RecipeError

FILES = {DATA, ENDS, VIDEOS, NOTE}
DIS = Node("", "", "dis_flow", registry.find(("transforms",), "dis_flow"), {"length": 3})
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Processes are forked here, which threads do not survive."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos, one of which is a text, under two folders."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(7):
        write_video(root / "ab"[i % 2] / f"{i}.mp4", moving_frames(3 + i, 24, 32, seed=i))
    (root / "a" / "text.mp4").write_text("this is no video")
    return sorted(root.rglob("*.mp4"))


def run(store, paths, storing=None, workers=0, reader="pyav"):
    storing = storing or Storing(PyAV(), 0, 90)
    return extract(
        store, storing, Videos(list(paths), PyAV(), {"use": reader}), {}, workers=workers
    )


def bytes_of(store):
    assert {p.name for p in store.iterdir()} == FILES
    return {p.name: p.read_bytes() for p in store.iterdir()}


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    """The files of a store that was made without interruption."""
    store = tmp_path_factory.mktemp("whole") / "store"
    run(store, videos)
    return bytes_of(store)


# -------------------------------------------------------------------------------------- killed

WATCHED = {module.__file__ for module in (blobs, files, folder, pictures)}


class Lines:
    """Counts the lines run of the modules that write a store, and kills this process at one."""

    def __init__(self, last=None):
        self.count, self.last = 0, last

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def forked(function, *given):
    """Starts a process that does this and says nothing of its end."""
    process = FORK.Process(target=function, args=given)
    process.start()
    return process


def killed_at(line, store, paths):
    sys.settrace(Lines(line))
    run(store, paths)


def test_killed_at_any_line_it_goes_on_to_the_same_bytes(videos, whole, tmp_path):
    lines = Lines()
    sys.settrace(lines)
    run(tmp_path / "counted", videos)
    sys.settrace(None)
    assert bytes_of(tmp_path / "counted") == whole
    rng, cuts = np.random.default_rng(0), 24
    for part in range(cuts):
        low, high = (lines.count * n // cuts for n in (part, part + 1))
        store = tmp_path / "store"
        process = forked(killed_at, int(rng.integers(low, high)) + 1, store, videos)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if part % 4 == 0:  # and once more on the way
            process = forked(killed_at, int(rng.integers(1, high + 1)) + 1, store, videos)
            process.join()
        run(store, videos)
        assert bytes_of(store) == whole
        shutil.rmtree(store)


def test_killed_at_any_moment_with_workers_it_goes_on_to_the_same_bytes(videos, whole, tmp_path):
    start = time.monotonic()
    run(tmp_path / "two", videos, workers=2)
    assert bytes_of(tmp_path / "two") == whole
    seconds = time.monotonic() - start
    for part in range(5):
        store = tmp_path / "store"
        process = forked(run, store, videos, None, 2)
        time.sleep(seconds * part / 5)
        process.kill()
        process.join()
        run(store, videos, workers=2)
        assert bytes_of(store) == whole
        shutil.rmtree(store)


def test_what_workers_of_a_killed_process_still_write_does_no_harm(videos, whole, tmp_path):
    store = tmp_path / "store"
    process = forked(killed_at, 400, store, videos)
    process.join()
    stale = store / PARTS / "stale"
    stale.mkdir(parents=True)
    (stale / "0.data").write_bytes(b"torn")
    run(store, videos)
    assert bytes_of(store) == whole


def test_flow_is_the_same_bytes_with_workers_or_without(videos, tmp_path):
    for workers in (0, 2):
        run(tmp_path / str(workers), videos, StoringFlow(PyAV(), 0, 90, node=DIS), workers)
    assert bytes_of(tmp_path / "0") == bytes_of(tmp_path / "2")


# ------------------------------------------------------------------------------------- summary


def test_what_was_done_is_summed_up(videos, whole, tmp_path):
    ticks, expected = [], []
    source = Videos(videos, PyAV(), {})
    done = extract(
        tmp_path / "s",
        Storing(PyAV(), 0, 90),
        source,
        {},
        workers=0,
        expect=expected.append,
        tick=lambda: ticks.append(1),
    )
    assert done[:3] == (7, 0, 42)
    assert done.bytes == len(whole[DATA])
    assert done.failures == [Failure("a/text.mp4", "it is text, not a video")]
    assert (expected, len(ticks)) == ([8], 8)


def test_videos_come_in_the_order_of_their_names(videos, whole, tmp_path):
    run(tmp_path / "s", reversed(videos))
    assert bytes_of(tmp_path / "s") == whole
    names = list(table(tmp_path / "s").videos)
    assert names == sorted(names)
    assert len(names) == 7


def test_a_finished_store_is_left_as_it_is(videos, tmp_path):
    good = [v for v in videos if v.name != "text.mp4"]
    run(tmp_path / "s", good)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir()}
    done = run(tmp_path / "s", good)
    assert done[:5] == (0, 7, 0, 0, [])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir()} == before


def test_what_failed_is_tried_again(videos, tmp_path):
    here = tmp_path / "videos"
    shutil.copytree(videos[0].parent.parent, here)
    paths = sorted(here.rglob("*.mp4"))
    store = tmp_path / "s"
    assert len(run(store, paths).failures) == 1
    shutil.copy(here / "a" / "0.mp4", here / "a" / "text.mp4")
    done = run(store, paths)
    assert done[:2] == (1, 7)
    assert done.failures == []
    assert Store.open(store, "frames").failures == []
    assert list(table(store).videos)[-1] == "a/text.mp4"


def test_videos_of_another_recipe_are_added(videos, whole, tmp_path):
    first, second = (
        [v for v in videos if (v.name in ("0.mp4", "1.mp4", "text.mp4")) == taken]
        for taken in (True, False)
    )
    store = tmp_path / "s"
    run(store, first)
    before = bytes_of(store)
    assert run(store, second).there == 0
    after = bytes_of(store)
    for name in (DATA, ENDS, VIDEOS):
        assert after[name].startswith(before[name])
    names = {path.relative_to(path.parent.parent).as_posix() for path in videos}
    assert table(store).videos.keys() == names - {"a/text.mp4"}
    assert [f.name for f in Store.open(store, "frames").failures] == ["a/text.mp4"]


def test_a_part_of_the_videos_is_added_under_the_same_root(videos, tmp_path):
    run(tmp_path / "s", videos)
    done = run(tmp_path / "s", [v for v in videos if v.parent.name == "b"])  # a deeper folder
    assert done.there == 3


def test_other_settings_are_refused(videos, tmp_path):
    run(tmp_path / "s", videos)
    with pytest.raises(RunError) as caught:
        run(tmp_path / "s", videos, Storing(PyAV(), 12, 95), reader="decord")
    for said in (
        "reader.use is pyav there, decord is wanted",
        "short_side is 0 there, 12 is wanted",
        "quality is 90 there, 95 is wanted",
    ):
        assert said in str(caught.value)
    with pytest.raises(RunError, match="kind is frames there, flow is wanted"):
        run(tmp_path / "s", videos, StoringFlow(PyAV(), 0, 90, node=DIS))


# -------------------------------------------------------------------------------------- failures


def test_frames_too_small_for_the_maker_are_a_failure(tmp_path):
    video = write_video(tmp_path / "v" / "a.mp4", moving_frames(4, 48, 64))
    done = run(tmp_path / "s", [video], StoringFlow(PyAV(), 8, 90, node=DIS))
    (failure,) = done.failures
    assert failure.reason.startswith("'dis_flow' takes frames of at least 12x12 pixels, but gets 8")


class Breaking(PyAV):
    """Gives some frames, then an error."""

    def stream(self, path, most):
        yield from super().stream(path, 2)
        raise VideoReadError(path, "pyav", "damaged behind its frames")


def test_a_video_that_breaks_off_leaves_nothing(videos, tmp_path):
    done = run(tmp_path / "s", videos[:2], Storing(Breaking(), 0, 90))
    assert [f.reason for f in done.failures] == ["damaged behind its frames"] * 2
    assert (tmp_path / "s" / DATA).stat().st_size == 0


def limited(size, store, paths, pipe, workers):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        run(store, paths, workers=workers)
    except Exception as error:
        pipe.send((type(error), str(error)))


@pytest.mark.parametrize(("size", "workers"), [(2000, 0), (2000, 2), (15000, 0)])
def test_a_full_disk_is_said_and_what_is_stored_stays(videos, whole, tmp_path, size, workers):
    store = tmp_path / "s"
    mine, theirs = FORK.Pipe(False)
    process = forked(limited, size, store, videos, theirs, workers)
    kind, said = mine.recv()
    process.join()
    assert kind is NoRoomError
    assert f"{store}" in said
    assert "cannot be written: File too large; it takes " in said
    assert " bytes more, and " in said
    assert "what is stored stays" in said
    stored = len(table(store).videos)
    assert stored < 7
    assert (stored > 0) == (size > 2000)
    assert run(store, videos).there == stored
    assert bytes_of(store) == whole


def test_a_store_that_cannot_be_made_is_said(videos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError):
        run(tmp_path / "file" / "s", videos)


# ------------------------------------------------------------------------------------ the recipe


def plan(folder, monkeypatch, changes=None):
    small = {"data.dataset.train_scenes": 1, "data.dataset.val_scenes": 1, "data.dataset.size": 32}
    monkeypatch.setenv("ACTIONKIT_CACHE", str(folder / "cache"))
    return validate.read(write(folder, changed(TWO_STREAMS, {**small, **(changes or {})})))[1]


def with_maker(*makers, place="per_sample"):
    nodes = [{"use": "crop_resize", "size": 32}, *makers]
    return {"data.eval.per_sample": nodes} if place == "eval" else {f"data.train.{place}": nodes}


def test_all_videos_of_all_splits_are_read_once_each(tmp_path, monkeypatch):
    found = videos_of(plan(tmp_path, monkeypatch))
    assert len(found.paths) == 2 * 9  # train and val; test is val
    assert found.paths == sorted(set(found.paths))
    assert all(path.is_file() for path in found.paths)
    assert isinstance(found.reader, PyAV)
    assert found.settings == {"use": "pyav"}


def test_the_reader_of_rgb_is_taken_and_its_limits_are_no_settings(tmp_path, monkeypatch):
    readers = {"rgb": {"use": "pyav", "timeout": 9.0, "max_pixels": 99999}}
    found = videos_of(plan(tmp_path, monkeypatch, {"data.reader": readers}))
    assert found.reader.limits.timeout == 9
    assert found.settings == {"use": "pyav"}
    readers = {"rgb": {"use": "frames", "fps": 12}}
    found = videos_of(plan(tmp_path, monkeypatch, {"data.reader": readers}))
    assert found.settings == {"use": "frames", "fps": 12, "pattern": "*"}


def test_readers_that_give_no_frames_of_videos_are_refused(tmp_path, monkeypatch):
    stored = {"use": "stored_frames", "path": "nowhere"}  # which need not be there yet
    with pytest.raises(RunError, match=r"from a store \('stored_frames'\), .* data\.reader=pyav"):
        videos_of(plan(tmp_path, monkeypatch, {"data.reader": stored}))
    with pytest.raises(RunError, match=r"data.reader reads flow, but no rgb; name"):
        videos_of(plan(tmp_path, monkeypatch, {"data.reader": {"flow": "pyav"}}))


def test_what_is_wrong_with_data_or_reader_is_a_problem_of_the_recipe(tmp_path, monkeypatch):
    reader = {"use": "pyav", "timeout": 0.0}
    with pytest.raises(RecipeError, match="'pyav' needs timeout above 0"):
        videos_of(plan(tmp_path, monkeypatch, {"data.reader": reader}))


def test_the_first_maker_of_flow_tells_how(tmp_path, monkeypatch):
    dis = {"use": "dis_flow", "length": 5, "bound": 4, "keep": "middle", "name": "motion"}
    tvl1 = {"use": "tvl1_flow", "length": 5, "constants": [0.2, 0.15, 0.3]}
    node = maker_of(plan(tmp_path, monkeypatch, with_maker(dis, tvl1)))
    assert settings(node) == {"flow": {"use": "dis_flow", "bound": 4.0, "preset": "ultrafast"}}
    maker = flow.make(node, 9)
    assert (maker.length, maker.bound, maker.name, maker.source) == (9, 4, "flow", "rgb")
    assert maker.kept == list(range(10))
    assert maker_of(plan(tmp_path, monkeypatch, with_maker(tvl1, place="per_batch"))).use == (
        "tvl1_flow"
    )
    node = maker_of(plan(tmp_path, monkeypatch, with_maker(tvl1, place="eval")))
    found = settings(node)["flow"]
    assert found.items() >= {"use": "tvl1_flow", "bound": 20.0, "pyramid": (5, 0.5)}.items()
    assert found["constants"] == (0.2, 0.15, 0.3)
    assert not found.keys() & {"length", "keep", "direction", "source", "name"}


def test_without_a_maker_of_flow_there_is_a_cure(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"makes no flow.*; add a maker .* \{use: dis_flow, length"):
        maker_of(plan(tmp_path, monkeypatch))
    wrong = {"use": "dis_flow", "length": 5, "bound": -1}
    with pytest.raises(RecipeError, match="'dis_flow' takes a bound above 0 pixels"):
        maker_of(plan(tmp_path, monkeypatch, with_maker(wrong)))


def test_the_device_is_the_maker_s(monkeypatch):
    tvl1 = Node("", "", "tvl1_flow", registry.find(("transforms",), "tvl1_flow"), {"length": 3})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [device_for(node, "auto") for node in (DIS, tvl1)] == ["cpu", "cpu"]
    with pytest.raises(RunError, match="there is no CUDA device here"):
        device_for(tvl1, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_for(node, "auto") for node in (DIS, tvl1)] == ["cpu", "cuda"]
    assert device_for(tvl1, "cpu") == "cpu"
    with pytest.raises(RunError, match="'dis_flow' computes on the CPU"):
        device_for(DIS, "cuda")


def test_weights_that_cannot_be_used_stop_all_with_a_sentence(videos, tmp_path):
    (tmp_path / "w.pth").write_text("no weights")
    entry = registry.find(("transforms",), "raft_flow")
    node = Node("", "", "raft_flow", entry, {"length": 1, "weights": tmp_path / "w.pth"})
    with pytest.raises(RunError, match=r"'raft_flow' cannot read .*; give a state dict saved by"):
        run(tmp_path / "s", videos, StoringFlow(PyAV(), 0, 90, node=node))
