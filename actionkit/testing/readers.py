"""Checks of readers, against small videos that are written on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from actionkit.contracts import Reader, VideoReadError
from actionkit.testing import toy
from actionkit.testing.subject import Subject, open_files, pickle_, require_pickles
from actionkit.testing.verdict import NotConformingError, require

VIDEOS = {"h264.mp4": "libx264", "mpeg4.avi": "mpeg4"}
LEVELS = 2.0  # of 255, on average over a frame: what converting to RGB may differ between libraries


def exact(subject: Subject) -> None:
    """Index i gives the i-th frame of decoding all, in any order, repeated, from any container."""
    reader = subject.make()
    with _videos() as videos:
        for path in videos:
            wanted = toy.decode(path)
            count, height, width = wanted.shape[:3]
            info = reader.probe(path)
            found, true = (info.frames, info.height, info.width), (count, height, width)
            require(
                found == true, f"{path.name}: probe says (frames, H, W) {found}, they are {true}"
            )
            near = abs(info.fps - 25) < 0.1 and abs(info.seconds - count / 25) < 0.1
            require(
                near, f"{path.name}: probe says {info.fps} fps, {info.seconds} s; 25, {count / 25}"
            )
            for indices in _indices(count):
                _require_frames(reader, path, indices, wanted)


def errors(subject: Subject) -> None:
    """What is no whole video, and a missing file, give VideoReadError, which pickles."""
    reader = subject.make()
    with _videos() as (video, avi):
        folder, content = video.parent, video.read_bytes()
        for name, data in {
            "empty.mp4": b"",
            "text.mp4": b"this is no video\n" * 100,
            "noise.avi": np.random.default_rng(0).bytes(5000),
            "truncated.mp4": content[: len(content) // 2],
        }.items():
            (folder / name).write_bytes(data)
        for path in (folder / "missing.mp4", *sorted(folder.iterdir())):
            if path not in (video, avi):
                _require_error(reader, path)


def no_handles(subject: Subject) -> None:
    """No file stays open, neither after reading nor after an error."""
    reader = subject.make()
    with _videos() as (video, _):
        text = video.with_name("text.mp4")
        text.write_text("this is no video")
        before = open_files()
        reader.read(video, np.array([3, 1]))
        _require_error(reader, text)
        left = open_files() - before
        require(not left, f"{len(left)} files stay open after reading: {sorted(left)[:3]}")


@contextmanager
def _videos() -> Iterator[tuple[Path, ...]]:
    """Videos with B-frames: H.264 in MP4, MPEG-4 in AVI, which stores no times."""
    with tempfile.TemporaryDirectory() as folder:
        yield tuple(toy.video(Path(folder) / n, codec=codec) for n, codec in VIDEOS.items())


def _indices(count: int) -> list[np.ndarray]:
    """All, reversed, random, repeated, only the last."""
    everything, rng = np.arange(count), np.random.default_rng(0)
    some = [rng.integers(0, count, n) for n in (1, 3, 5, 8)]
    return [everything, everything[::-1].copy(), *some, np.array([4, 4, 4]), everything[-1:]]


def _require_frames(reader: Reader, path: Path, indices: np.ndarray, wanted: np.ndarray) -> None:
    frames = reader.read(path, indices.astype(np.int64))
    sizes, right = list(frames.shape), [len(indices), 3, *wanted.shape[1:3]]
    require(
        sizes == right and str(frames.dtype) == "torch.uint8",
        f"{path.name}: read gives {frames.dtype} {sizes}, not uint8 {right}",
    )
    for index, frame in zip(indices, frames, strict=True):
        image = frame.permute(1, 2, 0).numpy().astype(np.float32)
        off = np.abs(wanted - image).mean((1, 2, 3))  # [T], from each of the video's frames
        nearest = int(off.argmin())
        require(
            nearest == index, f"{path.name}: of {indices.tolist()}, {index} gives frame {nearest}"
        )
        require(
            off[index] <= LEVELS,
            f"{path.name}: frame {index} is off by {off[index]:.1f} of 255 levels on average",
        )


def _require_error(reader: Reader, path: Path) -> None:
    try:
        count = reader.probe(path).frames
        reader.read(path, np.arange(count))
    except VideoReadError as error:
        same = str(require_pickles(error)) == str(error)
        require(same, f"the error of {path.name} says something else behind pickling")
        require(path.name in str(error), f"the error of {path.name} does not name the file")
        return
    except Exception as error:
        raise NotConformingError(
            f"{path.name} gives {type(error).__name__} ({error}), not VideoReadError"
        ) from error
    raise NotConformingError(f"{path.name} gives {count} frames and no error")


CHECKS = (exact, errors, no_handles, pickle_)
