"""Checks of parts: clips of a batch keep to themselves, and padding reaches nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from actionkit.contracts import Features, Joint
from actionkit.testing import toy
from actionkit.testing.bench import (
    Bench,
    Streams,
    require_same_real_steps,
    without_noise,
    written,
)
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import NotConformingError, require, require_equal

CONTENTS = {"large": 1e4, "NaN": float("nan"), "infinite": float("inf")}
MORE = 4  # steps


def padding_content(subject: Subject) -> None:
    """What padded steps hold, NaN and infinity too, changes no real step, in training neither."""
    bench = Bench.of(subject)
    inputs = bench.inputs()
    wanted = _both_modes(bench, bench.part(), _filled(inputs, 0.0))
    for content, value in CONTENTS.items():
        got = _both_modes(bench, bench.part(), _filled(inputs, value))
        for mode, results in got.items():
            when = f"{mode}, with {content} numbers at padded steps"
            require_same_real_steps(results, wanted[mode], when)


def padding_amount(subject: Subject) -> None:
    """More padded steps behind a clip change no real step, in training neither."""
    bench = Bench.of(subject)
    inputs = bench.inputs()
    more = {name: _longer(features) for name, features in inputs.items()}
    part, larger = _for_both_lengths(bench)
    wanted, got = _both_modes(bench, part, inputs), _both_modes(bench, larger, more)
    for mode, results in got.items():
        when = f"{mode}, with {MORE} more padded steps"
        require_same_real_steps(results, wanted[mode], when)


def batch_permutation(subject: Subject) -> None:
    """In evaluation a clip's result does not depend on its place in the batch."""
    bench = Bench.of(subject)
    inputs, part, order = bench.inputs(), bench.part(), torch.tensor([2, 0, 3, 1])
    moved = {n: f._replace(x=f.x[order], mask=f.mask[order]) for n, f in inputs.items()}
    wanted = bench.run(part, inputs)
    for name, features in bench.run(part, moved).items():
        there = wanted[name]
        when = "with the clips in another order"
        same = torch.equal(features.mask, there.mask[order])
        require(same, f"{when}, other steps are real")
        real = features.mask
        require_equal(features.x[real], there.x[order][real], f"{when}, a real step changes")


def no_inplace(subject: Subject) -> None:
    """The forward leaves its input tensors as they are."""
    bench = Bench.of(subject)
    for train in (True, False):
        inputs = _with_fields(bench.inputs())
        tensors = {f"{n}.{k}": t for n, f in inputs.items() for k, t in _tensors(f).items()}
        before = {name: (t.clone(), t._version) for name, t in tensors.items()}
        bench.run(bench.part(train=train), inputs)
        for name, tensor in tensors.items():
            copy, version = before[name]
            same = torch.equal(tensor, copy) and tensor._version == version
            require(same, f"the forward changes its input {name} in place")


def extra_fields_pass(subject: Subject) -> None:
    """Fields it does not use are handed on; penalties are added to, `extra` only grows."""
    bench = Bench.of(subject)
    part, bare = bench.part(), bench.full()
    own, inputs = bench.run(part, bare), _with_fields(bare)
    results = bench.run(part, inputs)
    expected = inputs if isinstance(part, Joint) else {next(iter(results)): _merged(bench, inputs)}
    if isinstance(part, Joint) and len(inputs) == 1:  # its first result stands for the stream
        expected = dict(zip(results, inputs.values(), strict=False))
    shared = [name for name in results if name in expected]
    require(shared, f"of the streams {list(expected)} none leaves by its name")
    for name in shared:
        _require_fields(results[name], expected[name], own[name])


def _require_fields(got: Features, wanted: Features, own: Features) -> None:
    """`own` is what the part says without any field given: what it sets itself."""
    for field in ("attention", "boxes", "log_prob"):
        value, given = getattr(got, field), getattr(wanted, field)
        require(value is not None, f"{field} is lost")
        if getattr(own, field) is None:
            require_equal(value, given, f"{field} is not handed on as it came")
    penalty, given = got.penalty, wanted.penalty
    require(penalty is not None and given is not None, "penalty is lost")
    if penalty is not None and given is not None:
        added = own.penalty if own.penalty is not None else torch.zeros(())
        require_equal(penalty, given + added, "penalty is not what came plus the part's own")
    for key, value in (wanted.extra or {}).items():
        require(key in (got.extra or {}), f"extra[{key!r}] is lost")
        require_equal((got.extra or {})[key], value, f"extra[{key!r}] is not as it came")


def _merged(bench: Bench, inputs: Streams) -> Features:
    return Features.merge(inputs) if bench.many else next(iter(inputs.values()))


def _with_fields(inputs: Streams) -> Streams:
    """The same with every other field set, differently in every stream."""
    full = {}
    for i, (name, features) in enumerate(inputs.items()):
        batch, steps = features.mask.shape
        generator = torch.Generator().manual_seed(i)
        full[name] = features._replace(
            attention=torch.rand(batch, steps, 1, 4, 4, generator=generator),
            boxes=torch.rand(batch, steps, 2, 4, generator=generator),
            penalty=torch.tensor(0.5 + i),
            log_prob=-torch.rand(batch, steps, generator=generator),
            extra={"note": torch.tensor(2.0 + i)},
        )
    return full


def _tensors(features: Features) -> dict[str, Tensor]:
    named = features._asdict()
    extra = named.pop("extra") or {}
    return {name: t for name, t in {**named, **extra}.items() if t is not None}


def _filled(inputs: Streams, value: float) -> Streams:
    return {name: toy.fill_padding(features, value) for name, features in inputs.items()}


def _both_modes(bench: Bench, part: torch.nn.Module, inputs: Streams) -> dict[str, Streams]:
    """Results in training, and of evaluation behind it, with what training left in the buffers."""
    torch.manual_seed(0)
    with torch.no_grad():
        trained = bench.run(part.train(), inputs)
        return {"in training": trained, "in evaluation": bench.run(part.eval(), inputs)}


def _longer(features: Features) -> Features:
    """The same clips with padding behind."""
    batch = len(features.mask)
    noise = torch.full((batch, MORE, *features.x.shape[2:]), 3.0)
    padding = features.mask.new_zeros(batch, MORE)
    return Features(torch.cat([features.x, noise], 1), torch.cat([features.mask, padding], 1))


def _for_both_lengths(bench: Bench) -> tuple[torch.nn.Module, torch.nn.Module]:
    """One part for clips of any length, or two for either length with the same weights."""
    free = {name: shape._replace(steps=None) for name, shape in bench.shapes.items()}
    longer = {n: s._replace(steps=(s.steps or 0) + MORE) for n, s in bench.shapes.items()}
    try:
        part = bench.build(free)
        return without_noise(part), without_noise(part)
    except ValueError:
        part = bench.part()
    try:
        larger = bench.build(longer)
        larger.load_state_dict(part.state_dict())
    except (ValueError, RuntimeError) as error:
        raise NotConformingError(
            f"takes neither clips of a varying length nor, with the same weights, "
            f"{written(longer)} beside {written(bench.shapes)}, so nothing is shown: {error}"
        ) from error
    return part, without_noise(larger)


CHECKS = (padding_content, padding_amount, batch_permutation, no_inplace, extra_fields_pass)
