"""Videos encoded anew, with a keyframe every few frames: of a clip, less is decoded in vain.

A new file holds what a reader gives of the old one, index by index: upright, evenly spaced at the
mean rate, as H.264 in an MP4 container, without sound.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, get_args

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from actionkit.bench.clock import compare, one_thread
from actionkit.bench.decode import patterns
from actionkit.contracts import Dataset, Info, Kind, Reader, VideoReadError
from actionkit.data.datasets.files import find_videos
from actionkit.data.datasets.folder import SUFFIXES
from actionkit.data.jobs import in_turn
from actionkit.data.readers.pyav import PyAV
from actionkit.data.stores.folder import Failure, Store
from actionkit.errors import NoRoomError, RunError
from actionkit.files import free_bytes, megabytes, remove_unfinished, replacing

if TYPE_CHECKING:
    from actionkit.builder import Blueprint

KIND = "videos"  # of the store
MAX_BAD = 0.01  # share of unreadable files of a folder, as data.max_bad is by default
PART = 2**25  # bytes of frames in memory at once
FINE = 100_000  # a rate is a fraction of at most this denominator: 30000/1001 is met exactly
THUMB, NEAR = 8, 10.0  # pixels and levels of 255: how near a frame must come back, seen from afar


class Settings(NamedTuple):
    """How videos are encoded."""

    gop: int = 12  # frames from one keyframe to the next
    crf: int = 20  # x264's constant quality, 0 (lossless) to 51
    preset: str = "veryfast"  # x264's: slower makes smaller files
    short_side: int = 256  # pixels, even; what is larger is scaled down. 0 = nothing is
    suffix: str = ""  # of the new names; empty = names stay as they are
    tune: str = "fastdecode"  # x264's: reading takes up to half as long, files grow by a tenth


class Video(NamedTuple):
    """A video to be encoded."""

    reader: Reader
    path: Path
    name: str  # below the root


class Job(NamedTuple):
    """All videos of a source."""

    videos: list[Video]
    root: Path  # absolute, what names are relative to
    readers: dict[str, Any]  # as a recipe has them, by modality
    max_bad: float = MAX_BAD  # share of unreadable videos beyond which the work has failed
    whole: bool = True  # whether the source is all that lies below the root


class Done(NamedTuple):
    """What became of a video."""

    name: str
    seconds: float = 0.0
    before: int = 0  # bytes
    after: int = 0
    error: str = ""  # why there is no new file
    refused: str = ""  # what the disk says; it would say so of any other file


class UnsoundError(Exception):
    """A new file is not what it should be; carries why."""


# --------------------------------------------------------------------------------- what to encode


def job_of_path(path: Path) -> Job:
    """A file, or all below a folder that are named like videos, hidden ones left out.

    Raises RunError where there is none.
    """
    root = Path(os.path.abspath(path if path.is_dir() else path.parent))
    found = (Path(os.path.abspath(video)) for video in find_videos([path]))
    names = [v.relative_to(root) for v in found if v == path.absolute() or not v.is_dir()]
    reader, shown = PyAV(), [n for n in names if not any(p.startswith(".") for p in n.parts)]
    if not shown:
        raise RunError(f"{path} holds no video but hidden ones; name one of them by itself")
    videos = [Video(reader, root / name, name.as_posix()) for name in shown]
    return Job(videos, root, {"": {"use": "pyav"}}, whole=path.is_dir())


def job_of_recipe(found: Blueprint) -> Job:
    """All files of all splits of a recipe's data set that its readers read as RGB frames.

    Names are relative to the data set's `root`, or without that option to the folder that holds all
    files. Raises RunError where nothing is read as RGB frames, or a file is not below the root.
    """
    assert found.stages is not None and found.stages.sources is not None  # noqa: S101, PT018
    data = found.plan.data
    readers: dict[Path, Reader] = {}
    for record in _records(found.datasets.values()):
        for modality, (reader, path) in found.stages.sources.of(record).items():
            named = modality if modality in get_args(Kind) else "rgb"
            if (reader.kind or named) == "rgb":
                readers.setdefault(Path(os.path.abspath(path)), reader)
    if not readers:
        raise RunError("the recipe reads no videos as rgb frames, so there is nothing to transcode")
    root = _root(list(readers), data.dataset.options.get("root"))
    videos = [Video(r, path, path.relative_to(root).as_posix()) for path, r in readers.items()]
    nodes = {m: {"use": node.use, **node.options} for m, node in data.reader.items()}
    return Job(videos, root, nodes, data.max_bad)


def _records(datasets: Iterable[Dataset]) -> Iterator[Any]:
    for dataset in datasets:
        dataset.prepare()
        yield from (dataset[i] for i in range(len(dataset)))


def _root(paths: Sequence[Path], option: Any) -> Path:
    """The data set's root as its paths are written, or the folder that holds all of them."""
    if option is None:
        return Path(os.path.commonpath([path.parent for path in paths]))
    for root in (Path(option).resolve(), Path(os.path.abspath(option))):
        strange = next((path for path in paths if not path.is_relative_to(root)), None)
        if strange is None:
            return root
    raise RunError(
        f"{strange} does not lie in the data set's root, {option}, so it would not be found below "
        "another one; give the folder of the videos in the place of the recipe"
    )


# ---------------------------------------------------------------------------------------- the work


def begin(job: Job, out: Path, settings: Settings) -> tuple[Store, list[Video]]:
    """The folder with its note, and the videos that are not there yet, under their new names.

    Raises RunError where `out` lies in the source, holds something else or videos of other
    settings, or where two videos would get one name; NoRoomError where it cannot be written.
    """
    _require_apart(job, out)
    videos = _named(job.videos, settings.suffix)
    values = {**settings._asdict(), "readers": job.readers}
    try:
        store = Store.begin(out, KIND, values, job.root)
        for folder in {(out / video.name).parent for video in videos} - {out}:
            if folder.is_dir():
                remove_unfinished(folder)
    except OSError as error:
        raise NoRoomError(_refusal(out, error)) from error
    return store, [video for video in videos if not (out / video.name).is_file()]


def _require_apart(job: Job, out: Path) -> None:
    root, target = job.root.resolve(), out.resolve()
    if target == root or (job.whole and target.is_relative_to(root)):
        raise RunError(
            f"{out} lies in {job.root}, whose videos are read; choose a folder outside of it"
        )


def _named(videos: Sequence[Video], suffix: str) -> list[Video]:
    """The videos under their new names. Raises RunError where two get the same."""
    named: dict[str, Video] = {}
    for video in videos:
        stem, old = os.path.splitext(video.name)
        name = (stem if old.lower() in SUFFIXES else video.name) + suffix if suffix else video.name
        if twin := named.get(name):
            raise RunError(
                f"{twin.path} and {video.path} would both become {name}; leave out --suffix"
            )
        named[name] = video
    return [video._replace(name=name) for name, video in named.items()]


def run(store: Store, todo: Sequence[Video], settings: Settings, workers: int) -> Iterator[Done]:
    """Encodes videos, by so many processes of one thread, and notes at the end which failed.

    Raises NoRoomError where a file cannot be written.
    """
    failures = []
    work = Encoder(store.path, settings)
    with closing(in_turn(work, todo, min(workers, len(todo)))) as results:
        for done in results:
            if done.refused:
                raise NoRoomError(done.refused)
            if done.error:
                failures.append(Failure(done.name, done.error))
            yield done
    try:
        store.finish(failures)
    except OSError as error:
        raise NoRoomError(_refusal(store.path, error)) from error


class Encoder:
    """Encodes a video into a folder. It pickles, and needs memory for a few frames only."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self.out, self.settings = out, settings

    def __call__(self, video: Video) -> Done:
        """A file whole and checked, or none."""
        path = self.out / video.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            info = video.reader.probe(video.path)
            with replacing(path) as file:
                expected, ends = _encode(video, info, self.settings, file)
                file.flush()
                _check(Path(file.name), expected, ends, self.settings.crf)
        except VideoReadError as error:
            return Done(video.name, error=str(error))
        except (UnsoundError, av.FFmpegError) as error:
            return Done(video.name, error=f"{video.path}: as H.264, {error}")
        except OSError as error:
            needed = f"the file it is made of has {megabytes(_size(video.path))}"
            return Done(video.name, refused=_refusal(path, error, needed))
        before, after = _size(video.path), path.stat().st_size
        return Done(video.name, info.seconds, before, after)


def _refusal(path: Path, error: OSError, needed: str = "") -> str:
    """Why a path cannot be written."""
    free = f"{megabytes(free_bytes(path))} are free" + (f", and {needed}" if needed else "")
    return (
        f"{path} cannot be written: {error.strerror or error}; {free}. Make room, or set it right, "
        "and call the same again: it goes on where it was"
    )


def _size(path: Path) -> int:
    """The bytes of a file, or of the images in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def gain(videos: Sequence[Video], out: Path) -> float:
    """How many times as fast clips of new files are read, by processor time: the median of dense
    and of spread clips of these videos. Raises VideoReadError.
    """
    ratios = []
    with one_thread():
        for video in videos:
            reader = PyAV() if video.reader.folders else video.reader
            clips = patterns(video.reader.probe(video.path).frames)
            for indices in (clips["d16x2"], clips["u8"]):
                before = partial(video.reader.read, video.path, indices)
                after = partial(reader.read, out / video.name, indices)
                *_, row = compare({"before": before, "after": after}, rounds=3, least=0.01)
                ratios.append(row.ratio or 1.0)
    return median(ratios)


# -------------------------------------------------------------------------------------- one video


def _encode(
    video: Video, info: Info, settings: Settings, file: BinaryIO
) -> tuple[Info, list[np.ndarray]]:
    """Writes a video. Returns what it must be, and its first and last frame, uint8 [H, W, 3].

    Raises VideoReadError, UnsoundError, FFmpegError, or OSError where the disk is full.
    """
    height, width = even_size(info.height, info.width, settings.short_side)
    rate = Fraction(info.fps).limit_denominator(FINE)
    if not rate:
        raise UnsoundError(f"{info.fps:g} frames a second are too few")
    reformatter, count = VideoReformatter(), 0
    ends: list[av.VideoFrame] = []
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=_options(settings))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.thread_count = 1
        stream.codec_context.time_base = 1 / rate
        for image in _images(video, info):
            rgb = av.VideoFrame.from_ndarray(_fit(image, height, width), format="rgb24")
            frame = reformatter.reformat(rgb, format="yuv420p", threads=1)
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count, ends = count + 1, [*ends[:1], frame]
        container.mux(stream.encode())
    if count != info.frames:
        raise UnsoundError(f"the reader gives {count} of {info.frames} frames")
    first, last = (frame.to_ndarray(format="rgb24") for frame in (ends[0], ends[-1]))
    return Info(count, info.fps, info.seconds, height, width), [first, last]


def _options(settings: Settings) -> dict[str, str]:
    return {
        "preset": settings.preset,
        "tune": settings.tune,
        "crf": str(settings.crf),
        "g": str(settings.gop),
        "sc_threshold": "0",  # a cut is no keyframe, so that they lie as they were asked for
        "mbtree": "0",  # with it, AVX-512 code of x264 now and then makes other bytes of the same
        "flags": "+cgop",
        "colorspace": "smpte170m",  # what swscale makes of RGB by default; told, it is not guessed
        "color_range": "tv",
    }


def even_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The size of the new frames; 4:2:0 chroma takes even ones only."""
    scale = short_side / min(height, width)
    if 0 < scale < 1:
        return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))  # type: ignore[return-value]
    return height + height % 2, width + width % 2


def _images(video: Video, info: Info) -> Iterator[np.ndarray]:
    """All frames, uint8 [H, W, 3]."""
    most = max(1, min(64, PART // (3 * info.height * info.width)))
    for part in video.reader.stream(video.path, most):
        yield from part.permute(0, 2, 3, 1).numpy()


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image [H, W, 3] in a size: one of odd sides gets its last row or column twice."""
    down, right = height - image.shape[0], width - image.shape[1]
    if down in (0, 1) and right in (0, 1):
        return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _check(path: Path, expected: Info, ends: Sequence[np.ndarray], crf: int) -> None:
    """Reads a new file. Raises UnsoundError where it is not what was to be written."""
    reader, near = PyAV(), NEAR + 0.5 * 2 ** ((crf - 12) / 6)  # x264's quantizer doubles every 6
    try:
        info = reader.probe(path)
        if info._replace(fps=expected.fps, seconds=expected.seconds) != expected:
            raise UnsoundError(f"it comes back as {info}, not {expected}")
        if abs(info.fps - expected.fps) > 1e-6 * expected.fps:
            raise UnsoundError(f"its rate comes back as {info.fps:.10g}, not {expected.fps:.10g}")
        back = reader.read(path, np.array([0, info.frames - 1]))
    except VideoReadError as error:
        raise UnsoundError(f"it cannot be read back: {error.reason}") from error
    for name, one, other in zip(("first", "last"), ends, back, strict=True):
        away = float(np.abs(_thumb(one) - _thumb(other.permute(1, 2, 0).numpy())).mean())
        if away > near:
            raise UnsoundError(f"its {name} frame comes back {away:.1f} levels of 255 away")


def _thumb(image: np.ndarray) -> np.ndarray:
    """Seen from afar, where the loss of coding does not show, float32 [8, 8, 3]."""
    return cv2.resize(image.astype(np.float32), (THUMB, THUMB), interpolation=cv2.INTER_AREA)
