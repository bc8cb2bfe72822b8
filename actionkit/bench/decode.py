"""Readers against each other: first whether their frames are right, then how fast they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from actionkit import registry
from actionkit.bench.clock import Comparison, Row, Run, compare
from actionkit.bench.pictures import scene
from actionkit.contracts import Reader, VideoReadError
from actionkit.data.readers.container import Limits
from actionkit.data.readers.table import Table, table
from actionkit.testing.toy import write_video

LIMITS = Limits(8192 * 8192, 10_000_000, None, 30.0)
MOST_BYTES = 2**29  # of all frames together: of a longer video the first so many are read
LEVELS = 2.0  # of 255, on average over a frame: what converting to RGB may differ between libraries
REFERENCE = "pyav"  # the reader whose frames say what an index means
LIMIT = "limit (FFmpeg)"
BARE = "decord, bare"
Read = Callable[[np.ndarray], np.ndarray]  # indices [N] -> uint8 [N, 3, H, W]


class Kind(NamedTuple):
    """A video that is written on the spot."""

    name: str
    codec: str
    frames: int
    size: tuple[int, int]  # height, width
    options: Mapping[str, str]


X264 = {"preset": "medium", "sc_threshold": "0", "bf": "3"}
KINDS = (
    Kind("mpeg4-320x240.avi", "mpeg4", 164, (240, 320), {"g": "300", "bf": "2", "b": "800k"}),
    Kind("h264-gop12-340x256.mp4", "libx264", 300, (256, 340), {**X264, "g": "12"}),
    Kind("h264-gop250-340x256.mp4", "libx264", 300, (256, 340), {**X264, "g": "250"}),
    Kind("h264-gop250-640x360.mp4", "libx264", 300, (360, 640), {**X264, "g": "250"}),
)


def write_videos(folder: Path, kinds: Sequence[Kind] = KINDS) -> Iterator[Path]:
    """Writes the videos that are measured where none are given."""
    for kind in kinds:
        frames = scene(kind.frames, *kind.size)
        yield write_video(folder / kind.name, frames, codec=kind.codec, options=kind.options)


def readers() -> tuple[dict[str, Reader], list[str]]:
    """Every registered reader that works here, and of the others why they do not."""
    found: dict[str, Reader] = {}
    notes = []
    for entry in (e for e in registry.entries() if e.group == "readers"):
        name = entry.name if entry.name not in found else f"{entry.distribution}:{entry.name}"
        try:
            found[name] = registry.load(entry)()
        except Exception as error:  # a plugin may raise anything
            notes.append(f"left out: {name}: {error}")
    return found, notes


def patterns(frames: int) -> dict[str, np.ndarray]:
    """Which frames clips take: spread (u), dense with a stride of 2 (d), and all; int64 [N]."""
    spread = {f"u{n}": np.linspace(0, frames - 1, n).round() for n in (8, 25)}
    dense = {}
    for n in (16, 32):
        start = max(0, (frames - 2 * n) // 2)
        dense[f"d{n}x2"] = (start + 2 * np.arange(n)).clip(max=frames - 1)
    chosen = {**spread, **dense, "all": np.arange(frames)}
    return {name: indices.astype(np.int64) for name, indices in chosen.items()}


def decode(
    path: Path, tested: Mapping[str, Reader], rounds: int, tick: Run | None = None
) -> list[Comparison]:
    """A comparison for each pattern. Raises VideoReadError for what `pyav` cannot read.

    Every reader's frames must equal those that it gives from first to last, and be the frames that
    `pyav` means by the same indices; one whose are not is not timed. The first variant is decord
    itself, without our checks, where it is installed.
    """
    info = tested[REFERENCE].probe(path)
    frames = max(1, min(info.frames, MOST_BYTES // (3 * info.height * info.width)))
    about = f"{path.name}: {info.width}x{info.height}, {frames} of {info.frames} frames"
    everything = np.arange(frames)
    reference = _of(tested[REFERENCE], path)(everything)
    reads = {name: _of(reader, path) for name, reader in tested.items()}
    if (bare := _bare_decord(path)) is not None:
        reads = {BARE: bare, **reads}
    wanted = patterns(frames)
    wrong = {name: _wrong(read, wanted, reference) for name, read in reads.items()}
    known = table(path, LIMITS)
    found = []
    for pattern, indices in wanted.items():
        variants: dict[str, Run] = {
            name: _calls(read, indices) for name, read in reads.items() if not wrong[name][pattern]
        }
        with av.open(str(path)) as container:
            limit = Physical(container, known, indices.tolist())
            rows = compare({**variants, LIMIT: limit}, rounds, tick=tick)
        cpu = rows[-1].cpu or 0
        for row in rows[:-1]:
            row.facts = {"frames": "exact", "of limit": cpu / row.cpu if row.cpu else None}
        rows[-1].ratio = None  # it is no reader
        rows[-1].facts = {"frames": f"decodes {limit.forced} of {frames}", "of limit": 1.0}
        rows += [
            Row(name, facts={"frames": why[pattern], "of limit": None})
            for name, why in wrong.items()
            if why[pattern]
        ]
        found.append(Comparison(f"{pattern}, {len(indices)} frames", rows, about))
    return found


def measurements(tested: Mapping[str, Reader], videos: int, rounds: int) -> int:
    """At most how often `decode` will tick."""
    return videos * len(patterns(1)) * (len(tested) + 2) * (rounds + 1)


class Physical:
    """What no reader that decodes whole groups can beat: FFmpeg decodes, one after the other, the
    frames from the keyframes before the wanted ones on, and the wanted ones become RGB.

    The file is open already. A reader may still be faster, by skipping frames that no other needs.
    """

    def __init__(self, container: Any, known: Table, wanted: list[int]) -> None:
        self._container, self._table, self._wanted = container, known, set(wanted)
        self._stream = container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._reformatter = VideoReformatter()
        keys = np.array([*(known.keys if known.timed else ()), 0])
        self.runs: dict[int, int] = {}  # frame to start at -> the last that is wanted behind it
        for index in sorted(self._wanted):
            self.runs[int(keys[keys <= index].max())] = index
        self.forced = sum(last - start + 1 for start, last in self.runs.items())

    def __call__(self) -> None:
        """Decodes them once."""
        for start, last in self.runs.items():
            timed = self._table.timed
            place = self._table.times[start] if timed else self._stream.start_time or 0
            self._container.seek(place, stream=self._stream)
            number = start
            for frame in self._container.decode(self._stream):
                if timed and frame.pts < place:
                    continue
                if number in self._wanted:
                    self._reformatter.reformat(frame, format="rgb24", threads=1)
                if number == last:
                    break
                number += 1


def _of(reader: Reader, path: Path) -> Read:
    return lambda indices: reader.read(path, indices).numpy()


def _calls(read: Read, indices: np.ndarray) -> Run:
    return lambda: read(indices)


def _bare_decord(path: Path) -> Read | None:
    """The library decord itself; None where it is not installed."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)

    def read(indices: np.ndarray) -> np.ndarray:
        video = decord.VideoReader(str(path), num_threads=1)
        return video.get_batch(indices.tolist()).asnumpy().transpose(0, 3, 1, 2)

    return read


def _wrong(read: Read, wanted: Mapping[str, np.ndarray], reference: np.ndarray) -> dict[str, str]:
    """For each pattern what is wrong with a reader's frames; empty if nothing is."""
    try:
        own = read(np.arange(len(reference)))
        if strange := _other_frame(own, reference):
            return dict.fromkeys(wanted, strange)
        return {name: _off(read(indices), own[indices]) for name, indices in wanted.items()}
    except VideoReadError as error:
        return dict.fromkeys(wanted, f"refused: {error.reason}")
    except Exception as error:  # decord's have no base class of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return dict.fromkeys(wanted, f"refused: {reason}")


def _off(got: np.ndarray, right: np.ndarray) -> str:
    if got.shape != right.shape:
        return f"WRONG: {len(got)} frames of {got.shape[2:]}"
    most = int(np.abs(got.astype(np.int16) - right).max())
    return f"WRONG: off by up to {most} from its own sequence" if most else ""


def _other_frame(own: np.ndarray, reference: np.ndarray) -> str:
    """Which index first gives another frame than it should; empty if none does.

    A frame is right if it is the same, or nearly so and no nearer to a neighbour of the right one.
    """
    if own.shape != reference.shape:
        return f"WRONG: {own.shape[0]} frames of {own.shape[2:]}"
    for index, frame in enumerate(own):
        if np.array_equal(frame, reference[index]):
            continue
        near = range(max(0, index - 2), min(len(own), index + 3))
        away = {i: float(np.abs(reference[i].astype(np.int16) - frame).mean()) for i in near}
        best = min(away, key=lambda i: away[i])
        if away[index] > min(LEVELS, away[best]):
            return f"WRONG: index {index} gives frame {best}"
    return ""
