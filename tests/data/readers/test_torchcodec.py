import gc
import importlib.util
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from files_for_readers import (
    CLIP,
    FILES,
    check,
    decode_all,
    read,
    reason,
    source,
    write_streams,
)
from videos import moving_frames, write_video

from actionkit.contracts import VideoReadError
from actionkit.data.readers import torchcodec as module
from actionkit.data.readers.container import Deadline, UnreadableError
from actionkit.data.readers.pyav import PyAV
from actionkit.data.readers.table import table as look
from actionkit.data.readers.torchcodec import TorchCodec
from actionkit.data.readers.upright import Turn

CURE = "; set data.reader: pyav"
TIMES = f"it stores no times, or not one for each frame, which torchcodec cannot read{CURE}"
TIMED = [n for n in FILES if n.endswith((".mp4", ".mkv", ".webm")) and n != "mpeg4.mp4"]
# FFmpeg below 8 spreads the chroma of these otherwise.
CHROMA = ("h264_interlaced.mp4", "ten_bit.mp4", "hevc_ten_bit.mp4")


def _cannot_load() -> str:
    """Why torchcodec cannot be tested here."""
    try:
        import torchcodec.decoders  # noqa: F401
    except ImportError:
        return "torchcodec is not installed"
    except (OSError, RuntimeError):
        return "torchcodec finds no FFmpeg libraries, or another torch than its own"
    return ""


WHY = _cannot_load()
needs_torchcodec = pytest.mark.skipif(bool(WHY), reason=WHY or "it loads")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


@needs_torchcodec
@pytest.mark.parametrize("name", TIMED)
def test_equals_pyav(tmp_path, name):
    height, width = (47, 63) if name == "odd_size.mp4" else (48, 64)
    path = write_video(tmp_path / name, moving_frames(60, height, width), **FILES[name])
    assert TorchCodec().probe(path) == PyAV().probe(path)
    expected = read(PyAV(), path, range(PyAV().probe(path).frames))
    if name in CHROMA:
        found, luma = read(TorchCodec(), path, range(60)), np.array([0.299, 0.587, 0.114])
        assert np.abs((found @ luma) - (expected @ luma)).mean() < 2
        assert np.abs((found @ luma) - (np.roll(expected, 1, axis=0) @ luma)).mean() > 20
        expected = found
    check(TorchCodec(), path, expected, rounds=25)


@needs_torchcodec
@pytest.mark.parametrize("name", sorted(FILES.keys() - set(TIMED)))
def test_refuses_files_without_times(tmp_path, name):
    path = write_video(tmp_path / name, moving_frames(20), **FILES[name])
    assert reason(TorchCodec(), path) == reason(TorchCodec(), path, [3]) == TIMES


@needs_torchcodec
def test_torchcodec_s_own_frames_are_not_sound(tmp_path):
    """The day this fails, the care taken here can go: a seek into a picture that is being built up,
    and an AVI with B-frames.
    """
    from torchcodec.decoders import VideoDecoder

    for name in ("intra_refresh_short.mp4", "mpeg4_one_key.avi"):
        path = write_video(tmp_path / name, moving_frames(60), **FILES[name])
        found = VideoDecoder(str(path), dimension_order="NHWC").get_frames_at([7, 30]).data.numpy()
        assert not np.array_equal(found, decode_all(path)[[7, 30]])


@needs_torchcodec
@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_applied_once(tmp_path, degrees):
    path = write_video(tmp_path / "turned.mp4", moving_frames(5), rotation=degrees)
    assert TorchCodec().probe(path) == PyAV().probe(path)
    check(TorchCodec(), path, read(PyAV(), path, range(5)), rounds=3)


@needs_torchcodec
@pytest.mark.parametrize("turn", [Turn(mirror=True), Turn(upside_down=True), Turn(transpose=True)])
def test_refuses_mirrored_videos(clip, monkeypatch, turn):
    mirrored = look(clip, TorchCodec().limits)._replace(turn=turn)
    monkeypatch.setattr("actionkit.data.readers.video.table", lambda path, limits: mirrored)
    assert reason(TorchCodec(), clip) == f"it is mirrored, which torchcodec cannot read{CURE}"


@needs_torchcodec
def test_reads_the_stream_that_pyav_reads(tmp_path):
    small, large = moving_frames(20), moving_frames(30, 96, 128, seed=1)
    for first, second in [(small, large), (large, small)]:
        path = write_streams(tmp_path / f"{len(first)}.mkv", first, second, cover=True)
        check(TorchCodec(), path, decode_all(path), rounds=2)


@needs_torchcodec
def test_real_clips(real_data):
    rng = np.random.default_rng(0)
    for path in sorted((real_data / "real_clips").rglob("*.mp4")):
        count = PyAV().probe(path).frames
        for _ in range(3):
            indices = rng.integers(0, count, 8)
            assert np.array_equal(read(TorchCodec(), path, indices), read(PyAV(), path, indices))
    for path in sorted((real_data / "real_clips").rglob("*.avi")):
        assert reason(TorchCodec(), path) == TIMES


@needs_torchcodec
@pytest.mark.skipif(os.name != "posix", reason="file names are text")
def test_a_name_that_is_not_utf8(tmp_path, clip):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff.mp4"))
    try:
        path.write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    check(TorchCodec(), path, decode_all(clip), rounds=5)


@needs_torchcodec
def test_memory_lies_in_frame_order(clip):
    frames = TorchCodec().read(clip, np.array([3, 3, 1]))
    assert frames.shape == (3, 3, 48, 64)
    assert frames.permute(0, 2, 3, 1).is_contiguous()
    assert TorchCodec().read(clip, np.array([], np.int64)).shape == (0, 3, 48, 64)


@needs_torchcodec
def test_what_pyav_refuses_never_reaches_torchcodec(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(module, "_open", None)
    path = tmp_path / "a.mp4"
    data = clip.read_bytes()
    for content in (b"", b"hello world", data[: data.index(b"mdat")], data[: len(data) * 3 // 4]):
        path.write_bytes(content)
        assert reason(TorchCodec(), path, [0, 59]) == reason(PyAV(), path, [0, 59])


@needs_torchcodec
def test_damage_raises_as_with_pyav(tmp_path):
    """torchcodec itself patches frames up and says nothing."""
    options = {"g": "250", "bf": "2"}
    path = write_video(tmp_path / "a.mp4", moving_frames(60, 96, 128), options=options)
    data, rng, raised = path.read_bytes(), random.Random(0), 0
    for i in range(12):
        flipped = bytearray(data)
        for _ in range(20):
            flipped[rng.randrange(len(data) // 10, len(data) * 9 // 10)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(flipped)
        try:
            frames = read(PyAV(), path, [0, 59])
        except VideoReadError:
            assert reason(TorchCodec(), path, [0, 59]) == reason(PyAV(), path, [0, 59])
            raised += 1
        else:
            assert np.array_equal(read(TorchCodec(), path, [0, 59]), frames)
    assert raised >= 9


@needs_torchcodec
@pytest.mark.parametrize(
    ("raised", "said"),
    [(RuntimeError("no such codec\ntrace"), "no such codec"), (KeyError(), "KeyError")],
)
def test_what_torchcodec_alone_refuses(clip, monkeypatch, raised, said):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("torchcodec.decoders.VideoDecoder", fail)
    assert reason(TorchCodec(), clip, [5]) == f"torchcodec refuses it ({said}){CURE}"


@needs_torchcodec
def test_ends_at_the_deadline(clip, monkeypatch):
    """Between two frames: torchcodec itself cannot be interrupted."""
    reader, opened = TorchCodec(timeout=20.0), module._open
    read(reader, clip, [0])

    def too_late(self):
        raise UnreadableError("took longer than 20 s")

    def open_late(*args):
        video = opened(*args)
        monkeypatch.setattr(Deadline, "left", too_late)
        return video

    monkeypatch.setattr(module, "_open", open_late)
    assert reason(reader, clip, [30]) == "took longer than 20 s"


@needs_torchcodec
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists open files by /proc")
def test_keeps_no_file_open(clip):
    read(TorchCodec(), clip, [5])
    gc.collect()  # of what other tests have left open
    before = len(os.listdir("/proc/self/fd"))
    for i in range(20):
        read(TorchCodec(), clip, [i])
    assert len(os.listdir("/proc/self/fd")) == before


def test_seeks_only_where_that_is_sound(tmp_path, clip, monkeypatch):
    """What torchcodec is told of a file: its times, and the keyframes to seek to."""
    told = []
    monkeypatch.setattr(module, "_open", lambda source, keys, stack: told.append(sorted(keys)))
    for path, keys in [
        (clip, [0, 12, 24, 36, 48]),
        (write_video(tmp_path / "a.mp4", moving_frames(60), **FILES["h264_intra_refresh.mp4"]), []),
        (write_video(tmp_path / "b.mp4", moving_frames(60), **FILES["h264_open_gop.mp4"]), []),
    ]:
        with pytest.raises(UnreadableError):  # there is no decoder
            list(TorchCodec._images(object.__new__(TorchCodec), source(path), [25, 59]))
        assert told.pop() == keys


def test_says_where_torchcodec_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^needs the package torchcodec, .*set data\.reader: pyav$"
    ):
        TorchCodec()


def test_says_where_its_libraries_are_missing(tmp_path, monkeypatch):
    package = tmp_path / "torchcodec"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"^cannot load torchcodec, .*set data\.reader: pyav$"):
        TorchCodec()
