"""Checks of parts: sizes and masks are what `out` promises, and what cannot be taken is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from actionkit.contracts import Shape
from actionkit.testing.bench import Bench, Shapes, outs, require_out, written
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import NotConformingError, require

TRIED_STEPS = (1, 2, 7)


def meta(subject: Subject) -> None:
    """Builds on the meta device, with the same `out` as elsewhere."""
    bench = Bench.of(subject)
    with torch.device("meta"):
        part = bench.build(bench.shapes)
    tensors = {**dict(part.named_parameters()), **dict(part.named_buffers())}
    real = [name for name, tensor in tensors.items() if not tensor.is_meta]
    require(not real, f"on the meta device these have memory all the same: {', '.join(real)}")
    there, here = outs(part), outs(bench.part())
    require(there == here, f"out is {there} on the meta device, but {here} elsewhere")


def shape_is_true(subject: Subject) -> None:
    """For clips of 1, 2 and 7 steps, where it takes them, sizes are those of `out`; None = free."""
    bench = Bench.of(subject)
    others = [s for s in _lengths(bench.shapes) if s != bench.shapes and _builds(bench, s)]
    for shapes in (bench.shapes, *others):
        part = bench.build(shapes)
        for train in (True, False):
            results = bench.run(part.train(train), bench.full(shapes))
            require_out(part, results, written(shapes))
            for features in results.values():
                require(features.x.is_floating_point(), f"x is {features.x.dtype}, no float")


def mask_is_true(subject: Subject) -> None:
    """The mask is bool [B, T'] for x [B, T', ...]; a full clip stays full, an empty one empty."""
    bench = Bench.of(subject)
    part = bench.part()
    full, mixed = bench.run(part, bench.full()), bench.run(part, bench.inputs())
    for features in (*full.values(), *mixed.values()):
        mask, steps = features.mask, list(features.x.shape[:2])
        require(mask.dtype == torch.bool, f"the mask is {mask.dtype}, not bool")
        require(list(mask.shape) == steps, f"the mask is {list(mask.shape)}, but x has {steps}")
    for features in full.values():
        lost = int((~features.mask).sum())
        require(lost == 0, f"of clips without padding {lost} steps leave as padding")
    for features in mixed.values():
        made = int(features.mask[-1].sum())
        require(made == 0, f"a clip of padding only leaves with {made} real steps")


def refuses(subject: Subject) -> None:
    """What it cannot take it refuses when built, by a ValueError that names the size that came."""
    bench = Bench.of(subject)
    for shapes in _oddities(bench.shapes):
        given = written(shapes)
        try:
            part = bench.build(shapes)
        except ValueError as error:
            _require_sentence(str(error), shapes)
            continue
        except NotConformingError:
            raise
        except Exception as error:
            raise NotConformingError(
                f"refuses {given} by {type(error).__name__} ({error}); raise a ValueError"
            ) from error
        known = {
            name: Shape(*(n or m for n, m in zip(shape, bench.shapes[name], strict=True)))
            for name, shape in shapes.items()
        }
        try:
            results = bench.run(part.eval(), bench.full(known))
        except Exception as error:
            raise NotConformingError(
                f"is built for {given}, but its forward then raises {type(error).__name__}: "
                f"{error}; refuse it in the constructor"
            ) from error
        require_out(part, results, given)


def _lengths(shapes: Shapes) -> list[Shapes]:
    """The shapes with other numbers of steps."""
    shortest = min(shape.steps or 1 for shape in shapes.values())
    return [
        {n: s._replace(steps=steps * (s.steps or 1) // shortest) for n, s in shapes.items()}
        for steps in TRIED_STEPS
    ]


def _builds(bench: Bench, shapes: Shapes) -> bool:
    try:
        bench.build(shapes)
    except ValueError:
        return False
    return True


def _oddities(shapes: Shapes) -> Iterator[Shapes]:
    """Vectors, maps, sizes that vary, and streams that do not fit together."""
    for change in (
        {"channels": 8, "height": 1, "width": 1},
        {"channels": 8, "height": 4, "width": 6},
        {"steps": None},
        {"channels": None},
        {"height": None, "width": None},
    ):
        yield {name: shape._replace(**change) for name, shape in shapes.items()}
    if len(shapes) > 1:
        *first, last = shapes
        for size in ("steps", "channels", "height", "width"):
            odd = shapes[last]._replace(**{size: getattr(shapes[last], size) + 3})
            yield {**{name: shapes[name] for name in first}, last: odd}


def _require_sentence(text: str, shapes: Shapes) -> None:
    """A refusal is the rest of a sentence that names what came."""
    given = written(shapes)
    require(text[:1].islower(), f"refuses {given} by {text!r}, which starts in no lower case")
    words = {str(n) if n else r"\?|varie|varying|None|\bany\b" for s in shapes.values() for n in s}
    named = re.search("|".join(rf"(?<![0-9])(?:{word})(?![0-9])" for word in words), text)
    require(named, f"refuses {given} by {text!r}, which does not name the size that came")


CHECKS = (meta, shape_is_true, mask_is_true, refuses)
