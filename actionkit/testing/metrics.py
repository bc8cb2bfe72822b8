"""Checks of metrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actionkit.testing.subject import Subject, require_pickles
from actionkit.testing.verdict import NotConformingError, require

CLASSES = [f"class {k}" for k in range(8)]  # more than the five of a top-5
VIDEOS = 24


def pickle_(subject: Subject) -> None:
    """It survives pickling."""
    require_pickles(subject.make(CLASSES))


def perfect_and_worst(subject: Subject) -> None:
    """Perfect scores and the worst are two finite numbers, and all others lie between.

    The order of videos is of no account.
    """
    truth = torch.arange(VIDEOS) % len(CLASSES)
    right = torch.nn.functional.one_hot(truth, len(CLASSES)).float()
    target = truth if _takes(subject, right, truth) else right
    generator = torch.Generator().manual_seed(0)
    guess = torch.rand(right.shape, generator=generator)
    guess[: VIDEOS // 2] += right[: VIDEOS // 2]
    best, worst = _value(subject, right, target), _value(subject, -right, target)
    between = _value(subject, guess, target)
    require(best != worst, f"perfect and worst scores both give {best}")
    low, high = sorted((best, worst))
    require(low <= between <= high, f"half a guess gives {between}, not within {low} to {high}")
    order = torch.randperm(VIDEOS, generator=generator)
    moved = _value(subject, guess[order], target[order])
    require(
        math.isclose(moved, between, rel_tol=1e-6),
        f"the same videos in another order give {moved} instead of {between}",
    )


def _takes(subject: Subject, scores: Tensor, target: Tensor) -> bool:
    """Whether it takes this kind of target."""
    try:
        _value(subject, scores, target)
    except NotConformingError:
        raise
    except Exception:
        return False
    return True


def _value(subject: Subject, scores: Tensor, target: Tensor) -> float:
    value = subject.make(CLASSES)(scores, target)
    require(isinstance(value, float), f"gives a {type(value).__name__}, not a float")
    require(math.isfinite(value), f"gives {value}")
    return value


CHECKS = (pickle_, perfect_and_worst)
