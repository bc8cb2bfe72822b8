"""Checks of transforms."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from actionkit.contracts import Clip, Shape, Transform
from actionkit.testing import toy
from actionkit.testing.subject import Subject, global_rng_untouched, pickle_
from actionkit.testing.verdict import NotConformingError, require, require_equal

Clips = dict[str, Clip]
DTYPES = (torch.uint8, torch.float16, torch.float32)
DRAWS = 8
TWIN = "twin"
SHADES = ((torch.float32, 1.0), (torch.uint8, 50.0))  # the first of four samples, each of one


def pure(subject: Subject) -> None:
    """Draws depend on the generator's state alone; apply draws nothing of its own."""
    transform, clips = _given(subject)
    with global_rng_untouched("it"):
        for seed in (None, 0, 1):
            first, second = (_draws(transform, seed) for _ in range(2))
            mode = "evaluation" if seed is None else "training"
            require(_same(first, second), f"in {mode}, draw gives {first}, then {second}")
            once, again = (transform.apply(clips, copy.deepcopy(first)) for _ in range(2))
            _require_same(again, once, "applied twice with the same draws")


def in_range(subject: Subject) -> None:
    """Sizes are those of `out`, values are finite numbers, masks and times fit the steps."""
    transform, clips = _given(subject)
    promised = transform.out(_shapes(clips))
    for seed in (None, *range(DRAWS)):
        result = transform.apply(clips, _draws(transform, seed))
        require(
            result.keys() == promised.keys(),
            f"gives the modalities {list(result)}, but out promises {list(promised)}",
        )
        for name, clip in result.items():
            _require_clip(name, clip, promised[name])


def one_draw(subject: Subject) -> None:
    """A modality of equal content beside it is changed alike, or not at all, by the one draw."""
    transform, clips = _given(subject)
    changed = next(iter(clips))
    for seed in range(DRAWS):
        draws = _draws(transform, seed)
        alone = transform.apply(clips, draws)
        both = transform.apply({**clips, TWIN: clips[changed]}, draws)
        when = "with a second modality beside it"
        _require_same(both, alone, when)
        if changed in alone and not _equal(both[TWIN], clips[changed]):
            _require_same({TWIN: both[TWIN]}, {TWIN: alone[changed]}, "of equal content")


def same_on_both_positions(subject: Subject) -> None:
    """A batch gives what its samples give one by one, each with its own draw.

    Where clips are mixed, targets are mixed as they are, and nothing is in evaluation.
    """
    transform, clips = _given(subject)
    if transform.mixes:
        _require_mixed(transform, clips)
        return
    for seed in (None, *range(DRAWS)):
        draws = _draws(transform, seed)
        whole = transform.apply(clips, draws)
        for b, draw in enumerate(draws):
            single = transform.apply(_row(clips, b), [draw])
            when = f"sample {b} of a batch, beside it alone"
            _require_same(_row(whole, b), single, when, levels=1)  # sums in another order


def _require_mixed(transform: Transform, clips: Clips) -> None:
    """Mixed clips hold as much of each other as their targets say, and one alone is not mixed."""
    _require_same(transform.apply(clips, _draws(transform, None)), clips, "in evaluation")
    alone, mixed = _row(clips, 0), False
    for seed in range(DRAWS):
        draw = _draws(transform, seed, 1)
        _require_same(transform.apply(alone, draw), alone, "a batch of one")
        require_equal(transform.mix(torch.eye(4)[:1], draw), torch.eye(4)[:1], "its target")
        for dtype, shade in SHADES:
            draws = _draws(transform, seed, 4)
            try:
                result = transform.apply(_shaded(clips, dtype, shade), draws)
            except ValueError:
                continue  # one of the two it must take, or nothing is mixed
            target = _targets(transform, draws)
            wanted = target @ torch.arange(1.0, 5)
            for name, clip in result.items():
                mean = clip.x.float().flatten(1).mean(1) / shade
                what = f"of {dtype} clips of 1, 2, 3 and 4, the mean of {name} beside its target"
                require_equal(mean, wanted, what, 0.003)  # uint8 is rounded
            mixed |= bool((target.amax(1) < 1).any())
    require(mixed, f"nothing is mixed in {DRAWS} draws; give it options with which it mixes")


def _targets(transform: Transform, draws: list[dict[str, Any]]) -> torch.Tensor:
    """The shares [4, 4] of four samples in each other."""
    target = transform.mix(torch.eye(4), draws)
    require_equal(target.sum(1), torch.ones(4), "the sums of mixed targets")
    unknown = torch.eye(4)
    unknown[0] = torch.nan
    found = transform.mix(unknown, draws).isnan().any(1)
    require(
        torch.equal(found, target[:, 0] > 0),
        "what is mixed with a clip without label (NaN) has a label, or another has none",
    )
    return target


def _shaded(clips: Clips, dtype: torch.dtype, shade: float) -> Clips:
    """Four samples without padding, each of one number, in the sizes of the clips."""
    numbers = (torch.arange(1, 5) * shade).to(dtype).view(4, 1, 1, 1, 1, 1)
    shaded = {}
    for name, clip in clips.items():
        x = numbers.expand(4, *clip.x.shape[1:]).clone()
        mask = torch.ones(x.shape[:3], dtype=torch.bool)
        shaded[name] = Clip(x, mask, torch.zeros(mask.shape), clip.kind)
    return shaded


def no_inplace(subject: Subject) -> None:
    """Clips, shapes and draws that it is given stay as they are."""
    transform, clips = _given(subject)
    for seed in (None, *range(DRAWS)):
        draws, shapes = _draws(transform, seed), _shapes(clips)
        tensors = {n: c.x for n, c in clips.items()} | {
            f"mask {n}": c.mask for n, c in clips.items()
        }
        before = {name: (tensor.clone(), tensor._version) for name, tensor in tensors.items()}
        drawn, promised = copy.deepcopy(draws), dict(shapes)
        transform.out(shapes)
        transform.apply(clips, draws)
        for name, tensor in tensors.items():
            kept, version = before[name]
            same = torch.equal(tensor, kept) and tensor._version == version
            require(same, f"it changes its input ({name}) in place")
        require(_same(draws, drawn), "it changes the draws in place")
        require(shapes == promised, "out changes the shapes in place")


def _given(subject: Subject) -> tuple[Transform, Clips]:
    """The transform, and the first toy clips that it takes."""
    transform = subject.make()
    said = ""
    for clips in _offers():
        try:
            transform.out(_shapes(clips))
            transform.apply(clips, _draws(transform, 0))  # shapes do not tell uint8 from float
        except ValueError as error:
            said = str(error)
        else:
            return transform, clips
    raise NotConformingError(f"takes none of the kit's toy clips, so nothing is shown: {said}")


def _offers() -> Iterator[Clips]:
    rgb, flow, gray = (
        toy.clip("rgb"),
        toy.clip("flow", channels=2, seed=1),
        toy.clip("gray", channels=1),
    )
    offers = ({"rgb": rgb, "flow": flow}, {"rgb": rgb}, {"flow": flow}, {"gray": gray})
    yield from offers
    for clips in offers:
        yield {name: clip._replace(x=clip.x / 255) for name, clip in clips.items()}


def _shapes(clips: Clips) -> dict[str, Shape]:
    return {name: Shape(*clip.x.shape[2:]) for name, clip in clips.items()}


def _draws(transform: Transform, seed: int | None, count: int = 2) -> list[dict[str, Any]]:
    """A draw for each of the samples; None = evaluation."""
    if seed is None:
        return [transform.draw(None) for _ in range(count)]
    return [transform.draw(np.random.default_rng((seed, b))) for b in range(count)]


def _row(clips: Clips, b: int) -> Clips:
    one = slice(b, b + 1)
    return {n: Clip(c.x[one], c.mask[one], c.times[one], c.kind) for n, c in clips.items()}


def _same(a: Any, b: Any) -> bool:
    """Equality of draws: numbers, arrays and tensors in dicts and lists."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _equal(a: Clip, b: Clip) -> bool:
    return a.x.shape == b.x.shape and torch.equal(a.x, b.x)


def _require_same(got: Clips, wanted: Clips, when: str, levels: int = 0) -> None:
    """Clips are equal, but for so many levels of uint8 between which a float may have rounded."""
    for name, clip in wanted.items():
        x = got[name].x
        if levels and x.dtype == clip.x.dtype == torch.uint8 and x.shape == clip.x.shape:
            near = (x.int() - clip.x.int()).abs() <= levels
            x = torch.where(near, clip.x, x)
        require_equal(x, clip.x, f"{when}, {name}")
        require_equal(got[name].mask, clip.mask, f"{when}, the mask of {name}")


def _require_clip(name: str, clip: Clip, promised: Shape) -> None:
    sizes = list(clip.x.shape[2:])
    wrong = any(s not in (None, n) for s, n in zip(promised, sizes, strict=True))
    require(not wrong, f"{name} leaves as {sizes}, but out says {list(promised)}")
    require(clip.x.dtype in DTYPES, f"{name} is {clip.x.dtype}, which a Clip cannot be")
    finite = bool(clip.x.isfinite().all())
    require(finite, f"{name} holds NaN or infinity")
    steps = clip.x.shape[:3]
    form = f"{clip.mask.dtype} {list(clip.mask.shape)}"
    require(
        clip.mask.dtype == torch.bool and clip.mask.shape == steps,
        f"the mask of {name} is {form}, not bool {list(steps)}",
    )
    form = f"{clip.times.dtype} {list(clip.times.shape)}"
    require(
        clip.times.dtype == torch.float32 and clip.times.shape == steps,
        f"the times of {name} are {form}, not float32 {list(steps)}",
    )
    require(
        torch.equal(clip.times.isnan(), ~clip.mask),
        f"the times of {name} are not NaN at padded steps, or nowhere else",
    )


CHECKS = (pure, in_range, one_draw, same_on_both_positions, no_inplace, pickle_)
