import importlib.util
import os
import random
import subprocess
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
from actionkit.data.readers import decord as module
from actionkit.data.readers.container import Deadline, UnreadableError
from actionkit.data.readers.decoding import sound
from actionkit.data.readers.decord import Decord
from actionkit.data.readers.pyav import PyAV

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="decord is not made for this machine"
)

CURE = "; set data.reader: pyav"
REFUSED = {
    "variable_rate.mp4": "it has a variable rate, which decord cannot read" + CURE,
    "variable_rate.mkv": "it has a variable rate, which decord cannot read" + CURE,
    "edit_list.mp4": "decord counts 60 frames where there are 50" + CURE,
}
# Its FFmpeg is older: it decodes WMV2 a level off, and spreads the chroma of these otherwise.
LEVELS = {"wmv2.wmv": 1}
CHROMA = ("h264_interlaced.mp4", "ten_bit.mp4", "hevc_ten_bit.mp4")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


def in_one_pass(path: Path) -> np.ndarray:
    """All frames [T, H, W, 3] as decord gives them from the first to the last, without a seek."""
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    return np.stack([video.next().asnumpy() for _ in range(len(video))])


@pytest.mark.parametrize("name", sorted(FILES.keys() - REFUSED.keys()))
def test_equals_decord_s_own_single_pass_and_pyav(tmp_path, name):
    height, width = (47, 63) if name == "odd_size.mp4" else (48, 64)
    path = write_video(tmp_path / name, moving_frames(60, height, width), **FILES[name])
    expected = in_one_pass(path)
    check(Decord(), path, expected, rounds=25)
    assert Decord().probe(path) == PyAV().probe(path)
    right = decode_all(path)
    if name in CHROMA:
        luma = np.array([0.299, 0.587, 0.114])
        assert np.abs((expected @ luma) - (right @ luma)).mean() < 2
        assert np.abs((expected @ luma) - (np.roll(right, 1, axis=0) @ luma)).mean() > 20
    else:
        assert np.abs(expected.astype(int) - right).max() <= LEVELS.get(name, 0)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_would_get_wrong(tmp_path, name):
    path = write_video(tmp_path / name, moving_frames(60), **FILES[name])
    assert reason(Decord(), path, [3]) == REFUSED[name]
    if "variable" in name:
        assert reason(Decord(), path) == REFUSED[name]


@pytest.mark.parametrize(("degrees", "stored"), [(90, 90), (180, 180), (-90, 270)])
def test_refuses_turned_videos(tmp_path, degrees, stored):
    path = write_video(tmp_path / "turned.mp4", moving_frames(5), rotation=degrees)
    said = f"it is turned by {stored} degrees, which decord cannot read{CURE}"
    assert reason(Decord(), path) == reason(Decord(), path, [0]) == said


def test_refuses_several_videos_but_not_a_cover(tmp_path):
    frames = moving_frames(20)
    both = write_streams(tmp_path / "both.mp4", frames, frames[::-1])
    assert reason(Decord(), both) == f"it has several video streams, which decord cannot read{CURE}"
    cover = write_streams(tmp_path / "cover.mp4", frames, cover=True)
    check(Decord(), cover, decode_all(cover), rounds=2)


def test_real_clips(real_data):
    paths = [p for p in sorted((real_data / "real_clips").rglob("*.*")) if p.is_file()]
    rng = np.random.default_rng(0)
    for path in paths:
        expected = decode_all(path)
        for _ in range(3):
            indices = rng.integers(0, len(expected), 8)
            assert np.array_equal(read(Decord(), path, indices), expected[indices])


def test_seeks_only_where_that_is_sound(tmp_path, clip):
    assert sound(source(clip), [14, 59])
    for name in ("h264_open_gop.mp4", "mpeg4.avi", "h264_intra_refresh.mp4"):
        path = write_video(tmp_path / name, moving_frames(60), **FILES[name])
        assert not sound(source(path), [25, 59])


def test_decord_s_own_seeks_are_not_sound(tmp_path):
    """The day this fails, the care taken here can go."""
    import decord

    path = write_video(tmp_path / "a.avi", moving_frames(60), **FILES["mpeg4.avi"])
    found = decord.VideoReader(str(path), num_threads=1).get_batch([25, 40]).asnumpy()
    assert not np.array_equal(found, in_one_pass(path)[[25, 40]])
    assert np.array_equal(read(Decord(), path, [25, 40]), in_one_pass(path)[[25, 40]])


@pytest.mark.skipif(os.name != "posix", reason="file names are text")
def test_a_name_that_is_not_utf8(tmp_path, clip):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff.mp4"))
    try:
        path.write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    check(Decord(), path, decode_all(clip), rounds=5)


def test_memory_lies_in_frame_order(clip):
    frames = Decord().read(clip, np.array([3, 3, 1]))
    assert frames.shape == (3, 3, 48, 64)
    assert frames.permute(0, 2, 3, 1).is_contiguous()
    assert Decord().read(clip, np.array([], np.int64)).shape == (0, 3, 48, 64)


def test_what_pyav_refuses_never_reaches_decord(tmp_path, clip, monkeypatch):
    """So the reasons are PyAV's, where decord has one text for all."""
    monkeypatch.setattr(module, "_open", None)
    path = tmp_path / "a.mp4"
    data = clip.read_bytes()
    for content in (b"", b"hello world", data[: data.index(b"mdat")], data[: len(data) * 3 // 4]):
        path.write_bytes(content)
        assert reason(Decord(), path, [0, 59]) == reason(PyAV(), path, [0, 59])
    assert reason(Decord(), clip, [60]) == reason(PyAV(), clip, [60])


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_damage_raises_as_with_pyav(tmp_path, name):
    """decord itself patches frames up and says nothing."""
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    kwargs = {"codec": codec, "options": {"g": "250", "bf": "2"}}
    path = write_video(tmp_path / name, moving_frames(60, 96, 128), **kwargs)
    data, rng, raised = path.read_bytes(), random.Random(0), 0
    for i in range(12):
        flipped = bytearray(data)
        for _ in range(20):
            flipped[rng.randrange(len(data) // 10, len(data) * 9 // 10)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{i}{name}"
        path.write_bytes(flipped)
        try:
            frames = read(PyAV(), path, [0, 59])
        except VideoReadError:
            assert reason(Decord(), path, [0, 59]) == reason(PyAV(), path, [0, 59])
            raised += 1
        else:
            assert np.array_equal(read(Decord(), path, [0, 59]), frames)
    assert raised >= 9


def test_zeros_in_the_middle_raise(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    length = (len(data) - start) // 3
    data[start + length : start + 2 * length] = bytes(length)
    path = tmp_path / "zeroed.mp4"
    path.write_bytes(data)
    assert reason(Decord(), path, range(60)).startswith("damaged: frame ")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("[14:00] a.cc:1: trace\n\nno such codec"), "no such codec"),
        (RuntimeError("Error reading x..."), "Error reading x..."),
        (KeyError(), "KeyError"),
    ],
)
def test_what_decord_alone_refuses(clip, monkeypatch, raised, said):
    import decord

    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(decord, "VideoReader", fail)
    assert reason(Decord(), clip, [5]) == f"decord refuses it ({said}){CURE}"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_ends_at_the_deadline(tmp_path, clip, monkeypatch, name):
    """Between two frames: decord itself cannot be interrupted."""
    path = clip if name == "clip.mp4" else tmp_path / name
    if path != clip:
        write_video(path, moving_frames(60), **FILES["mpeg4.avi"])
    reader = Decord(timeout=20.0)
    read(reader, path, [0])

    def too_late(self):
        raise UnreadableError("took longer than 20 s")

    def open_late(source):
        video = opened(source)
        monkeypatch.setattr(Deadline, "left", too_late)
        return video

    opened = module._open
    monkeypatch.setattr(module, "_open", open_late)
    assert reason(reader, path, [30]) == "took longer than 20 s"


def test_says_where_decord_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^needs the package decord, .*; set data\.reader: pyav$"):
        Decord()


def test_decord_is_loaded_only_to_read(clip):
    code = "import sys; from actionkit.data.readers.decord import Decord; "
    code += "Decord(); assert 'decord' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
