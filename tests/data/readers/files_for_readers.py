"""Videos of many kinds for the readers' tests, and frames to compare with."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import moving_frames

from actionkit.contracts import Reader, VideoReadError
from actionkit.data.readers.container import Deadline, Limits
from actionkit.data.readers.decoding import Source
from actionkit.data.readers.table import table

CLIP = {"options": {"g": "12", "bf": "3"}, "container_options": {"movflags": "faststart"}}
LIMITS = Limits(8192 * 8192, None, None, 30.0)
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
    "short_gops.mp4": {"options": {"g": "4", "bf": "2"}},
    "intra_refresh_short.mp4": {"options": {**REFRESH, "g": "6"}},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le", "options": B_FRAMES},
    "hevc_ten_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": HEVC},
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


def as_shown(path: Path, expected: np.ndarray) -> np.ndarray:
    """Of all frames, those on the screen at i / fps seconds, fps being the mean rate; by definition
    and without hurry.
    """
    with av.open(str(path)) as container:
        unit = container.streams.video[0].time_base
        times = sorted(p.pts * unit for p in container.demux(video=0) if p.pts is not None)
    step = (times[-1] - times[0]) / (len(times) - 1)
    shown = [
        max(k for k, time in enumerate(times) if time <= times[0] + i * step)
        for i in range(len(times))
    ]
    return expected[shown]


def read(reader: Reader, path: Path, indices) -> np.ndarray:
    return reader.read(path, np.asarray(indices, np.int64)).permute(0, 2, 3, 1).numpy()


def check(reader: Reader, path: Path, expected: np.ndarray, rounds: int, seed: int = 0) -> None:
    """All frames at once, and some in any order, are the expected ones, bit by bit."""
    count, rng = len(expected), np.random.default_rng(seed)
    assert np.array_equal(read(reader, path, range(count)), expected)
    for _ in range(rounds):
        indices = rng.integers(0, count, rng.integers(1, 9))
        assert np.array_equal(read(reader, path, indices), expected[indices])


def reason(reader: Reader, path: Path, indices=None) -> str:
    """Why the file cannot be read."""
    with pytest.raises(VideoReadError) as caught:
        reader.probe(path) if indices is None else read(reader, path, indices)
    assert (caught.value.path, caught.value.reader) == (str(path), reader.name)
    return caught.value.reason


def source(path: Path, limits: Limits = LIMITS) -> Source:
    return Source(str(path), table(path, limits), limits, Deadline(limits.timeout))


def write_streams(path: Path, *videos: np.ndarray, cover: bool = False) -> Path:
    """Writes sound, videos [T, H, W, 3] and perhaps a cover picture as streams of one file."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        streams = [container.add_stream("libx264", rate=25, options=B_FRAMES) for _ in videos]
        if cover:
            streams.append(container.add_stream("mjpeg", rate=25))
            streams[-1].disposition = av.stream.Disposition.attached_pic
            videos = (*videos, moving_frames(1, 32, 32, seed=9))
        for stream, frames in zip(streams, videos, strict=True):
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if stream.name == "mjpeg" else "yuv420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux([*sound.encode(silence), *sound.encode()])
        for stream, frames in zip(streams, videos, strict=True):
            for time, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def write_packed(source: Path, path: Path) -> Path:
    """An MPEG-4 AVI as DivX wrote them: a B-frame lies in the packet of the frame that is shown
    behind it, and an empty picture takes its place.
    """
    start, mine = b"\0\0\1\xb6", b"\0\0\1\xb2DivX503b1393p"
    with av.open(str(source), options={"fflags": "-genpts"}) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [bytes(p) for p in old.demux(video=0) if p.size]
        signed = [re.sub(re.escape(mine[:4]) + b"Lav[^\0]*", lambda _: mine, p) for p in packets]
        kinds = [p[p.index(start) + 4] >> 6 for p in packets]  # 0 I, 1 P, 2 B
        # Its kind (P), no second, a marker, 5 bits of time at 25 fps, a marker, "not coded", fill.
        empty = start + int("0101000001001111", 2).to_bytes(2, "big")
        stored = []
        for i, kind in enumerate(kinds):
            follows = i + 1 < len(kinds) and kinds[i + 1] == 2
            data = empty if kind == 2 else signed[i] + (packets[i + 1] if follows else b"")
            stored.append((data, kind == 0))
        for time, (data, key) in enumerate(stored):
            packet = av.Packet(data)
            packet.pts = packet.dts = time
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, key
            new.mux(packet)
    return path


# decord's libraries are global to a process: once they are loaded, FFmpeg's VP9 encoder would call
# decord's libvpx instead of its own. Here it is used before, and so bound to its own.
_vp9 = av.CodecContext.create("libvpx-vp9", "w")
_vp9.height, _vp9.width, _vp9.pix_fmt, _vp9.time_base = 48, 64, "yuv420p", Fraction(1, 25)
_vp9.open()
