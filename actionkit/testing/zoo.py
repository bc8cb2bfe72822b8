"""The zoo: bad and odd video files, made on the spot, so that all readers meet the same ones."""

from __future__ import annotations

import os
import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from actionkit.contracts import Info
from actionkit.testing.toy import packets, write_video

FPS = 25
LEVELS = 6.0  # of 255, on average over a frame: what coding and converting may change
EDGE = 0.001  # seconds: so near to a change of frames either one is right
NOWHERE = "http://127.0.0.1:9/clip.ts"  # what the playlists name; nobody serves it
B_FRAMES = {"g": "12", "bf": "2", "crf": "12"}
MPEG4: dict[str, Any] = {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "b": "4M"}}
TIMES = np.cumsum([0, *[20] * 11, *[120] * 12])  # milliseconds: fast, then slow

PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
    "#EXTINF:0.96,\nbeside.ts\n#EXTINF:0.96,\n{address}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile beside.ts\nfile '{address}'\n",
}


class Odd(NamedTuple):
    """An unusual video that must be read right."""

    path: Path
    frames: np.ndarray  # [T, H, W, 3] uint8, upright, in the order of presentation
    times: np.ndarray | None = None  # [T] seconds from the first frame, where the rate varies

    @property
    def fps(self) -> float:
        """The mean rate."""
        return FPS if self.times is None else (len(self.times) - 1) / float(self.times[-1])

    def allowed(self, info: Info) -> list[set[int]]:
        """The frames that each index may give.

        Index i is frame i, or where the rate varies the one shown at i / fps seconds.
        """
        if self.times is None:
            return [{i} for i in range(info.frames)]
        seconds = np.arange(info.frames) / info.fps
        ends = [np.searchsorted(self.times, seconds + e, side="right") for e in (-EDGE, EDGE)]
        return [{max(0, int(i) - 1) for i in pair} for pair in zip(*ends, strict=True)]


# ------------------------------------------------------------------------------------------- bad


def bad(folder: Path, address: str = NOWHERE) -> dict[str, Path]:
    """Files that are no whole video, by what is wrong with them; `missing` is not there at all.

    What is damaged behind a good header (`half`, `half_avi`, `zeroed`, `flipped`) may pass `probe`,
    but not the reading of all frames. The playlists name a video, `beside.ts`, and `address`; no
    reader may open either. `locked` is left out where the running user can read it all the same, as
    root can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = _whole(folder / "whole.mp4")
    contents = {
        "empty": b"",
        "text": b"This is no video.\n" * 50,
        "html": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
        "noise": random.Random(0).randbytes(5000),  # noqa: S311
        "no_moov": _no_moov(whole),
        "half": _half(whole, b"mdat"),
        "zeroed": _zeroed(whole),
        "flipped": _flipped(whole),
        "no_stream": whole.replace(b"trak", b"free"),
        **{name: text.format(address=address).encode() for name, text in PLAYLISTS.items()},
        "locked": whole,
    }
    names = ("missing", *contents, "audio", "no_frames", "directory")
    files = {name: folder / f"{name}.mp4" for name in names}
    for name, content in contents.items():
        files[name].write_bytes(content)
    _write_sound(files["audio"])
    _write_no_frames(files["no_frames"])
    files["directory"].mkdir()
    avi = write_video(folder / "half_avi.avi", squares(), **MPEG4)
    avi.write_bytes(_half(avi.read_bytes(), b"movi"))
    files["half_avi"] = avi
    write_video(folder / "beside.ts", squares(), options=B_FRAMES)
    if not _locks(files["locked"]):
        files.pop("locked").unlink()
    return files


def _whole(path: Path) -> bytes:
    """An MP4 file with its index in front of its frames."""
    front = {"movflags": "faststart"}
    write_video(path, squares(), options=B_FRAMES, container_options=front)
    data = path.read_bytes()
    path.unlink()
    return data


def _no_moov(whole: bytes) -> bytes:
    """The frames but not their index, as a writer leaves it that is stopped."""
    moov, mdat = (whole.index(name) - 4 for name in (b"moov", b"mdat"))
    return whole[:moov] + whole[mdat:]


def _half(whole: bytes, frames: bytes) -> bytes:
    """The header, and half of the frames: an MP4 file has its index then, an AVI file lost it."""
    return whole[: (whole.index(frames) + len(whole)) // 2]


def _zeroed(whole: bytes) -> bytes:
    """A hole in the middle of the frames, as a download in parts leaves it."""
    start = whole.index(b"mdat") + 4
    quarter = (len(whole) - start) // 4
    return whole[: start + quarter] + bytes(2 * quarter) + whole[start + 3 * quarter :]


def _flipped(whole: bytes) -> bytes:
    """A bit in 20 bytes of the frames, so many that they are no valid syntax any more."""
    start, data, rng = whole.index(b"mdat") + 4, bytearray(whole), random.Random(0)  # noqa: S311
    for _ in range((len(data) - start) // 20):
        data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _locks(path: Path) -> bool:
    """Whether taking all rights away keeps this process from reading a file."""
    path.chmod(0)
    try:
        path.open("rb").close()
    except PermissionError:
        return True
    return False


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        for packet in _silence(container.add_stream("aac", rate=16000)):
            container.mux(packet)


def _write_no_frames(path: Path) -> None:
    """A video stream of which no frame was ever written."""
    with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()


def _silence(stream: Any) -> list[Any]:
    """A second of it, as packets of a stream that is written."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    return [*stream.encode(frame), *stream.encode()]


# ------------------------------------------------------------------------------------------- odd


def odd(folder: Path) -> dict[str, Odd]:
    """Videos that are unusual but whole, by what is odd about them.

    `bytes_in_name` is left out where the file system takes no name that is not UTF-8.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def make(name: str, frames: np.ndarray, suffix: str = "mp4", **options: Any) -> Odd:
        options = {"options": B_FRAMES, **options}
        return Odd(write_video(folder / f"{name}.{suffix}", frames, **options), frames)

    animals = {
        "one_frame": make("one_frame", squares(1)),
        "three_frames": make("three_frames", squares(3)),
        "rotated": make("rotated", squares(), rotation=90),
        "variable_rate": make("variable_rate", squares(), times=TIMES.tolist()),
        "odd_size": make("odd_size", squares(height=49, width=65), pix_fmt="yuv444p"),
        "ten_bit": make("ten_bit", squares(), pix_fmt="yuv420p10le"),
        "b_frames_avi": make("b_frames_avi", squares(), "avi", **MPEG4),
        "several_streams": _several_streams(folder / "several_streams.mp4"),
    }
    turned = np.rot90(animals["rotated"].frames, axes=(1, 2))
    animals["rotated"] = animals["rotated"]._replace(frames=turned)
    animals["variable_rate"] = animals["variable_rate"]._replace(times=TIMES / 1000)
    try:
        path = folder / os.fsdecode(b"bytes_\xe9\xff.mp4")
        shutil.copy(animals["three_frames"].path, path)
        animals["bytes_in_name"] = animals["three_frames"]._replace(path=path)
    except (OSError, UnicodeError):
        pass
    return animals


def squares(count: int = 24, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 of pale squares, every one of other random colours."""
    rows, columns = -(-height // 16), -(-width // 16)
    colours = np.random.default_rng(seed).integers(64, 192, (count, rows, columns, 3), np.uint8)
    return np.kron(colours, np.ones((1, 16, 16, 1), np.uint8))[:, :height, :width]


def _several_streams(path: Path) -> Odd:
    """Sound, the video, and a smaller video after it, which is another one."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        videos = {}
        for frames in (squares(), squares(5, 32, 32, seed=1)):
            stream: Any = container.add_stream("libx264", rate=FPS, options=B_FRAMES)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.thread_count = "yuv420p", 1
            videos[stream] = frames
        for packet in _silence(sound):
            container.mux(packet)
        for stream, frames in videos.items():
            for packet in packets(stream, frames, Fraction(1, FPS), range(len(frames))):
                container.mux(packet)
    return Odd(path, squares())
