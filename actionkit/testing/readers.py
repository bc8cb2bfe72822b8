"""Checks of readers, against small videos that are written on the spot, and against the zoo."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actionkit import registry
from actionkit.contracts import Reader, VideoReadError
from actionkit.testing import toy, zoo
from actionkit.testing.subject import Subject, open_files, pickle_, require_pickles
from actionkit.testing.verdict import NotConformingError, require

VIDEOS = {"h264.mp4": "libx264", "mpeg4.avi": "mpeg4"}
FRAMES = zoo.squares()  # of a folder of images
LEVELS = 2.0  # of 255, on average over a frame: what converting to RGB may differ between libraries


def exact(subject: Subject) -> None:
    """Index i gives the i-th frame of decoding all, in any order, repeated, from any container;
    `stream` gives the same ones in turn.

    One of the videos may be refused, by an error that names another reader for it.
    """
    reader, refused = subject.make(), []
    with _videos(reader) as videos:
        for path in videos:
            try:
                frames = FRAMES if reader.folders else toy.decode(path)
                require_right(reader, zoo.Odd(path, frames), path.name, LEVELS)
                _require_stream(reader, path)
            except VideoReadError as error:
                _require_cure(subject, path.name, error)
                refused.append(str(error))
        require(len(refused) < len(videos), f"it reads nothing: {refused}")


def errors(subject: Subject) -> None:
    """What is no whole video gives VideoReadError, which pickles, whatever is wrong with it."""
    reader = subject.make()
    with tempfile.TemporaryDirectory() as folder:
        for path in zoo.bad(Path(folder)).values():
            _require_error(reader, path)


def odd(subject: Subject) -> None:
    """Unusual videos give the right frames, or an error that names another reader for them."""
    reader = subject.make()
    with tempfile.TemporaryDirectory() as folder:
        for name, animal in zoo.odd(Path(folder)).items():
            try:
                require_right(reader, animal, name, zoo.LEVELS)
            except VideoReadError as error:
                _require_cure(subject, name, error)


def _require_cure(subject: Subject, name: str, error: VideoReadError) -> None:
    others = {e.name for e in registry.entries() if e.group == "readers"} - {subject.entry.name}
    cure = others & set(re.findall(r"\w+", error.reason))
    require(cure, f"{name}: the error names no reader that can: {error.reason}")


def no_handles(subject: Subject) -> None:
    """No file stays open, neither after reading nor after an error."""
    reader = subject.make()
    with _videos(reader) as (video, *_):
        text = video.with_name("text.mp4")
        text.write_text("this is no video")
        before = open_files()
        reader.read(video, np.array([3, 1]))
        _require_error(reader, text)
        left = open_files() - before
        require(not left, f"{len(left)} files stay open after reading: {sorted(left)[:3]}")


@contextmanager
def _videos(reader: Reader) -> Iterator[tuple[Path, ...]]:
    """Videos with B-frames: H.264 in MP4, MPEG-4 in AVI, which stores no times; or a folder of
    images for readers of such.
    """
    with tempfile.TemporaryDirectory() as folder:
        if reader.folders:
            yield (toy.images(Path(folder) / "images", FRAMES),)
        else:
            yield tuple(toy.video(Path(folder) / n, codec=codec) for n, codec in VIDEOS.items())


def require_right(reader: Reader, video: zoo.Odd, name: str, levels: float) -> None:
    """Raises VideoReadError where the reader refuses the video, and NotConformingError where what
    it says or gives is wrong.
    """
    info, (count, height, width, _) = reader.probe(video.path), video.frames.shape
    said, true = (info.frames, info.height, info.width), (count, height, width)
    require(said == true, f"{name}: probe says (frames, H, W) {said}, they are {true}")
    fps, seconds = video.fps, count / video.fps
    off = max(abs(info.fps / fps - 1), abs(info.seconds / seconds - 1))
    require(
        off < (0.004 if video.times is None else 0.05),  # a last frame's length is a matter of view
        f"{name}: probe says {info.fps} fps, {info.seconds} s; {fps:.4g}, {seconds:.4g} are right",
    )
    allowed = video.allowed(info)
    for indices in _indices(count):
        frames = reader.read(video.path, indices)
        sizes, right = list(frames.shape), [len(indices), 3, height, width]
        require(
            sizes == right and str(frames.dtype) == "torch.uint8",
            f"{name}: read gives {frames.dtype} {sizes}, not uint8 {right}",
        )
        for index, frame in zip(indices.tolist(), frames, strict=True):
            found, away = nearest(frame, video.frames)
            asked = f"{name}: of {indices.tolist()}, {index} gives frame {found}"
            require(found in allowed[index], asked)
            require(away <= levels, f"{asked}, off by {away:.1f} of 255 levels on average")


def _require_stream(reader: Reader, path: Path) -> None:
    wanted = reader.read(path, np.arange(reader.probe(path).frames))
    for most in (1, 3, 1000):
        parts = list(reader.stream(path, most))
        sizes = [len(part) for part in parts]
        said = f"{path.name}: stream of at most {most} frames gives parts of {sizes[:9]} frames"
        right = sum(sizes) == len(wanted) and all(0 < size <= most for size in sizes)
        require(right, f"{said}, where there are {len(wanted)}")
        same = torch.equal(torch.cat(parts), wanted)
        require(same, f"{said}, which are not those that read gives")


def _indices(count: int) -> list[np.ndarray]:
    """Int64: all, reversed, random, repeated, only the last."""
    everything, rng = np.arange(count), np.random.default_rng(0)
    some = [rng.integers(0, count, n) for n in (1, 3, 5, 8)]
    return [
        everything,
        everything[::-1].copy(),
        *some,
        everything[[count // 3] * 3],
        everything[-1:],
    ]


def nearest(frame: Tensor, frames: np.ndarray) -> tuple[int, float]:
    """Which of `frames` a frame [3, H, W] is most like, and by how many levels it is off."""
    image = frame.permute(1, 2, 0).numpy().astype(np.float32)
    off = np.abs(frames - image).mean((1, 2, 3))
    return int(off.argmin()), float(off.min())


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


CHECKS = (exact, errors, odd, no_handles, pickle_)
