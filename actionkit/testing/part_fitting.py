"""Checks of parts that learn without gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from actionkit.contracts import Fits, Fitting
from actionkit.testing import toy
from actionkit.testing.bench import Bench, require_same_real_steps
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import require, require_equal

BATCHES, CLIPS = 4, 20


class _Batches:
    """Toy clips of every class in several groups, some without a label, with padding."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.passes = bench, 0

    def __iter__(self) -> Iterator[Fitting]:
        self.passes += 1
        for i in range(BATCHES):
            inputs = {}
            for name, shape in self.bench.shapes.items():
                steps = shape.steps or toy.STEPS[0]
                mask = toy.masks(steps)[:1].expand(CLIPS, steps)
                inputs[name] = toy.features(shape, mask, seed=i)
            target = torch.arange(CLIPS) % len(toy.CLASSES)
            target[-1] = -1
            features = inputs if self.bench.many else next(iter(inputs.values()))
            yield Fitting(features, target, [f"g{clip % 7}" for clip in range(CLIPS)])


def fitting(subject: Subject) -> None:
    """What learns without gradients has no parameters, learns the same each time, and what it has
    learnt lies in buffers whose sizes were known, so that it is saved with the rest.
    """
    bench = Bench.of(subject)
    part, again, fresh = (bench.build(bench.shapes, seed=seed) for seed in (1, 1, 2))
    if not isinstance(part, Fits):
        return
    require(part.fits in ("before", "after"), f"fits is {part.fits!r}, not 'before' or 'after'")
    require(not list(part.parameters()), "has parameters, which are trained by gradients")
    sizes = {name: x.shape for name, x in part.state_dict().items()}
    for one in (part, again):
        said = one.fit_from(_Batches(bench))  # type: ignore[operator]
        require(isinstance(said, str) and bool(said), "fit_from does not say what was found")
    learnt = part.state_dict()
    require({n: x.shape for n, x in learnt.items()} == sizes, "fit_from changes sizes of buffers")
    for name, value in again.state_dict().items():
        require_equal(value, learnt[name], f"{name} of two fits to the same clips")
    fresh.load_state_dict(learnt)
    inputs = bench.inputs()
    wanted = bench.run(part.eval(), inputs)
    require_same_real_steps(bench.run(fresh.eval(), inputs), wanted, "loaded")
    _require_change(bench, part, wanted)


def _require_change(bench: Bench, part: nn.Module, fitted: dict) -> None:
    start = bench.run(bench.build(bench.shapes, seed=1).eval(), bench.inputs())
    same = all(torch.equal(start[n].x[f.mask], f.x[f.mask]) for n, f in fitted.items())
    require(not same, "fit_from changes nothing of what it gives")


CHECKS = (fitting,)
