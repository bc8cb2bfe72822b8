import os
import pickle
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import moving_frames, write_video

from actionkit.contracts import VideoReadError
from actionkit.data.readers import pyav
from actionkit.data.readers.pyav import PyAV

B_FRAMES = {"g": "12", "bf": "3"}
OPEN_GOP = {"g": "12", "bf": "4", "x264-params": "open-gop=1:b-pyramid=normal:scenecut=0"}
REFRESH = {"g": "20", "x264-params": "intra-refresh=1:bframes=0"}
HEVC = {"x265-params": "keyint=12:bframes=4:open-gop=1:log-level=none:pools=none"}
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
UNEVEN = np.cumsum(np.random.default_rng(0).integers(10, 60, 60)).tolist()

FILES = {
    "h264_gop12.mp4": {"options": B_FRAMES},
    "h264_gop250.mp4": {"options": {"g": "250", "bf": "3"}},
    "h264_open_gop.mp4": {"options": OPEN_GOP},
    "h264_open_gop.mkv": {"options": OPEN_GOP},
    "h264_intra_refresh.mp4": {"options": REFRESH},
    "h264_interlaced.mp4": {"options": {**B_FRAMES, "flags": "+ildct+ilme"}},
    "h264_fragments.mp4": {"options": B_FRAMES, "container_options": FRAGMENTS},
    "h264.mkv": {"options": B_FRAMES},
    "h264.avi": {"options": B_FRAMES},
    "h264.flv": {"options": B_FRAMES},
    "variable_rate.mp4": {"options": B_FRAMES, "times": UNEVEN},
    "variable_rate.mkv": {"options": B_FRAMES, "times": UNEVEN},
    "late_start.mp4": {"options": B_FRAMES, "times": [40 * i + 1000 for i in range(60)]},
    "edit_list.mp4": {"options": B_FRAMES, "times": [40 * i - 400 for i in range(60)]},
    "mpeg4_one_key.avi": {"codec": "mpeg4", "options": {"g": "300", "bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "wmv2.wmv": {"codec": "wmv2", "options": {"g": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "hevc.mp4": {"codec": "libx265", "options": HEVC},
    "odd_size.mp4": {"pix_fmt": "yuv444p", "options": B_FRAMES},
}


def decode_all(path: Path) -> np.ndarray:
    """All frames [T, H, W, 3], one after the other."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def read(path: Path, indices) -> np.ndarray:
    return PyAV().read(path, np.asarray(indices, np.int64)).permute(0, 2, 3, 1).numpy()


def check(path: Path, expected: np.ndarray, rng: np.random.Generator, rounds: int) -> None:
    count = len(expected)
    assert np.array_equal(read(path, range(count)), expected)
    for _ in range(rounds):
        indices = rng.integers(0, count, rng.integers(1, 9))
        assert np.array_equal(read(path, indices), expected[indices])


def reason(path: Path, indices=None) -> str:
    """Why the file cannot be read."""
    with pytest.raises(VideoReadError) as caught:
        PyAV().probe(path) if indices is None else read(path, indices)
    error = caught.value
    assert (error.path, error.reader) == (str(path), "pyav")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error.reason


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(
        tmp_path_factory.mktemp("clip") / "clip.mp4",
        moving_frames(60),
        options=B_FRAMES,
        container_options={"movflags": "faststart"},
    )


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
    for i in range(0, len(expected), 3):
        assert np.array_equal(read(path, [i]), expected[[i]])
    check(path, expected, np.random.default_rng(0), rounds=12)


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.avi"])
@pytest.mark.parametrize("count", [1, 3])
def test_very_short(tmp_path, name, count):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write_video(tmp_path / name, moving_frames(count), codec=codec)
    assert PyAV().probe(path).frames == count
    check(path, decode_all(path), np.random.default_rng(0), rounds=5)


def test_sees_the_frames_that_were_written(tmp_path):
    frames = moving_frames(60)
    for name, codec in [("a.mp4", "libx264"), ("a.avi", "mpeg4")]:
        path = write_video(tmp_path / name, frames, codec=codec, options={"g": "250", "bf": "2"})
        corners = read(path, range(60))[:, 1:7, 1:7].mean((1, 2, 3))
        assert np.abs(corners - frames[:, 0, 0, 0]).max() < 25  # a neighbour's differs by 37


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_turns_frames_upright(tmp_path, degrees):
    path = write_video(tmp_path / "turned.mp4", moving_frames(5), rotation=degrees)
    expected = np.rot90(decode_all(path), degrees // 90, axes=(1, 2))
    info = PyAV().probe(path)
    assert (info.frames, info.height, info.width) == expected.shape[:3]
    assert np.array_equal(read(path, [4, 0]), expected[[4, 0]])


def test_real_clips(real_data):
    rng = np.random.default_rng(0)
    paths = [p for p in sorted((real_data / "real_clips").rglob("*.*")) if p.is_file()]
    assert len(paths) >= 3
    for path in paths:
        expected = decode_all(path)
        assert PyAV().probe(path).frames == len(expected)
        check(path, expected, rng, rounds=10 if path.suffix == ".avi" else 2)


def test_memory_lies_in_frame_order(clip):
    frames = PyAV().read(clip, np.array([3, 3, 1]))
    assert frames.shape == (3, 3, 48, 64)
    assert frames.permute(0, 2, 3, 1).is_contiguous()
    assert PyAV().read(clip, np.array([], np.int64)).shape == (0, 3, 48, 64)


def test_seeks_only_where_it_saves_work(clip):
    table = pyav._table(clip)
    assert list(table.keys) == [0, 12, 24, 36, 48]
    assert pyav._runs(table, [3, 10, 13, 30, 59]) == [(0, [3, 10, 13]), (24, [30]), (48, [59])]
    assert pyav._runs(table, [5]) == [(0, [5])]


def test_skips_nothing_that_others_need(clip, monkeypatch):
    """The fast way alone reaches every frame here: the slow one is never asked."""
    expected = decode_all(clip)
    frames = pyav._frames

    def fast_only(path, table, wanted, fast):
        assert fast
        return frames(path, table, wanted, fast)

    monkeypatch.setattr(pyav, "_frames", fast_only)
    check(clip, expected, np.random.default_rng(1), rounds=30)


def test_notices_a_changed_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(5))
    assert PyAV().probe(path).frames == 5
    write_video(path, moving_frames(7))
    assert PyAV().probe(path).frames == 7


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists open files by /proc")
def test_keeps_no_file_open(clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:400])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read(clip, [30])
        reason(broken)
        reason(clip, [60])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"hello world\n" * 200, "it is text, not a video"),
        (b"<!DOCTYPE html><html></html>", "it is a web page, not a video; did a download fail?"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n", "it is a playlist, not a video"),
        (b"ffconcat version 1.0\nfile '{}'\n", "it is a playlist, not a video"),
        (bytes(range(256)) * 20, "it is not a video of a known format, or its header is damaged"),
    ],
    ids=["empty", "text", "html", "m3u8", "concat", "noise"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".m3u8"])
def test_what_is_no_video(tmp_path, clip, content, expected, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content.replace(b"{}", os.fsencode(clip)))
    assert reason(path) == expected
    assert reason(path, [0]) == expected


def test_what_is_no_file(tmp_path):
    assert reason(tmp_path / "nowhere.mp4") == "there is no such file"
    assert reason(Path("http://example.org/a.mp4")) == "there is no such file"
    assert reason(tmp_path) == "it is a folder, not a file"
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "pipe") == "it is not a regular file"


def test_a_name_may_look_like_an_address(tmp_path, clip):
    path = tmp_path / "concat:a|b.mp4"
    path.write_bytes(clip.read_bytes())
    assert PyAV().probe(path).frames == 60


@pytest.mark.parametrize("codec", ["mjpeg", "png"])
def test_a_single_image_is_no_video(tmp_path, codec):
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.time_base = 64, 48, Fraction(1, 25)
    context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
    frame = av.VideoFrame.from_ndarray(moving_frames(1)[0], format="rgb24")
    path = tmp_path / "image.mp4"
    path.write_bytes(b"".join(bytes(p) for f in (frame, None) for p in context.encode(f)))
    assert reason(path) == "it is not a video of a known format, or its header is damaged"


def test_audio_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert reason(path) == "it has no video stream (audio only)"


def test_frames_out_of_range(clip):
    expected = "frames {} to {} were asked for, but it has frames 0 to 59"
    assert reason(clip, [3, 60]) == expected.format(3, 60)
    assert reason(clip, [-1, 2]) == expected.format(-1, 2)


def test_no_moov(tmp_path, clip):
    path = tmp_path / "cut.mp4"
    data = clip.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    assert reason(path).startswith("its index (moov) is missing or damaged")


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
    assert np.array_equal(read(path, [7, 2]), expected[[7, 2]])
    assert reason(path, [2, 59, 58]) == "cut short: frame 58 of 60 cannot be decoded"


def test_a_header_without_frames_behind_it(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    payload = data.index(b"mdat") + 4
    data[payload:] = bytes(len(data) - payload)
    path = tmp_path / "zero.mp4"
    path.write_bytes(data)
    assert reason(path) == reason(path, [0]) == "damaged: the decoder refuses its data"


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
            assert np.array_equal(read(path, [0, 59]), expected[[0, 59]])
        except VideoReadError:
            raised += 1
    assert raised >= 18


def test_frames_that_change_size(tmp_path):
    path = tmp_path / "both.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        large = av.CodecContext.create("mjpeg", "w")
        large.height, large.width, large.pix_fmt = 96, 128, "yuvj420p"
        large.time_base = Fraction(1, 25)
        for encoder, height, width, time in [(stream, 48, 64, 0), (large, 96, 128, 1)]:
            image = moving_frames(1, height, width)[0]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.stream = stream
                container.mux(packet)
    assert read(path, [0]).shape == (1, 48, 64, 3)
    assert reason(path, [0, 1]) == "its frames change size, from 48x64 to 96x128"


def test_falls_back_where_a_seek_fails(clip, monkeypatch):
    """Frames that cannot be had the fast way are decoded from the start."""
    runs = pyav._runs
    monkeypatch.setattr(
        pyav, "_runs", lambda table, wanted: [(48, w) for _, w in runs(table, wanted)]
    )
    assert np.array_equal(read(clip, [20, 30]), decode_all(clip)[[20, 30]])
