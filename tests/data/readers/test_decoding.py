import time
from fractions import Fraction

import av
import numpy as np
import pytest
from files_for_readers import (
    CLIP,
    FILES,
    LIMITS,
    check,
    decode_all,
    read,
    reason,
    source,
    write_packed,
)
from videos import moving_frames, write_video

from actionkit.data.readers import decoding
from actionkit.data.readers.container import UnreadableError, Video
from actionkit.data.readers.decoding import decode, runs
from actionkit.data.readers.pyav import PyAV
from actionkit.data.readers.table import Mark


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


def test_seeks_only_where_it_saves_work(clip):
    table = source(clip).table
    assert list(table.keys) == [0, 12, 24, 36, 48]
    assert runs(table.keys, [3, 10, 13, 30, 59]) == [(0, [3, 10, 13]), (24, [30]), (48, [59])]
    assert runs(table.keys, [5]) == [(0, [5])]
    assert runs(table.keys, [3, 13, 14], gain=0) == [(0, [3]), (12, [13, 14])]


@pytest.mark.parametrize("ways", [(True,), (False,), (True, False)])
def test_all_ways_give_the_same_frames(clip, ways):
    expected = decode_all(clip)
    found = dict(decode(source(clip), [7, 30, 59], ways))
    assert list(found) == [7, 30, 59]
    for number, frame in found.items():
        assert np.array_equal(frame.to_ndarray(format="rgb24"), expected[number])


def test_falls_back_where_a_seek_fails(clip, monkeypatch):
    """Frames that cannot be had the fast way are decoded from the start."""

    def too_late(keys, wanted, gain):
        return [(48, run) for _, run in runs(keys, wanted, gain)]

    monkeypatch.setattr(decoding, "runs", too_late)
    assert np.array_equal(read(PyAV(), clip, [20, 30]), decode_all(clip)[[20, 30]])
    with pytest.raises(UnreadableError, match="cut short: frame 20 of 60 cannot be decoded"):
        list(decode(source(clip), [20, 30], ways=(True,)))


def test_frames_that_change_size(tmp_path):
    path = tmp_path / "both.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        large = av.CodecContext.create("mjpeg", "w")
        large.height, large.width, large.pix_fmt = 96, 128, "yuvj420p"
        large.time_base = Fraction(1, 25)
        for encoder, height, width, moment in [(stream, 48, 64, 0), (large, 96, 128, 1)]:
            image = moving_frames(1, height, width)[0]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.stream = stream
                container.mux(packet)
    assert read(PyAV(), path, [0]).shape == (1, 48, 64, 3)
    assert reason(PyAV(), path, [0, 1]) == "its frames change size, from 48x64 to 96x128"


LATE = "took longer than {} s; if neither the disk nor the video is to blame, raise "
LATE += "data.reader.timeout"


def test_slow_decoding_ends_at_the_deadline(clip, monkeypatch):
    slow = source(clip, LIMITS._replace(timeout=0.3))  # the table is known by now
    decoder, calls = Video.decode, []

    def sleepy(self, packet):
        calls.append(packet)
        time.sleep(0.05)
        return decoder(self, packet)

    monkeypatch.setattr(Video, "decode", sleepy)
    with pytest.raises(UnreadableError) as caught:
        list(decode(slow, [59], ways=(False,)))
    assert str(caught.value) == LATE.format(0.3)
    assert len(calls) <= 7


def test_a_long_video_ends_at_the_deadline(tmp_path):
    frames = np.concatenate([moving_frames(60)] * 40)
    path = write_video(tmp_path / "long.mp4", frames, options={"g": "2400", "preset": "ultrafast"})
    assert reason(PyAV(timeout=0.02), path, [2399]) == LATE.format(0.02)
    assert read(PyAV(), path, [2399]).shape == (1, 48, 64, 3)


AVI = {
    "mpeg4.avi": FILES["mpeg4.avi"],
    "no_b_frames.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "dropped.avi": {**FILES["mpeg4.avi"], "times": [40 * i + 80 * (i // 7) for i in range(60)]},
    "one_key.avi": FILES["mpeg4_one_key.avi"],
    "packed.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "1"}},
    "every_frame_said_to_be_key.avi": FILES["mpeg4.avi"],
}


def marks_of(path):
    return source(path, PyAV().limits).table.marks


def write_avi(folder, name):
    path = write_video(folder / name, moving_frames(60), **AVI[name])
    if name == "packed.avi":
        return write_packed(path, folder / "both_in_one.avi")
    if name == "every_frame_said_to_be_key.avi":
        data = bytearray(path.read_bytes())
        for entry in range(data.index(b"idx1") + 8, len(data) - 15, 16):
            if data[entry : entry + 4] == b"00dc":
                data[entry + 4] |= 0x10
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", AVI)
def test_avi_is_decoded_from_its_start_once(tmp_path, monkeypatch, name):
    """Parts that follow each other, then any frames: all from keyframes that were counted."""
    path = write_avi(tmp_path, name)
    expected, ways, frames = decode_all(path), [], decoding._frames
    assert len(expected) == 60

    def noted(source, wanted, fast, gain):
        ways.append(fast)
        return frames(source, wanted, fast, gain)

    monkeypatch.setattr(decoding, "_frames", noted)
    for start in range(0, 60, 10):
        part = range(start, start + 10)
        assert np.array_equal(read(PyAV(), path, part), expected[part])
    check(PyAV(), path, expected, rounds=30)
    for index in range(60):
        assert np.array_equal(read(PyAV(), path, [index]), expected[[index]])
    assert ways == [False] + [True] * (len(ways) - 1)
    with av.open(str(path)) as container:
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert sorted(marks_of(path)) == keys
    assert (len(keys) == 1) == (name == "one_key.avi")


def test_interlaced_avi_is_decoded_from_its_start_always(tmp_path):
    """FFmpeg scales the motion of its B-frames by the time of the first that it meets."""
    options = {**FILES["mpeg4.avi"]["options"], "flags": "+ildct+ilme"}
    path = write_video(tmp_path / "a.avi", moving_frames(60), codec="mpeg4", options=options)
    check(PyAV(), path, decode_all(path), rounds=30)
    assert marks_of(path) == {}
    marks_of(path)[12] = Mark(10, 0)
    check(PyAV(), path, decode_all(path), rounds=3)


def test_a_part_of_an_avi_costs_what_it_holds(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", moving_frames(60), **FILES["mpeg4.avi"])
    decoded, decode_one = [], Video.decode

    def noted(self, packet):
        frames = decode_one(self, packet)
        decoded.extend(frames)
        return frames

    read(PyAV(), path, [59])
    monkeypatch.setattr(Video, "decode", noted)
    read(PyAV(), path, [59])
    assert len(decoded) <= 14  # a keyframe every 12 frames, and B-frames before it


def test_other_codecs_are_counted_from_the_start(tmp_path):
    """What is shown behind their keyframes may need what comes before them."""
    for name in ("h264.avi", "wmv2.wmv", "mpeg2.mpg", "mpeg4.mp4"):
        path = write_video(tmp_path / name, moving_frames(60), **FILES[name])
        read(PyAV(), path, [59])
        assert marks_of(path) is None


def test_a_keyframe_that_is_counted_otherwise_is_not_trusted(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_frames(60), **FILES["mpeg4.avi"])
    expected = decode_all(path)
    read(PyAV(), path, [59])
    marks = marks_of(path)
    keys = sorted(marks)
    marks[keys[1]], marks[keys[2]] = marks[keys[2]], marks[keys[1]]
    with pytest.raises(UnreadableError, match=f"damaged: frame {keys[1]} of 60 cannot be decoded"):
        list(decode(source(path, PyAV().limits), list(range(60)), ways=(True,)))
    assert np.array_equal(read(PyAV(), path, range(60)), expected)
    check(PyAV(), path, expected, rounds=3)


def test_a_seek_that_leads_elsewhere_is_noticed(tmp_path):
    """Too early: the keyframe is waited for. Too late: it never comes."""
    path = write_video(tmp_path / "a.avi", moving_frames(60), **FILES["mpeg4.avi"])
    expected = decode_all(path)
    read(PyAV(), path, [59])
    marks = marks_of(path)
    for off in (-14, 14):
        for key in [*marks][1:-2]:
            marks[key] = marks[key]._replace(time=marks[key].time + off)
        assert np.array_equal(read(PyAV(), path, [20, 40]), expected[[20, 40]])
        for key in [*marks][1:-2]:
            marks[key] = marks[key]._replace(time=marks[key].time - off)
