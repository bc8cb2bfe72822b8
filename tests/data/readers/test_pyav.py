import pickle
import random

import numpy as np
import pytest
from files_for_readers import (
    CLIP,
    FILES,
    UNEVEN,
    as_shown,
    check,
    decode_all,
    read,
    reason,
    write_streams,
)
from videos import moving_frames, write_video

from actionkit.contracts import Record, VideoReadError
from actionkit.data.readers import decoding
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


@pytest.mark.parametrize("name", FILES)
def test_equals_decoding_from_the_start(tmp_path, name):
    height, width = (47, 63) if name == "odd_size.mp4" else (48, 64)
    path = write_video(tmp_path / name, moving_frames(60, height, width), **FILES[name])
    expected = decode_all(path)
    info = PyAV().probe(path)
    assert (info.frames, info.height, info.width) == expected.shape[:3]
    assert len(expected) == (50 if name == "edit_list.mp4" else 60)
    fps = 1000 * 59 / (UNEVEN[-1] - UNEVEN[0]) if "variable" in name else 25
    assert info.fps == pytest.approx(fps)
    assert info.seconds == pytest.approx(info.frames / fps)
    if "variable" in name:
        shown = as_shown(path, expected)
        assert not np.array_equal(shown, expected)
        expected = shown
    for i in range(0, len(expected), 3):
        assert np.array_equal(read(PyAV(), path, [i]), expected[[i]])
    check(PyAV(), path, expected, rounds=12)


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.avi"])
@pytest.mark.parametrize("count", [1, 3])
def test_very_short(tmp_path, name, count):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write_video(tmp_path / name, moving_frames(count), codec=codec)
    assert PyAV().probe(path).frames == count
    check(PyAV(), path, decode_all(path), rounds=5)


def test_sees_the_frames_that_were_written(tmp_path):
    frames = moving_frames(60)
    for name, codec in [("a.mp4", "libx264"), ("a.avi", "mpeg4")]:
        path = write_video(tmp_path / name, frames, codec=codec, options={"g": "250", "bf": "2"})
        corners = read(PyAV(), path, range(60))[:, 1:7, 1:7].mean((1, 2, 3))
        assert np.abs(corners - frames[:, 0, 0, 0]).max() < 25  # a neighbour's differs by 37


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bits_keep_their_brightness(tmp_path, codec):
    """Grey frames: no colour to be lost, so all that is off is the rounding to 10 and to 8 bits."""
    levels = np.linspace(0, 255, 12).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (12, 64, 64, 3)).copy()
    options = {"crf": "4", **({"x265-params": "log-level=none:pools=none"} if "5" in codec else {})}
    kwargs = {"codec": codec, "options": options}
    path = write_video(tmp_path / "a.mp4", frames, pix_fmt="yuv420p10le", **kwargs)
    assert np.abs(read(PyAV(), path, range(12)).astype(int) - frames).max() <= 3


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_turns_frames_upright(tmp_path, degrees):
    path = write_video(tmp_path / "turned.mp4", moving_frames(5), rotation=degrees)
    expected = np.rot90(decode_all(path), degrees // 90, axes=(1, 2))
    info = PyAV().probe(path)
    assert (info.frames, info.height, info.width) == expected.shape[:3]
    assert np.array_equal(read(PyAV(), path, [4, 0]), expected[[4, 0]])


def test_the_first_video_stream_is_read(tmp_path):
    small, large = moving_frames(20), moving_frames(30, 96, 128, seed=1)
    for first, second in [(small, large), (large, small)]:
        path = write_streams(tmp_path / f"{len(first)}.mkv", first, second, cover=True)
        assert PyAV().probe(path)[3:] == first.shape[1:3]
        check(PyAV(), path, decode_all(path), rounds=2)


def test_where_the_rate_varies_clips_are_right_in_seconds(tmp_path):
    """A second at 50 fps, then one at 10: samplers that count frames step evenly in time."""
    times = [*range(0, 1000, 20), *range(1000, 2001, 100)]
    path = write_video(tmp_path / "a.mp4", moving_frames(61), times=times, options={"crf": "1"})
    info, frames = PyAV().probe(path), decode_all(path)
    assert (info.frames, info.fps, info.seconds) == pytest.approx((61, 30, 61 / 30))
    record = Record("a", {"rgb": path}, start=0.5, end=1.5)
    (indices,) = Dense(length=30)(info, record, None)
    assert indices[[0, -1]].tolist() == [15, 44]  # half a second to one and a half, at 30 a second
    seconds = indices / info.fps
    shown = [max(k for k, t in enumerate(times) if t <= s * 1000 + 1e-6) for s in seconds]
    assert np.array_equal(read(PyAV(), path, indices), frames[shown])
    assert sum(s < 50 for s in shown) == 15  # as long in the fast half as in the slow one


def test_real_clips(real_data):
    paths = [p for p in sorted((real_data / "real_clips").rglob("*.*")) if p.is_file()]
    assert len(paths) >= 3
    for path in paths:
        expected = decode_all(path)
        assert PyAV().probe(path).frames == len(expected)
        check(PyAV(), path, expected, rounds=10 if path.suffix == ".avi" else 2)


def test_skips_nothing_that_others_need(clip, monkeypatch):
    """The fast way alone reaches every frame here: the slow one is never asked."""
    expected = decode_all(clip)
    frames = decoding._frames

    def fast_only(source, wanted, fast, gain):
        assert fast
        return frames(source, wanted, fast, gain)

    monkeypatch.setattr(decoding, "_frames", fast_only)
    check(PyAV(), clip, expected, rounds=30, seed=1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_cut_short(tmp_path, clip, name):
    whole = clip
    if name.endswith("avi"):
        options = {"g": "300", "bf": "2"}
        whole = write_video(
            tmp_path / "whole.avi", moving_frames(60), codec="mpeg4", options=options
        )
    expected = decode_all(whole)
    path = tmp_path / f"cut_{name}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    assert PyAV().probe(path).frames == 60
    assert np.array_equal(read(PyAV(), path, [7, 2]), expected[[7, 2]])
    assert reason(PyAV(), path, [2, 59, 58]) == "cut short: frame 58 of 60 cannot be decoded"


def test_a_file_of_variable_rate_that_is_cut_short(tmp_path):
    kwargs = {**CLIP, "times": UNEVEN}
    whole = write_video(tmp_path / "whole.mp4", moving_frames(60), **kwargs)
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    assert PyAV().probe(path).frames == 60
    assert read(PyAV(), path, [0, 20]).shape == (2, 48, 64, 3)
    assert reason(PyAV(), path, [3, 59]) == "cut short: frame 59 of 60 cannot be decoded"


def test_a_header_without_frames_behind_it(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    payload = data.index(b"mdat") + 4
    data[payload:] = bytes(len(data) - payload)
    path = tmp_path / "zero.mp4"
    path.write_bytes(data)
    said = "damaged: the decoder refuses its data"
    assert reason(PyAV(), path) == reason(PyAV(), path, [0]) == said


def test_flipped_bits_raise(tmp_path):
    """Of what the decoder can notice nothing is patched up: no wrong frame among many tries."""
    options = {"g": "250", "bf": "3"}
    clip = write_video(tmp_path / "clip.mp4", moving_frames(60, 96, 128), options=options)
    data, expected, raised = clip.read_bytes(), decode_all(clip), 0
    rng = random.Random(0)
    for i in range(20):
        flipped = bytearray(data)
        for _ in range(20):
            flipped[rng.randrange(len(data) // 10, len(data) * 9 // 10)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(flipped)
        try:
            assert np.array_equal(read(PyAV(), path, [0, 59]), expected[[0, 59]])
        except VideoReadError:
            raised += 1
    assert raised >= 18


def test_survives_pickling(clip):
    reader = pickle.loads(pickle.dumps(PyAV(timeout=7.5)))
    assert reader.limits.timeout == 7.5
    assert reader.probe(clip).frames == 60
