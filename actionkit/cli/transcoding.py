"""`actionkit transcode`: a data set's videos, encoded so that clips are decoded faster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from actionkit.cli.arguments import Overrides, checked
from actionkit.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actionkit.extraction.transcoding import Done, Job, Video

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower",
           "veryslow")  # fmt: skip
SHOWN = 5  # failures
TIMED = 3  # videos, the first that are done
WORTH_IT = 1.15  # how many times as fast is a difference


def transcode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of videos, a video, or a recipe for the whole of its data set.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The folder to write: new, empty, or begun before."),
    ],
    overrides: Overrides = None,
    gop: Annotated[int, typer.Option(min=1, help="Frames from a keyframe to the next.")] = 12,
    crf: Annotated[
        int, typer.Option(min=0, max=51, help="x264's quality: less is better and larger.")
    ] = 20,
    preset: Annotated[
        str, typer.Option(help=f"x264's, slower makes smaller: {', '.join(PRESETS)}.")
    ] = "veryfast",
    short_side: Annotated[
        int, typer.Option(min=0, help="Scale larger videos down to it; 0 leaves sizes alone.")
    ] = 256,
    suffix: Annotated[
        str, typer.Option(help="Name the new files so, as .mp4; by default names stay.")
    ] = "",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes, of one thread each; default all cores.")
    ] = None,
) -> None:
    """Encodes videos anew, with short GOPs: clips of most data sets are read 2 to 6 times as fast.

    actionkit transcode my_recipe.yaml small data.dataset.root=videos

    MPEG-4 in AVI files, as in UCF101, is such a simple codec that it is read faster as it is: the
    first videos are timed, and where it is not worth it you are told.

    OUT gets the same names below the data set's root (for a folder, below it), so the lists stay
    right and data.dataset.root=OUT is all that changes. Every file is H.264 in an MP4 container,
    whatever its name ends in: players and readers look into it. Programs that go by the name need
    --suffix .mp4, and lists to match.

    Frame i is frame i of the old file, as the recipe's reader counts (pyav for folders): upright
    and evenly spaced. An odd height or width gets one more row or column. Sound is left out. Only
    videos are written: name lists that lie in the old root, as in data.dataset.lists=OLD/lists.

    Every file is checked before it takes its place. Call the same again after an interruption: what
    is there is skipped. Videos that cannot be read are named, and noted in OUT/store.json; exit
    code 4 if they are more than data.max_bad (for folders a share of 0.01), 3 if the disk is full.
    """
    _require_sound(preset, short_side, suffix)
    recipe = not Path(source).exists() or source.endswith((".yaml", ".yml"))
    if not recipe and overrides:
        raise typer.BadParameter("values can be changed of a recipe only", param_hint="KEY=VALUE")
    found = checked(source, overrides, trained=True) if recipe else None
    from actionkit.data.module import cpus
    from actionkit.extraction import transcoding as room

    job = room.job_of_path(Path(source)) if found is None else room.job_of_recipe(found)
    settings = room.Settings(gop, crf, preset, short_side, suffix)
    store, todo = room.begin(job, out, settings)
    started = time.monotonic()
    work = room.run(store, todo, settings, cpus() if workers is None else workers)
    done, times = _watch(work, todo, out)
    _show(job, out, done, time.monotonic() - started)
    if times is not None:
        Console().print(_verdict(times), highlight=False, soft_wrap=True, markup=False)
    if found is not None:
        _tell_next(out, job, rooted="root" in found.plan.data.dataset.options)
    _require_few_bad(job, done)


def _require_sound(preset: str, short_side: int, suffix: str) -> None:
    """Raises BadParameter for what x264, or a data set, cannot take."""
    from actionkit.data.datasets.folder import SUFFIXES

    if preset not in PRESETS:
        raise typer.BadParameter(f"expected one of {', '.join(PRESETS)}", param_hint="--preset")
    if short_side % 2:
        raise typer.BadParameter("expected an even number of pixels", param_hint="--short-side")
    if suffix and suffix not in SUFFIXES:
        expected = f"expected one of a video's, {' '.join(SUFFIXES)}"
        raise typer.BadParameter(expected, param_hint="--suffix")


def _watch(
    work: Iterator[Done], todo: Sequence[Video], out: Path
) -> tuple[list[Done], float | None]:
    """All that is done, and how many times as fast clips are read; shows the time it takes.

    Says as soon as some are done where the rest is not worth it.
    """
    from actionkit.extraction.transcoding import gain

    all_done: list[Done] = []
    good: list[Video] = []
    times = None
    with progress("encoding videos", len(todo), left=True) as bar:
        for video, done in zip(todo, work, strict=True):
            all_done.append(done)
            bar.tick()
            good += [] if done.error else [video]
            last = len(all_done) == len(todo)
            if times is None and good and (last or len(good) == TIMED):
                times = gain(good, out)
                if times < WORTH_IT and not last:
                    bar.print(f"{_verdict(times)}; Ctrl+C ends this")
    return all_done, times


def _verdict(times: float) -> str:
    """What it is worth, in words."""
    if times >= WORTH_IT:
        return f"clips are read {times:.1f} times as fast as before"
    if times > 1 / WORTH_IT:
        return "clips are read as fast as before: the old files will do"
    return f"clips take {1 / times:.1f} times as long to read as before: keep the old files"


def _show(job: Job, out: Path, done: Sequence[Done], seconds: float) -> None:
    """What was done and what it is worth, and the first failures by name."""
    from actionkit.files import megabytes

    console = Console(highlight=False, soft_wrap=True, markup=False)
    bad, good = [d for d in done if d.error], [d for d in done if not d.error]
    before, after = sum(d.before for d in good), sum(d.after for d in good)
    for failed in bad[:SHOWN]:
        console.print(f"  failed: {failed.error}")
    if len(bad) > SHOWN:
        console.print(f"  and {len(bad) - SHOWN} more, in {out / 'store.json'}")
    there = len(job.videos) - len(done)
    text = f"{len(good)} of {len(job.videos)} videos encoded"
    console.print(text + (f", {there} were there already" if there else ""))
    if good:
        length = sum(d.seconds for d in good)
        console.print(
            f"{length:,.0f} s of video, {megabytes(before)} before, {megabytes(after)} after "
            f"({after / before:.2f} of it), in {seconds:,.0f} s"
        )


def _tell_next(out: Path, job: Job, *, rooted: bool) -> None:
    reader = " data.reader=pyav" if any(v.reader.folders for v in job.videos) else ""
    text = f"to read them: data.dataset.root={out}{reader}"
    if not rooted:
        text = f"names are those below {job.root}{reader and f'; read them by{reader}'}"
    Console().print(text, style="dim", highlight=False, soft_wrap=True, markup=False)


def _require_few_bad(job: Job, done: Sequence[Done]) -> None:
    from actionkit.errors import TooManyBadClipsError

    bad = sum(bool(d.error) for d in done)
    if bad > job.max_bad * len(job.videos):
        raise TooManyBadClipsError(
            f"{bad} of {len(job.videos)} videos could not be encoded, more than a share of "
            f"{job.max_bad:g}; repair them or take them out, and call the same again"
        )
