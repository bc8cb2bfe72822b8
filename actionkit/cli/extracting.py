"""`actionkit extract`: decodes or computes once what is then read many times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from actionkit.cli import extracting_features
from actionkit.cli.arguments import Overrides, Recipe
from actionkit.cli.progress import progress

if TYPE_CHECKING:
    from actionkit.extraction.pictures import Summary
    from actionkit.grammar import Plan

SHOWN = 5  # failures that are printed

extract = typer.Typer(
    help="Stores frames, flow or features of a recipe's videos, read many times faster.\n\n"
    "Killed or interrupted, call the same again: it goes on with the next video. Videos that are "
    "in the store stay as they are, those of another recipe are added, those that failed are "
    "tried again.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Out = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="The store, a folder; made where it is not there."),
]
ShortSide = Annotated[
    int, typer.Option(min=0, help="Pixels of a picture's short side, if larger; 0 = as it is.")
]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Of the JPEG pictures.")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes; default one for each processor core.")
]


@extract.command()
def frames(
    recipe: Recipe,
    out: Out,
    overrides: Overrides = None,
    short_side: ShortSide = 256,
    quality: Quality = 90,
    workers: Workers = None,
) -> None:
    """Stores every frame of all videos of a recipe, as JPEG pictures.

    actionkit extract frames two_stream stores/frames --short-side 256

    Read them in the place of the videos, some ten times faster, for about 5 times their space:

    data.reader: {use: stored_frames, path: stores/frames}
    """
    plan = _plan(recipe, overrides)
    from actionkit.extraction import pictures

    videos = pictures.videos_of(plan)
    storing = pictures.Storing(videos.reader, short_side, quality)
    with progress("frames of videos", left=True) as bar:
        done = pictures.extract(
            out, storing, videos, {}, workers=_count(workers), expect=bar.expect, tick=bar.tick
        )
    _tell(out, done, plan, "frames")


@extract.command()
def flow(
    recipe: Recipe,
    out: Out,
    overrides: Overrides = None,
    short_side: ShortSide = 256,
    quality: Quality = 90,
    workers: Workers = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where tvl1_flow and raft_flow compute.")
    ] = "auto",
) -> None:
    """Stores the optical flow of all videos of a recipe, by the recipe's own method.

    actionkit extract flow two_stream stores/flow --short-side 256

    The method and its options are those of dis_flow, tvl1_flow or raft_flow in the recipe; fields
    lead from every frame to the next one, in pixels of the stored pictures. Read them beside the
    frames, without that transform and flow_stack, and with a sampler of length 1:

    data.reader: {rgb: pyav, flow: {use: stored_flow, path: stores/flow, stack: 10}}
    """
    plan = _plan(recipe, overrides)
    from actionkit.extraction import pictures
    from actionkit.extraction.flow import StoringFlow, device_for, maker_of
    from actionkit.extraction.flow import settings as settings_of

    node = maker_of(plan)
    place = device_for(node, device)
    videos = pictures.videos_of(plan)
    storing = StoringFlow(videos.reader, short_side, quality, node=node, device=place)
    with progress("flow of videos", left=True) as bar:
        done = pictures.extract(
            out,
            storing,
            videos,
            settings_of(node),
            workers=_count(workers),
            spawn=place == "cuda",
            expect=bar.expect,
            tick=bar.tick,
        )
    _tell(out, done, plan, "flow")


extract.command()(extracting_features.features)


def _plan(recipe: str, overrides: list[str] | None) -> Plan:
    """A recipe's text, checked; only what is needed of it is built. Raises RecipeError."""
    from actionkit.recipe import RecipeError
    from actionkit.validate import read

    _, plan, problems = read(recipe, overrides or ())
    if problems:
        raise RecipeError(problems)
    return plan


def _count(workers: int | None) -> int:
    from actionkit.data.module import cpus

    return cpus() if workers is None else workers


def _tell(out: Path, done: Summary, plan: Plan, kind: str) -> None:
    """What was done, and what could not be. Raises TooManyBadClipsError beyond data.max_bad."""
    from actionkit.errors import TooManyBadClipsError
    from actionkit.files import megabytes

    console = Console(soft_wrap=True, highlight=False, markup=False)
    failed = len(done.failures)
    if not done.videos and not failed:
        console.print(f"{out} is finished: it holds all {done.there} videos, nothing was done")
        return
    for failure in done.failures[:SHOWN]:
        console.print(f"  not stored: {failure.name}: {failure.reason}")
    if failed > SHOWN:
        console.print(f"  and {failed - SHOWN} more, all in {out / 'store.json'}")
    before = f", {done.there} were there" if done.there else ""
    console.print(
        f"{out}: {kind} of {done.videos} videos stored ({done.frames} frames, "
        f"{megabytes(done.bytes)}){before}, {failed} failed; {done.seconds:.1f} s"
    )
    everything = done.videos + done.there + failed
    if failed > plan.data.max_bad * everything:
        raise TooManyBadClipsError(
            f"{failed} of {everything} videos could not be stored, and data.max_bad allows a share "
            f"of {plan.data.max_bad:g}; all others are in the store. Repair them and call this "
            "again, take them out of the data set, or raise data.max_bad"
        )
