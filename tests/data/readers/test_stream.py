"""`Reader.stream`: all frames in turn, few at a time."""

import importlib.util
import time

import av
import numpy as np
import pytest
import torch
from files_for_readers import CLIP, FILES, decode_all, read
from videos import moving_frames, write_video

from actionkit.contracts import Info, Reader, VideoReadError
from actionkit.data.readers import container
from actionkit.data.readers.decord import Decord
from actionkit.data.readers.frames import Frames
from actionkit.data.readers.pyav import PyAV
from actionkit.registry import Entry
from actionkit.testing import readers, toy
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import NotConformingError

needs_decord = pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="decord is not made for this machine"
)
MANY = (1, 7, 60, 1000)


def require_stream(reader, path, count=60):
    whole = reader.read(path, np.arange(count))
    for most in MANY:
        parts = list(reader.stream(path, most))
        assert [len(p) for p in parts[:-1]] == [most] * (len(parts) - 1)
        assert len(parts) == -(-count // most)
        assert torch.equal(torch.cat(parts), whole)
        assert all(part.permute(0, 2, 3, 1).is_contiguous() for part in parts)


def until_it_raises(reader, path, most, said):
    """The parts that a stream gives before it raises."""
    parts = []

    def take():
        for part in reader.stream(path, most):
            parts.append(part)

    with pytest.raises(VideoReadError, match=said):
        take()
    return parts


@pytest.mark.parametrize(
    "name", ["h264_gop12.mp4", "h264_open_gop.mp4", "mpeg4.avi", "h264.mkv", "variable_rate.mp4"]
)
def test_pyav_streams_what_it_reads(tmp_path, name):
    path = write_video(tmp_path / name, moving_frames(60), **FILES[name])
    require_stream(PyAV(), path)
    if "variable" not in name:
        assert torch.equal(
            torch.cat(list(PyAV().stream(path, 9))).permute(0, 2, 3, 1),
            torch.from_numpy(decode_all(path)),
        )


@needs_decord
@pytest.mark.parametrize("name", ["h264_gop12.mp4", "h264_open_gop.mp4", "mpeg4.avi"])
def test_decord_streams_what_it_reads(tmp_path, name):
    require_stream(Decord(), write_video(tmp_path / name, moving_frames(60), **FILES[name]))


@pytest.mark.parametrize("kind", [PyAV, pytest.param(Decord, marks=needs_decord)])
def test_each_frame_is_decoded_once(tmp_path, monkeypatch, kind):
    """Decord's frames are decoded by PyAV before, to see whether they are sound."""
    path = write_video(tmp_path / "a.mp4", moving_frames(60), **CLIP)
    decoded, decode = [], container.Video.decode

    def noted(self, packet):
        frames = decode(self, packet)
        decoded.extend(frames)
        return frames

    kind().probe(path)
    monkeypatch.setattr(container.Video, "decode", noted)
    assert len(list(kind().stream(path, 7))) == 9
    assert len(decoded) == 60


def test_frames_stream_what_they_read(tmp_path):
    folder = toy.images(tmp_path / "images", moving_frames(60))
    require_stream(Frames(fps=25), folder)
    frames = torch.cat(list(Frames(fps=25).stream(folder, 9))).permute(0, 2, 3, 1)
    assert np.array_equal(frames.numpy(), moving_frames(60))


class Count(Reader):
    """Frames of one number; the last cannot be read."""

    def probe(self, path):
        return Info(10, 5.0, 2.0, 2, 2)

    def read(self, path, indices):
        assert len(indices) <= 4
        if 9 in indices:
            raise VideoReadError(path, "count", "it ends before its end")
        return torch.from_numpy(indices).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_a_reader_that_has_no_stream_of_its_own_reads_in_parts(tmp_path):
    parts = until_it_raises(Count(), tmp_path, 4, "it ends before its end")
    assert [part[:, 0, 0, 0].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_stream_looks_at_the_file_when_it_is_first_asked(tmp_path):
    for reader in (PyAV(), Frames(fps=25)):
        stream = reader.stream(tmp_path / "nowhere", 3)
        with pytest.raises(VideoReadError, match="nowhere"):
            next(stream)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_a_file_that_is_damaged_in_the_middle_gives_frames_and_then_the_error(tmp_path, name):
    whole = write_video(tmp_path / name, moving_frames(60), **FILES[f"mpeg4.{name[-3:]}"])
    expected, data = decode_all(whole), bytearray(whole.read_bytes())
    with av.open(str(whole)) as video:
        packets = [p for p in video.demux(video=0) if p.size]
    place, size, path = packets[40].pos, packets[40].size, tmp_path / f"damaged_{name}"
    place = data.index(bytes(packets[40]), place)
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    parts = until_it_raises(PyAV(), path, 4, r"\(pyav\): (damaged|cut short): frame ")
    frames = torch.cat(parts).permute(0, 2, 3, 1).numpy()
    assert 8 <= len(frames) < 60
    assert np.array_equal(frames, expected[: len(frames)])


@pytest.mark.parametrize("name", ["cut.mp4", "cut.avi"])
def test_a_file_that_is_cut_short_gives_nothing_wrong_before_the_error(tmp_path, name):
    options = CLIP if name.endswith("mp4") else FILES["mpeg4.avi"]
    whole = write_video(tmp_path / f"whole_{name}", moving_frames(60), **options)
    expected, path = decode_all(whole), tmp_path / name
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    parts = until_it_raises(PyAV(), path, 4, r"\(pyav\): cut short: frame \d+ of 60 cannot be")
    given = 0
    for part in parts:
        frames = part.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(frames, expected[given : given + len(frames)])
        given += len(frames)
    assert given < 60


def test_an_image_that_is_damaged_gives_those_before_it(tmp_path):
    folder = toy.images(tmp_path / "images", moving_frames(9))
    (folder / "img_00006.png").write_bytes(b"no image")
    stream = Frames(fps=25).stream(folder, 2)
    assert [len(next(stream)) for _ in range(2)] == [2, 2]
    with pytest.raises(VideoReadError, match="frame 5 "):
        next(stream)


class Clock:
    """Time that only passes where it is told to."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(container, "time", made)
    monkeypatch.setattr(container.Deadline, "left", _left)
    return made


def _left(self):
    """Without the seconds for FFmpeg, whose clock is the real one."""
    if self._end - container.time.monotonic() <= 0:
        raise container.UnreadableError("took too long")
    return 30.0


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "images"])
def test_the_time_begins_anew_with_every_part(tmp_path, clock, name):
    """However long a part lies with who asked for it, and however long the whole takes."""
    if name == "images":
        path, reader = toy.images(tmp_path / name, moving_frames(60)), Frames(fps=25, timeout=10)
    else:
        path = write_video(tmp_path / name, moving_frames(60), **FILES[f"mpeg4.{name[-3:]}"])
        reader = PyAV(timeout=10)
    total = 0
    for part in reader.stream(path, 6):
        total += len(part)
        clock.now += 25.0
    assert (total, clock.now) == (60, 250.0)


def test_a_part_that_takes_too_long_ends_the_stream(tmp_path, clock, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_frames(60), **CLIP)
    decode = container.Video.decode

    def slow(self, packet):
        clock.now += 1.0
        return decode(self, packet)

    reader = PyAV(timeout=25)
    reader.probe(path)
    monkeypatch.setattr(container.Video, "decode", slow)
    assert sum(len(part) for part in reader.stream(path, 10)) == 60  # 10 seconds each
    assert until_it_raises(reader, path, 30, "took too long") == []


def test_with_the_real_clock(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(20), **CLIP)
    reader, total = PyAV(timeout=0.5), 0
    reader.probe(path)
    for part in reader.stream(path, 8):
        total += len(part)
        time.sleep(0.6)
    assert total == 20


def test_a_stream_that_is_left_closes_the_file(tmp_path):
    from actionkit.testing.subject import open_files

    path = write_video(tmp_path / "a.mp4", moving_frames(60), **CLIP)
    read(PyAV(), path, [0])
    before = open_files()
    stream = PyAV().stream(path, 3)
    next(stream)
    assert any(name == str(path.resolve()) for _, name in open_files() - before)
    stream.close()
    assert not open_files() - before


# --------------------------------------------------------------------------------- the kit


class Loses(PyAV):
    """Loses the last part."""

    def stream(self, path, most):
        *parts, _ = super().stream(path, most)
        yield from parts


class Twice(PyAV):
    """Begins a part with the last frame of the one before."""

    def stream(self, path, most):
        for start in range(0, self.probe(path).frames, most):
            stop = min(start + most, self.probe(path).frames)
            yield self.read(path, np.maximum(np.arange(start, stop) - (start > 0), 0))


class TooMany(PyAV):
    """Gives everything at once."""

    def stream(self, path, most):
        yield from super().stream(path, 1000)


class Empty(PyAV):
    """Ends with a part of nothing."""

    def stream(self, path, most):
        yield from super().stream(path, most)
        yield self.read(path, np.arange(0))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Loses, "gives parts of [1, 1, 1, 1, 1, 1, 1, 1, 1] frames, where there are 24"),
        (Twice, "gives parts of [1, 1, 1, 1, 1, 1, 1, 1, 1] frames, which are not those that read"),
        (TooMany, "stream of at most 1 frames gives parts of [24] frames, where there are 24"),
        (Empty, "stream of at most 1 frames gives parts of"),
    ],
)
def test_the_kit_notices_streams_that_are_wrong(kind, sentence):
    subject = Subject(Entry("readers", "wrong", f"{PyAV.__module__}:PyAV", "tests", "0"))
    subject.component = kind
    with pytest.raises(NotConformingError) as error:
        readers.exact(subject)
    assert sentence in str(error.value)
