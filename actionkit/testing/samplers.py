"""Checks of samplers."""

from __future__ import annotations

import numpy as np

from actionkit.contracts import Info, Record, Sampler
from actionkit.testing.subject import Subject, global_rng_untouched, pickle_
from actionkit.testing.verdict import require

FPS = 10.0
LONGEST = 40  # frames
PARTS = ((None, None), (0.3, 1.5), (1.0, None), (None, 0.55))  # (start, end) in seconds


def pure(subject: Subject) -> None:
    """The answer depends on its arguments alone; in evaluation that is no generator."""
    sampler, record = subject.make(), _record()
    for frames in (1, 7, LONGEST):
        info = _info(frames)
        with global_rng_untouched("it"):
            drawn = [sampler(info, record, np.random.default_rng(5)) for _ in range(2)]
            fixed = [sampler(info, record, None) for _ in range(2)]
        for kind, (first, second) in {"training": drawn, "evaluation": fixed}.items():
            require(
                np.array_equal(first, second),
                f"in {kind}, the same {frames} frames give {_brief(first)}, then {_brief(second)}",
            )


def in_range(subject: Subject) -> None:
    """Of 1 to 40 frames it takes those between start and end: int64 [V, T], as it promises."""
    sampler = subject.make()
    for frames in range(1, LONGEST + 1):
        for start, end in PARTS:
            for seed in (None, 0, 1):
                rng = None if seed is None else np.random.default_rng(seed)
                indices = sampler(_info(frames), _record(start, end), rng)
                given = f"of {frames} frames at {FPS:g} fps, from {start} to {end} s"
                _require_form(sampler, indices, given)
                _require_range(indices, frames, start, end, given)


def _require_form(sampler: Sampler, indices: np.ndarray, given: str) -> None:
    form = f"{indices.dtype} {list(indices.shape)}"
    require(indices.dtype == np.int64 and indices.ndim == 2, f"{given}: {form}, not int64 [V, T]")
    for promised, size, what in zip(
        (sampler.views, sampler.steps), indices.shape, ("views", "steps"), strict=True
    ):
        require(promised in (None, size), f"{given}: {size} {what}, but it promises {promised}")


def _require_range(
    indices: np.ndarray, frames: int, start: float | None, end: float | None, given: str
) -> None:
    real = indices[indices != -1]
    require(real.size > 0, f"{given}: every step is padding")
    low, high = int(real.min()), int(real.max())
    require(low >= 0 and high < frames, f"{given}: indices go from {low} to {high}")
    seconds = np.arange(frames) / FPS
    inside = (seconds >= (start or 0) - 1e-6) & (seconds < (end or np.inf) - 1e-6)
    if inside.any():  # else the nearest frame is as good as any
        outside = real[~inside[real]]
        require(outside.size == 0, f"{given}: frame {outside[:1]} lies outside")


def _info(frames: int) -> Info:
    return Info(frames, FPS, frames / FPS, height=48, width=64)


def _record(start: float | None = None, end: float | None = None) -> Record:
    return Record("a", {}, start=start, end=end)


def _brief(indices: np.ndarray) -> str:
    return str(indices.flatten()[:8].tolist())


CHECKS = (pure, in_range, pickle_)
