"""Checks of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from actionkit.contracts import Features
from actionkit.testing.subject import Subject, global_rng_untouched, pickle_
from actionkit.testing.toy import CLASSES
from actionkit.testing.verdict import (
    NotConformingError,
    require,
    require_equal,
    require_finite,
)

BATCH, VIEWS, STEPS = 4, 2, 3


def gradients(subject: Subject) -> None:
    """The loss is one finite number, and 0 where no step counts; so are its gradients."""
    target = _target(subject)
    value, gradient = _run(subject, _scores(), target, _mask())
    require(value.ndim == 0, f"the loss has the size {list(value.shape)}, it is no single number")
    require_finite(value, "the loss")
    require_finite(gradient, "the gradient of the loss")
    require(gradient[_mask()].any(), "no logit at a real step gets a gradient")
    value, gradient = _run(subject, _scores(), target, torch.zeros_like(_mask()))
    require(value.item() == 0, f"where no step counts the loss is {value.item()}, not 0")
    require(not gradient.any(), "where no step counts there are gradients other than 0")


def padding_content(subject: Subject) -> None:
    """Logits at masked steps, NaN and infinity too, count for nothing; neither do their targets."""
    mask, target = _mask(), _target(subject)
    wanted, gradient = _run(subject, _scores(), target, mask)
    padding = ~mask[..., None, None, None]
    for content in (1e4, torch.inf, torch.nan):
        value, other = _run(subject, _scores().masked_fill(padding, content), target, mask)
        require_equal(value, wanted, f"with {content} at masked steps, the loss")
        require_equal(other[mask], gradient[mask], f"with {content} at masked steps, a gradient")
        require(not other[~mask].any(), f"with {content} at masked steps, they get gradients")
    unlabelled = target.clone()
    unlabelled[-1] = -1 if target.dtype == torch.int64 else torch.nan  # all masked, see _mask
    value, _ = _run(subject, _scores(), unlabelled, mask)
    require_equal(value, wanted, "with no label for a masked clip, the loss")


def no_inplace(subject: Subject) -> None:
    """Scores, target and mask stay as they are."""
    given = {"scores": _scores(), "target": _target(subject), "mask": _mask()}
    before = {name: (tensor.clone(), tensor._version) for name, tensor in given.items()}
    features = _features(given["scores"], given["mask"])
    loss = subject.make()
    loss(features, given["target"], given["mask"])
    loss.probabilities(features)
    for name, tensor in given.items():
        copy, version = before[name]
        same = torch.equal(tensor, copy) and tensor._version == version
        require(same, f"it changes {name} in place")


def deterministic(subject: Subject) -> None:
    """The same scores give the same loss, and no global generator is drawn from."""
    target = _target(subject)
    with global_rng_untouched("the loss"):
        first, _ = _run(subject, _scores(), target, _mask())
    second, _ = _run(subject, _scores(), target, _mask())
    require_equal(second, first, "of the same scores, a second loss", 0)


def probabilities(subject: Subject) -> None:
    """[B, V, T, K] between 0 and 1, in the order of the logits; of classes that exclude, sum 1."""
    scores = _scores()
    found = subject.make().probabilities(Features(scores, _mask()))
    sizes = [BATCH, VIEWS, STEPS, len(CLASSES)]
    require(list(found.shape) == sizes, f"they have the size {list(found.shape)}, not {sizes}")
    require_finite(found, "probabilities")
    low, high = found.min().item(), found.max().item()
    require(low >= 0 and high <= 1 + 1e-6, f"they go from {low:.3g} to {high:.3g}")
    same = torch.equal(found.argsort(3), scores.flatten(3).argsort(3))
    require(same, "classes of higher logits do not always have higher probabilities")
    if _target(subject).dtype == torch.int64:
        require_equal(found.sum(3), torch.ones(sizes[:3]), "with one true class a clip, their sum")


def _run(subject: Subject, scores: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the scores."""
    x = scores.clone().requires_grad_()
    value = subject.make()(_features(x, mask), target, mask)
    value.backward()
    require(x.grad is not None, "no gradient reaches the logits")
    return value.detach(), x.grad if x.grad is not None else torch.zeros_like(x)


def _features(scores: Tensor, mask: Tensor) -> Features:
    """With choices too, for losses that reward them."""
    chosen = torch.linspace(-2, 0, mask.numel()).view_as(mask) * mask
    return Features(scores, mask, log_prob=chosen)


def _scores() -> Tensor:
    """[B, V, T, K, 1, 1]"""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, VIEWS, STEPS, len(CLASSES), 1, 1, generator=generator)


def _mask() -> Tensor:
    """[B, V, T]: a clip in full, two in part, one not at all."""
    mask = torch.ones(BATCH, VIEWS, STEPS, dtype=torch.bool)
    mask[1, :, 2], mask[2, 1], mask[3] = False, False, False
    return mask


def _target(subject: Subject) -> Tensor:
    """The first kind of target that the loss takes: classes [B], else a share of each [B, K]."""
    kinds = (torch.arange(BATCH), torch.eye(len(CLASSES))[:BATCH])
    for target in kinds:
        try:
            subject.make()(_features(_scores(), _mask()), target, _mask())
        except (ValueError, RuntimeError, IndexError, TypeError):
            continue
        return target
    raise NotConformingError("takes neither one class a clip, int64 [B], nor float [B, K]")


CHECKS = (gradients, padding_content, no_inplace, deterministic, pickle_, probabilities)
