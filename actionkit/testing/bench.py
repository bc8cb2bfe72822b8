"""Parts, fusions and joints on the bench: all take and give a map from stream to features."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from actionkit.contracts import Features, Fusion, Head, Joint, Shape
from actionkit.testing import toy
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import NotConformingError, require, require_equal

Shapes = dict[str, Shape]
Streams = dict[str, Features]

ONE = "rgb"  # the stream of a part that has but one
PAIRS = (("rgb", "flow"), ("slow", "fast"))  # names that fusions and joints are offered


class Bench:
    """What all checks of one part share: the toy shapes it takes, and how it is built and run."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.many = issubclass(subject.component, (Fusion, Joint))
        self.classes = (list(toy.CLASSES),) if issubclass(subject.component, Head) else ()
        self.shapes = self._accepted()

    @staticmethod
    def of(subject: Subject) -> Bench:
        """The bench of a component, set up by the first check."""
        return subject.once(Bench, lambda: Bench(subject))

    def build(self, shapes: Mapping[str, Shape], seed: int = 0) -> nn.Module:
        """The part for these shapes. Raises what its constructor raises."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            inp = dict(shapes) if self.many else shapes[ONE]
            part = self.subject.make(inp, *self.classes)
        for name, shape in outs(part).items():
            require(isinstance(shape, Shape), f"out of {name!r} is {shape!r}, which is no Shape")
        return part

    def part(self, *, train: bool = False) -> nn.Module:
        """A copy of the part for the toy shapes that draws no noise."""
        part = self.subject.once("part", lambda: self.build(self.shapes))
        return without_noise(part).train(train)

    def run(self, part: nn.Module, inputs: Mapping[str, Features]) -> Streams:
        """The forward. Raises NotConformingError unless it gives Features."""
        result = part(dict(inputs) if self.many else inputs[ONE])
        results = result if isinstance(result, dict) else {ONE: result}
        for name, features in results.items():
            kind = type(features).__name__
            require(isinstance(features, Features), f"forward gives {kind} ({name}), no Features")
        return results

    def inputs(self, shapes: Mapping[str, Shape] | None = None) -> Streams:
        """Clips full, short, with gaps and of padding only; streams lack different steps."""
        inputs = {}
        for i, (name, shape) in enumerate((shapes or self.shapes).items()):
            mask = toy.masks(shape.steps or toy.STEPS[0])
            if i and mask.shape[1] > 2:
                mask[:, -2] = False
            inputs[name] = toy.features(shape, mask, seed=i)
        return inputs

    def full(self, shapes: Mapping[str, Shape] | None = None, batch: int = 3) -> Streams:
        """Clips whose steps are all real."""
        given = (shapes or self.shapes).items()
        return {n: toy.features(s, batch=batch, seed=i) for i, (n, s) in enumerate(given)}

    def _accepted(self) -> Shapes:
        """The first toy shapes that the constructor takes."""
        said = ""
        for shapes in self._offers():
            try:
                self.build(shapes)
            except ValueError as error:
                said = f"{written(shapes)}: {error}"
            else:
                return shapes
        raise NotConformingError(f"takes none of the kit's toy shapes, so nothing is shown; {said}")

    def _offers(self) -> Iterator[Shapes]:
        for shape in toy.shapes():
            if not self.many:
                yield {ONE: shape}
                continue
            for first, second in PAIRS:
                yield {first: shape, second: shape}
                yield {first: shape, second: shape._replace(steps=4 * (shape.steps or 1))}
        if issubclass(self.subject.component, Joint):  # one that takes a stream apart
            yield from ({ONE: shape} for shape in toy.shapes())


def outs(part: nn.Module) -> Shapes:
    """The shapes that a part promises. Raises NotConformingError where it promises none."""
    out = getattr(part, "out", None)
    require(out is not None, "the constructor does not set self.out")
    return dict(out) if isinstance(part, Joint) else {ONE: out}  # type: ignore[dict-item, arg-type]


def without_noise(part: nn.Module) -> nn.Module:
    """A copy with every rate of torch's dropouts and timm's stochastic depth at 0."""
    quiet = copy.deepcopy(part)
    for module in quiet.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            module.dropout = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0  # type: ignore[assignment]
    return quiet


def require_same_real_steps(got: Streams, wanted: Streams, when: str) -> None:
    """Raises NotConformingError where values at real steps, or their number, differ."""
    for name, features in wanted.items():
        other = got[name]
        counts = features.mask.sum(1).tolist(), other.mask.sum(1).tolist()
        require(counts[0] == counts[1], f"{when}, real steps are {counts[1]}, not {counts[0]}")
        require_equal(
            other.x[other.mask], features.x[features.mask], f"{when}, a real step changes"
        )


def require_out(part: nn.Module, results: Streams, given: str) -> None:
    """Raises NotConformingError where sizes are not those of `out`."""
    promised = outs(part)
    require(
        results.keys() == promised.keys(),
        f"gives the streams {list(results)}, but out promises {list(promised)}",
    )
    for name, features in results.items():
        sizes = list(features.x.shape)
        require(len(sizes) == 5, f"given {given}, x has {len(sizes)} axes, {sizes}, not 5")
        wrong = any(s not in (None, n) for s, n in zip(promised[name], sizes[1:], strict=True))
        require(
            not wrong,
            f"given {given}, a clip leaves as {sizes[1:]}, but out says {list(promised[name])}",
        )


def written(shapes: Mapping[str, Shape]) -> str:
    """Shapes as people write them: 7x3x32x32, ? = varies."""
    return " and ".join("x".join("?" if n is None else str(n) for n in s) for s in shapes.values())
