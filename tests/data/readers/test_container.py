import os
import socket
import struct
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from files_for_readers import CLIP, LIMITS, read, reason
from videos import moving_frames, write_video

from actionkit.data.readers import container
from actionkit.data.readers.container import DamagedError, Deadline, UnreadableError, opened
from actionkit.data.readers.pyav import PyAV


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


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
    assert reason(PyAV(), path) == expected
    assert reason(PyAV(), path, [0]) == expected


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
    assert reason(PyAV(), path) == "it is not a video of a known format, or its header is damaged"


def test_audio_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        samples = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert reason(PyAV(), path) == "it has no video stream (audio only)"


def test_no_moov(tmp_path, clip):
    path = tmp_path / "cut.mp4"
    data = clip.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    assert reason(PyAV(), path).startswith("its index (moov) is missing or damaged")


def test_what_is_no_file(tmp_path):
    assert reason(PyAV(), tmp_path / "nowhere.mp4") == "there is no such file"
    assert reason(PyAV(), Path("http://example.org/a.mp4")) == "there is no such file"
    assert reason(PyAV(), tmp_path) == "it is a folder, not a file"


def test_what_could_hang_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's address must be short
    os.mkfifo("pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        for name, target in [("a", "pipe.mp4"), ("b", "socket.mp4"), ("c", "/dev/zero")]:
            Path(name).symlink_to(target)
        Path("loop").symlink_to("loop")
        for name in ("pipe.mp4", "socket.mp4", "a", "b", "c"):
            assert reason(PyAV(), Path(name)) == "it is not a regular file"
        assert reason(PyAV(), Path("loop")) == "there is no such file"


def test_a_frame_as_large_as_allowed_is_read_and_a_larger_one_is_not(tmp_path, clip):
    assert read(PyAV(max_pixels=48 * 64), clip, [59]).shape == (1, 48, 64, 3)
    said = "its frames of 48x64 have more than 3071 pixels; raise data.reader.max_pixels if they "
    said += "should be read"
    assert reason(PyAV(max_pixels=48 * 64 - 1), clip) == said
    options = {"pix_fmt": "yuv444p", "options": {"g": "12"}}
    odd = write_video(tmp_path / "odd.mp4", moving_frames(3, 49, 65), **options)
    assert read(PyAV(max_pixels=49 * 65), odd, [2]).shape == (1, 49, 65, 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
def test_a_claim_of_huge_frames_takes_no_memory(tmp_path):
    """600 million pixels, as the frames themselves say; the container knows nothing of it."""
    path = write_video(tmp_path / "huge.avi", moving_frames(3), codec="mjpeg", pix_fmt="yuvj420p")
    size = struct.pack(">HH", 48, 64)
    data = path.read_bytes()
    assert data.count(size) == 3
    path.write_bytes(data.replace(size, struct.pack(">HH", 20000, 30000)))
    before = peak_memory()
    assert reason(PyAV(), path) == "damaged: the decoder refuses its data"
    assert peak_memory() - before < 100_000  # kB; one such frame has 900,000


def peak_memory() -> int:
    """The most this process has ever taken, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def test_a_deadline_says_what_to_do(monkeypatch):
    clock = iter([100.0, 129.0, 130.5])
    monkeypatch.setattr(container, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    deadline = Deadline(30.0)
    assert deadline.left() == 1.0
    with pytest.raises(UnreadableError, match=r"^took longer than 30 s; .* data\.reader\.timeout$"):
        deadline.left()


class Stalled(Deadline):
    """Leaves FFmpeg hardly any time, and says later that it is up."""

    def __init__(self, calls: int) -> None:
        super().__init__(-1.0)
        self.calls = calls

    def left(self) -> float:
        self.calls -= 1
        return 1e-9 if self.calls >= 0 else super().left()


def test_waiting_for_the_disk_ends_at_the_deadline(clip):
    """FFmpeg is interrupted while it opens the file."""
    with pytest.raises(UnreadableError, match="took longer than"):
        opened(str(clip), LIMITS, Stalled(calls=1)).__enter__()


def test_a_demuxer_that_never_ends_is_left_at_the_deadline(clip, monkeypatch):
    with opened(str(clip), LIMITS, Deadline(0.2)) as video:
        (packet, *_) = video.container.demux(video.stream)

        def demux(_):
            while True:
                time.sleep(0.01)
                yield packet

        video.container = SimpleNamespace(demux=demux)
        with pytest.raises(UnreadableError, match="took longer than"):
            for _ in video.packets():
                pass


def test_a_disk_error_is_damage(clip):
    with opened(str(clip), LIMITS, Deadline(30.0)) as video:

        def demux(_):
            raise av.error.OSError(5, "Input/output error")
            yield

        video.container = SimpleNamespace(demux=demux)
        with pytest.raises(DamagedError, match="damaged: it cannot be read to its end"):
            list(video.packets())
