"""`actionkit frames`: which frames and crops of a video training and evaluation take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actionkit.cli.arguments import Json, Overrides, Recipe

if TYPE_CHECKING:
    from actionkit.builder.data import Stages
    from actionkit.data.look import Look
    from actionkit.grammar import Node, Pipeline, Plan

Video = Annotated[Path, typer.Argument(help="A video file; the recipe's data set is not needed.")]


def frames(
    recipe: Recipe,
    video: Video,
    overrides: Overrides = None,
    epoch: Annotated[int, typer.Option(min=0, help="Which epoch's chance, in training.")] = 0,
    seed: Annotated[
        int | None, typer.Option(help="The run's seed, in training; default the recipe's.")
    ] = None,
    index: Annotated[
        int, typer.Option(min=0, help="The clip's number in the data set, in training.")
    ] = 0,
    views: Annotated[int, typer.Option(min=1, help="Draw so many views at most.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="The picture; default frames-<name of the video>.png here.")
    ] = None,
    json_: Json = False,
) -> None:
    """Draws the frames and crops that training and evaluation take of a video.

    actionkit frames two_stream clip.mp4 --epoch 3

    The video goes the way of every clip, with the same chance, so what is on the sheet is what the
    network sees, before it is normalised. Exit code 1 if the video cannot be read.
    """
    out = out or Path(f"frames-{video.stem}.png")
    if out.suffix.lower() != ".png":
        raise typer.BadParameter("expected a name that ends in .png", param_hint="--out")
    plan, stages = _read(recipe, overrides)
    seed = plan.seed if seed is None else seed
    found = _look(stages, video, epoch, seed, index, views)
    chance = f"epoch {epoch}, seed {seed}, clip {index}"
    _draw(out, f"{plan.name or recipe}: {video.name}", plan, found, chance)
    if json_:
        print(json.dumps({"sheet": str(out), **{n: _row(x) for n, x in found.items()}}, indent=2))
    else:
        _show(out, plan, found)


def _read(recipe: str, overrides: list[str] | None) -> tuple[Plan, Stages]:
    """A recipe's pipelines alone: no data set is looked for and no network is built.

    Raises RecipeError.
    """
    from actionkit.recipe import RecipeError
    from actionkit.validate import read

    _, plan, problems = read(recipe, overrides or (), without="data.dataset")
    from actionkit.builder.components import Components
    from actionkit.builder.data import build_stages

    components = Components()
    stages = build_stages(components, plan.data, ["rgb"])
    problems += components.problems
    if problems:
        raise RecipeError(problems)
    return plan, stages


def _look(
    stages: Stages, video: Path, epoch: int, seed: int, index: int, views: int
) -> dict[str, Look]:
    """What training and evaluation take. Raises RunError for a video that cannot be read."""
    from actionkit.contracts import VideoReadError
    from actionkit.data.look import look
    from actionkit.data.seeds import mix
    from actionkit.errors import RunError

    sources = stages.sources
    assert sources is not None  # noqa: S101  the recipe has no problems
    drawn = mix(seed, epoch, index, 0)  # as Order asks for a clip
    try:
        seen = look(stages.eval, sources, video, train=False, seed=0, views=views)
        return {
            "train": look(stages.train, sources, video, train=True, seed=drawn, views=views),
            "eval": seen,
        }
    except VideoReadError as error:
        raise RunError(str(error)) from error


def _draw(out: Path, title: str, plan: Plan, found: dict[str, Look], chance: str) -> None:
    """Writes the sheet. Raises RunError where that is not possible."""
    import cv2

    from actionkit.data.contact_sheet import Block, draw
    from actionkit.errors import RunError
    from actionkit.files import replacing

    info = found["train"].info
    about = f"{info.width}x{info.height} pixels, {info.frames} frames, {info.fps:.4g} a second, "
    lines = [
        f"{about}{info.seconds:.2f} s",
        "Pale: cut off. Below a step: number and second of its frame; red: not later than all "
        "before it, as where frames repeat, or a short video starts again.",
    ]
    blocks = [
        Block(f"training: {chance}", _parts(plan.data.train), found["train"]),
        Block("evaluation", _parts(plan.data.eval), found["eval"]),
    ]
    picture = cv2.imencode(".png", cv2.cvtColor(draw(title, lines, blocks), cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing(out) as file:
            file.write(picture.tobytes())
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{out} cannot be written: {reason}; choose another --out") from error


def _parts(pipeline: Pipeline) -> list[str]:
    """A pipeline's components, as the recipe has them."""
    lines = [f"sampler: {_written(pipeline.sampler)}"]
    for name, nodes in (("per_sample", pipeline.per_sample), ("per_batch", pipeline.per_batch)):
        if nodes:
            lines.append(f"{name}: {', '.join(map(_written, nodes))}")
    return lines


def _written(node: Node) -> str:
    options = ", ".join(f"{name}: {_value(value)}" for name, value in node.options.items())
    return f"{node.use} {{{options}}}" if options else node.use


def _value(value: Any) -> str:
    from actionkit.grammar import Node

    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _written(value) if isinstance(value, Node) else str(value)


def _row(look: Look) -> dict[str, Any]:
    """All views' indices and seconds, null = padding; of the views drawn, which boxes they see."""
    indices, fps = look.indices.tolist(), look.info.fps
    return {
        "indices": indices,
        "seconds": [[None if i < 0 else round(i / fps, 6) for i in view] for view in indices],
        "boxes": [[b._asdict() for b in dict.fromkeys(view) if b] for view in look.boxes],
    }


def _show(out: Path, plan: Plan, found: dict[str, Look]) -> None:
    from actionkit.data.contact_sheet import describe

    view = Table(pad_edge=False, box=None, header_style="dim")
    for head in ("", "sampler", "views x steps", "frames", "seconds", "sees"):
        view.add_column(head, overflow="fold")
    for (name, look), pipeline in zip(
        found.items(), (plan.data.train, plan.data.eval), strict=True
    ):
        indices = look.indices[look.indices >= 0]
        first, last = indices.min() / look.info.fps, indices.max() / look.info.fps
        view.add_row(
            name,
            pipeline.sampler.use,
            " x ".join(map(str, look.indices.shape)),
            f"{indices.min()} to {indices.max()}, {len(set(indices.tolist()))} different",
            f"{first:.2f} to {last:.2f}",
            describe(look, 0),
        )
    console = Console()
    console.print(view)
    console.print(f"the sheet is {out}", style="dim", highlight=False, soft_wrap=True, markup=False)
