import time
from fractions import Fraction

import av
import numpy as np
import pytest
from files_for_readers import CLIP, LIMITS, decode_all, read, reason, source
from videos import moving_frames, write_video

from actionkit.data.readers import decoding
from actionkit.data.readers.container import UnreadableError, Video
from actionkit.data.readers.decoding import decode, runs
from actionkit.data.readers.pyav import PyAV


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


def test_seeks_only_where_it_saves_work(clip):
    table = source(clip).table
    assert list(table.keys) == [0, 12, 24, 36, 48]
    assert runs(table, [3, 10, 13, 30, 59]) == [(0, [3, 10, 13]), (24, [30]), (48, [59])]
    assert runs(table, [5]) == [(0, [5])]
    assert runs(table, [3, 13, 14], gain=0) == [(0, [3]), (12, [13, 14])]


@pytest.mark.parametrize("ways", [(True,), (False,), (True, False)])
def test_all_ways_give_the_same_frames(clip, ways):
    expected = decode_all(clip)
    found = dict(decode(source(clip), [7, 30, 59], ways))
    assert list(found) == [7, 30, 59]
    for number, frame in found.items():
        assert np.array_equal(frame.to_ndarray(format="rgb24"), expected[number])


def test_falls_back_where_a_seek_fails(clip, monkeypatch):
    """Frames that cannot be had the fast way are decoded from the start."""

    def too_late(table, wanted, gain):
        return [(48, run) for _, run in runs(table, wanted, gain)]

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
