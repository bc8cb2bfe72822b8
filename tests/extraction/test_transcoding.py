"""Transcoding: frame i stays frame i, files come whole or not at all, and the work goes on."""

import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from videos import moving_frames, write_video

from actionkit.contracts import VideoReadError
from actionkit.data.readers.container import Limits
from actionkit.data.readers.decord import Decord
from actionkit.data.readers.pyav import PyAV
from actionkit.data.readers.table import table
from actionkit.errors import NoRoomError, RunError
from actionkit.extraction import transcoding as room
from actionkit.extraction.transcoding import Settings
from actionkit.testing import zoo

LEVELS = 6.0  # of 255, on average over a frame: what coding may change
LIMITS = Limits(8192 * 8192, None, None, 30.0)
AVI = {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "b": "4M"}}


def work(source, out, settings=Settings(), workers=0):  # noqa: B008  a tuple
    store, todo = room.begin(room.job_of_path(source), out, settings)
    return list(room.run(store, todo, settings, workers))


def everything(path):
    """All frames [T, H, W, 3] by a reader's own indices."""
    frames = PyAV().read(path, np.arange(PyAV().probe(path).frames))
    return frames.permute(0, 2, 3, 1).numpy()


def contents(folder):
    """Every file below a folder, hidden ones too, and what it holds."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def small_set(folder, count=3, frames=18):
    for i in range(count):
        write_video(folder / f"c{i % 2}" / f"{i}.mp4", moving_frames(frames + i, seed=i))
    return folder


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Odd videos, and the folder of what becomes of them."""
    folder = tmp_path_factory.mktemp("zoo")
    animals = zoo.odd(folder / "old")
    long = zoo.squares(60, seed=7)
    options = {"g": "250", "bf": "3", "b-pyramid": "normal", "crf": "12"}
    path = write_video(folder / "old" / "deep" / "gop250.mkv", long, options=options)
    done = work(folder / "old", folder / "new", workers=2)
    assert [d.error for d in done] == [""] * (len(animals) + 1)
    return {**animals, "gop250": zoo.Odd(path, long)}, folder / "new"


NAMES = ("one_frame", "three_frames", "rotated", "variable_rate", "odd_size", "ten_bit",
         "b_frames_avi", "several_streams", "bytes_in_name", "gop250")  # fmt: skip


def get(animals, name):
    """An odd video, and the path of what became of it."""
    known, out = animals
    if name not in known:
        pytest.skip("this file system takes no such name")
    relative = known[name].path.relative_to(out.parent / "old")
    return known[name], out / relative


# ----------------------------------------------------------------------------------- the frames


@pytest.mark.parametrize("name", NAMES)
def test_frame_i_is_frame_i(animals, name):
    old, path = get(animals, name)
    before, after = PyAV().probe(old.path), PyAV().probe(path)
    assert after.frames == before.frames
    assert after.fps == pytest.approx(before.fps, rel=1e-9)
    assert after.seconds == pytest.approx(before.seconds, rel=1e-9)
    height, width = old.frames.shape[1:3]
    new = everything(path)[:, :height, :width].astype(np.float32)
    for image, allowed in zip(new, old.allowed(before), strict=True):
        away = np.abs(old.frames - image).mean((1, 2, 3))
        assert int(away.argmin()) in allowed
        assert away.min() < LEVELS


@pytest.mark.parametrize("name", NAMES)
def test_keyframes_lie_as_asked_and_nothing_is_left_to_guess(animals, name):
    _, path = get(animals, name)
    with av.open(str(path)) as container:
        (stream,) = container.streams  # no sound
        assert container.format.name.startswith("mov,mp4")
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        packets = sorted((p.pts, p.is_keyframe) for p in container.demux(stream) if p.size)
    keys = [i for i, (_, key) in enumerate(packets) if key]
    assert keys == list(range(0, len(packets), 12))
    known = table(path, LIMITS)
    assert known.timed
    assert known.closed
    assert not known.variable
    assert isinstance(known.times, range)  # evenly spaced to the last unit


def test_clips_are_read_alike_from_anywhere_by_all_readers(animals):
    path = get(animals, "b_frames_avi")[1]
    assert path.suffix == ".avi"  # what it holds counts, not its name
    frames = everything(path)
    for reader in (PyAV(), Decord()):
        for indices in ([23], [13, 2, 2], range(5, 24, 3)):
            got = reader.read(path, np.array(indices)).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(got, frames[np.array(indices)])


def test_an_odd_side_gets_its_last_row_or_column_twice(animals):
    old, path = get(animals, "odd_size")
    assert old.frames.shape[1:3] == (49, 65)
    new = everything(path).astype(np.float32)
    assert new.shape[1:3] == (50, 66)
    assert np.abs(new[:, -1] - new[:, -2]).mean() < LEVELS
    assert np.abs(new[:, :, -1] - new[:, :, -2]).mean() < LEVELS


def test_what_is_larger_is_scaled_down_and_the_whole_picture_stays(tmp_path):
    frames = np.repeat(np.repeat(zoo.squares(14), 3, 1), 3, 2)  # 144x192
    write_video(tmp_path / "old" / "large.mp4", frames, options={"crf": "12"})
    write_video(tmp_path / "old" / "small.mp4", frames[:, :40, :60])
    work(tmp_path / "old", tmp_path / "new", Settings(short_side=50))
    assert everything(tmp_path / "new" / "small.mp4").shape[1:3] == (40, 60)
    new = everything(tmp_path / "new" / "large.mp4").astype(np.float32)
    scaled = np.stack([cv2.resize(f, (66, 50), interpolation=cv2.INTER_AREA) for f in frames])
    assert new.shape == scaled.shape
    away = np.abs(new[:, None] - scaled[None]).mean((2, 3, 4))
    assert away.argmin(1).tolist() == list(range(14))
    assert away.diagonal().max() < LEVELS


def test_sizes_are_even_and_keep_their_ratio():
    assert room.even_size(240, 320, 256) == (240, 320)
    assert room.even_size(241, 321, 256) == (242, 322)
    assert room.even_size(241, 321, 0) == (242, 322)
    assert room.even_size(1, 1, 256) == (2, 2)
    assert room.even_size(4000, 2, 256) == (4000, 2)
    for height, width in ((257, 401), (1080, 1920), (1921, 1081), (360, 641)):
        new = room.even_size(height, width, 256)
        assert min(new) == 256
        assert all(side % 2 == 0 for side in new)
        assert abs(max(new) - max(height, width) * 256 / min(height, width)) <= 1


def test_colours_are_those_that_a_reader_gave_whatever_matrix_the_old_file_names(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 3), np.uint8)
    vivid = np.kron(colours, np.ones((1, 16, 16, 1), np.uint8))
    for name in ("bt709", "smpte170m"):
        options = {"crf": "10", "colorspace": name, "color_range": "tv"}
        write_video(tmp_path / "old" / f"{name}.mp4", vivid, options=options)
    work(tmp_path / "old", tmp_path / "new", Settings(crf=10))
    old, new = ({n: everything(tmp_path / side / f"{n}.mp4").astype(np.float32)
                 for n in ("bt709", "smpte170m")} for side in ("old", "new"))  # fmt: skip
    assert np.abs(old["bt709"] - old["smpte170m"]).mean() > 4
    for name, frames in old.items():
        assert np.abs(frames - new[name]).mean() < 2.5


def test_quality_and_gop_are_what_they_say(tmp_path):
    write_video(tmp_path / "old" / "a.mp4", moving_frames(40, 96, 128), options={"crf": "5"})
    sizes, away = [], []
    old = everything(tmp_path / "old" / "a.mp4").astype(np.float32)
    for crf, gop in ((10, 250), (40, 250), (40, 1)):
        out = tmp_path / f"{crf}-{gop}"
        (done,) = work(tmp_path / "old", out, Settings(crf=crf, gop=gop))
        assert done.after == (out / "a.mp4").stat().st_size
        assert done.before == (tmp_path / "old" / "a.mp4").stat().st_size
        assert done.seconds == pytest.approx(1.6)
        assert len(table(out / "a.mp4", LIMITS).keys) == (1 if gop == 250 else 40)
        sizes.append(done.after)
        away.append(np.abs(everything(out / "a.mp4") - old).mean())
    assert sizes[1] < sizes[0]
    assert sizes[1] < sizes[2]
    assert away[0] < away[1]


# ---------------------------------------------------------------------------- whole or not at all


class Killed(PyAV):
    """Dies with its process behind the first frames of a file."""

    def stream(self, path, most):
        for part in super().stream(path, 5):
            yield part
            if path.name == "1.mp4":
                os.kill(os.getpid(), signal.SIGKILL)


def _work_and_die(source, out):
    job = room.job_of_path(source)
    videos = [video._replace(reader=Killed()) for video in job.videos]
    store, todo = room.begin(job._replace(videos=videos), out, Settings())
    list(room.run(store, todo, Settings(), 0))


def test_killed_work_goes_on_and_ends_as_if_it_had_never_been_stopped(tmp_path):
    source = small_set(tmp_path / "old", 4)
    work(source, tmp_path / "once")
    out = tmp_path / "twice"
    process = multiprocessing.get_context("fork").Process(target=_work_and_die, args=(source, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = contents(out)
    assert {name for name in left if not name.endswith("-part")} == {
        "store.json", "c0/0.mp4", "c0/2.mp4"
    }  # fmt: skip
    assert sum(name.endswith("actionkit-part") for name in left) == 1
    assert not json.loads(left["store.json"])["complete"]
    stamp = (out / "c0/0.mp4").stat().st_mtime_ns
    assert sorted(done.name for done in work(source, out, workers=2)) == ["c1/1.mp4", "c1/3.mp4"]
    assert (out / "c0/0.mp4").stat().st_mtime_ns == stamp
    assert contents(out) == contents(tmp_path / "once")
    assert work(source, out) == []


def test_bad_files_are_named_and_the_rest_is_done(tmp_path):
    bad = zoo.bad(tmp_path / "old" / "bad")
    write_video(tmp_path / "old" / "good.mp4", moving_frames(14))
    write_video(tmp_path / "old" / "bad" / "good.mp4", moving_frames(14))
    (tmp_path / "old" / "._good.mp4").write_bytes(b"what a Mac leaves beside a file")
    names = {f"bad/{p.name}" for n, p in bad.items() if n not in ("missing", "directory")}
    found = {done.name: done.error for done in work(tmp_path / "old", tmp_path / "new")}
    assert set(found) == names | {"good.mp4", "bad/good.mp4"}
    assert {name for name, error in found.items() if error} == names
    assert "bad/text.mp4 (pyav): it is text" in found["bad/text.mp4"]
    assert "cut short" in found["bad/half.mp4"]
    assert set(contents(tmp_path / "new")) == {"good.mp4", "bad/good.mp4", "store.json"}
    note = json.loads((tmp_path / "new" / "store.json").read_text())
    assert note["complete"]
    assert {failure["name"]: failure["reason"] for failure in note["failures"]} == {
        name: found[name] for name in names
    }
    write_video(bad["text"], moving_frames(14))
    assert not {d.name: d.error for d in work(tmp_path / "old", tmp_path / "new")}["bad/text.mp4"]


@pytest.mark.parametrize("crf", [0, 51])
def test_noise_of_any_quality_passes_the_check(tmp_path, crf):
    noise = np.random.default_rng(0).integers(0, 256, (13, 60, 90, 3), np.uint8)
    write_video(tmp_path / "old" / "noise.mp4", noise, options={"crf": "0"}, pix_fmt="yuv444p")
    (done,) = work(tmp_path / "old", tmp_path / "new", Settings(crf=crf))
    assert done.error == ""


def test_a_file_that_does_not_come_back_right_never_takes_its_place(tmp_path, monkeypatch):
    source, encode, right = small_set(tmp_path / "old", 1), room._encode, room._images
    others = {
        "its first frame comes back": lambda made: (made[0], [255 - made[1][0], made[1][1]]),
        "its last frame comes back": lambda made: (made[0], [made[1][0], 255 - made[1][1]]),
        "it comes back as": lambda made: (made[0]._replace(frames=17), made[1]),
        "its rate comes back as 25, not 26": lambda made: (made[0]._replace(fps=26.0), made[1]),
    }
    for reason, change in others.items():
        monkeypatch.setattr(room, "_encode", lambda *a, change=change: change(encode(*a)))
        (done,) = work(source, tmp_path / "new")
        assert f"c0{os.sep}0.mp4: as H.264, {reason}" in done.error
    monkeypatch.setattr(room, "_encode", encode)
    monkeypatch.setattr(room, "_images", lambda *a: list(right(*a))[:-1])
    assert "the reader gives 17 of 18 frames" in work(source, tmp_path / "new")[0].error
    assert set(contents(tmp_path / "new")) == {"store.json"}


def test_a_full_disk_stops_the_work_and_says_where_and_how_much(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    source = small_set(tmp_path / "old", 2)
    size = (source / "c0" / "0.mp4").stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(room, "replacing", lambda _: open("/dev/full", "wb"))  # noqa: SIM115
        with pytest.raises(NoRoomError) as error:
            work(source, tmp_path / "new")
    for text in (str(tmp_path / "new" / "c0" / "0.mp4"), "No space left", "MB are free",
                 f"made of has {size / 1e6:,.1f} MB", "goes on where it was"):  # fmt: skip
        assert text in str(error.value)
    assert set(contents(tmp_path / "new")) == {"store.json"}
    assert len(work(source, tmp_path / "new")) == 2


def test_memory_is_that_of_a_few_frames_however_long_and_large_a_video_is(tmp_path):
    asked = []

    class Large(PyAV):
        def stream(self, path, most):
            asked.append(most)
            yield from super().stream(path, most)

    for height, width in ((32, 32), (1080, 1920)):
        path = write_video(tmp_path / f"{height}.mp4", np.zeros((2, height, width, 3), np.uint8))
        done = room.Encoder(tmp_path / "new", Settings())(room.Video(Large(), path, path.name))
        assert done.error == ""
        assert asked[-1] * 3 * height * width <= room.PART
    assert asked == [64, 5]
    pickle.loads(pickle.dumps(room.Encoder(tmp_path, Settings())))


# --------------------------------------------------------------------------------------- refusals


def test_other_settings_are_refused_with_every_difference(tmp_path):
    source = small_set(tmp_path / "old", 1)
    work(source, tmp_path / "new")
    with pytest.raises(RunError) as error:
        work(source, tmp_path / "new", Settings(gop=6, short_side=0))
    assert "gop is 12 there, 6 is wanted" in str(error.value)
    assert "short_side is 256 there, 0 is wanted" in str(error.value)
    assert "crf" not in str(error.value)
    other = small_set(tmp_path / "other", 1)
    with pytest.raises(RunError, match=r"root is .*old there, .*other is wanted"):
        work(other, tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(RunError, match="holds files"):
        work(source, tmp_path / "mine")


def test_a_place_within_the_source_is_refused(tmp_path):
    source = small_set(tmp_path / "old", 2)
    (tmp_path / "link").symlink_to(source)
    for out in (source, source / "small", source / "c0" / "..", tmp_path / "link" / "small"):
        with pytest.raises(RunError, match="choose a folder outside of it"):
            work(source, out)
    before = contents(source)
    with pytest.raises(RunError, match="choose a folder outside of it"):
        work(source / "c0" / "0.mp4", source / "c0")
    assert contents(source) == before
    (done,) = work(source / "c0" / "0.mp4", source / "c0" / "small")  # a file, not its folder
    assert (done.name, done.error) == ("0.mp4", "")


def test_new_suffixes_are_given_and_never_to_two_files_the_same(tmp_path):
    frames = moving_frames(5)
    write_video(tmp_path / "old" / "a.b.avi", frames, **AVI)
    write_video(tmp_path / "old" / "b.mp4", frames)
    work(tmp_path / "old", tmp_path / "new", Settings(suffix=".mp4"))
    assert set(contents(tmp_path / "new")) == {"a.b.mp4", "b.mp4", "store.json"}
    write_video(tmp_path / "old" / "b.avi", frames, **AVI)
    with pytest.raises(RunError, match=r"b\.avi and .*b\.mp4 would both become b\.mp4"):
        work(tmp_path / "old", tmp_path / "other", Settings(suffix=".mp4"))
    work(tmp_path / "old", tmp_path / "other")


def test_a_source_without_videos_is_refused(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(RunError, match="holds no file named"):
        room.job_of_path(tmp_path / "old")
    (tmp_path / "old" / ".hidden.mp4").write_bytes(b"")
    with pytest.raises(RunError, match="no video but hidden ones"):
        room.job_of_path(tmp_path / "old")


def test_a_place_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    source = small_set(tmp_path / "old", 1)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(room.Store, "save", refuse)
    with pytest.raises(NoRoomError, match="new cannot be written: Permission denied"):
        work(source, tmp_path / "new")


def test_what_a_reader_raises_behind_some_frames_leaves_nothing(tmp_path):
    class Torn(PyAV):
        def stream(self, path, most):
            yield from list(super().stream(path, 5))[:2]
            raise VideoReadError(path, "torn", "torn")

    path = write_video(tmp_path / "a.mp4", moving_frames(18))
    done = room.Encoder(tmp_path / "new", Settings())(room.Video(Torn(), path, "a.mp4"))
    assert done.error == f"{path} (torn): torn"
    assert contents(tmp_path / "new") == {}
