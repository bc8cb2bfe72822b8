"""A linear support vector machine, fitted behind the training."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from actionkit.contracts import Features, Fits, Fitting, Head, Shape

ABSENT = -1e4  # the logit of a class without a training clip, below all that are learnt
STEPS = 10_000  # of liblinear, at most
EXTRA = "needs scikit-learn, which is not installed; pip install 'actionkit[scikit-learn]'"


class LinearSVM(Head, Fits):
    """A linear SVM, one class against the rest: x [B, T, C, 1, 1] to distances [B, T, K, 1, 1].

    Fitted behind the training, by scikit-learn's LinearSVC (squared hinge; the bias is regularised
    as the weights are), to every real step of the training clips that have a label; usually `mean`
    has left one. The logits are its decision_function, for two classes -d and d; a class without
    training clip gets -10000. Before it is fitted all are 0. It learns best from vectors
    of like length: normalise them before it.

    Args:
        inp: one vector per step.
        classes: names of the K classes.
        c: weight of the errors; of several, the one that is right most often in cross-validation,
            in which no group of clips (of one source video) is on both sides; the smallest of
            equals.
        folds: of the cross-validation, where there are as many groups. Classes are spread evenly
            over them where each has as many groups.
        class_weight: balanced = errors weigh the more, the fewer clips their class has.

    Raises:
        ValueError: maps instead of vectors, no or negative c, less than 2 folds, no scikit-learn.
    """

    fits: ClassVar[Literal["before", "after"]] = "after"
    weight: Tensor
    bias: Tensor
    fitted: Tensor

    def __init__(
        self,
        inp: Shape,
        classes: Sequence[str],
        *,
        c: float | tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0),
        folds: int = 5,
        class_weight: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        channels = inp.require_vectors()
        self.c = sorted({c} if isinstance(c, int | float) else set(c))
        if not self.c or self.c[0] <= 0:
            raise ValueError(f"takes one c above 0, or several, but got {c}")
        if folds < 2:
            raise ValueError(f"takes 2 folds or more, but got {folds}")
        if importlib.util.find_spec("sklearn") is None:
            raise ValueError(EXTRA)
        self.folds, self.class_weight = folds, class_weight
        self.register_buffer("weight", torch.zeros(len(classes), channels))
        self.register_buffer("bias", torch.zeros(len(classes)))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.out = inp._replace(channels=len(classes))

    def forward(self, features: Features) -> Features:
        """Maps vectors to signed distances from the planes, no softmax inside."""
        x = features.x.flatten(2).masked_fill(~features.mask[..., None], 0)  # [B, T, C]
        logits = nn.functional.linear(x, self.weight, self.bias)
        return features._replace(x=logits[..., None, None])

    def fit_from(self, batches: Iterable[Fitting]) -> str:
        """Says which C was taken, and why. Raises ValueError for what no SVM can learn from."""
        x, y, groups = _samples(batches)
        known = np.unique(y)
        if len(known) < 2:
            raise ValueError("needs training clips of two classes at least, but all are of one")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            machine, said = self._search(x, y, groups)
        self._take(machine, known)
        if any("converge" in str(warning.message) for warning in warned):
            said += f"; liblinear did not converge in {STEPS} steps; normalise its vectors"
        return said

    def _search(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[Any, str]:
        """The fitted machine, and what is told of it."""
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import LinearSVC

        machine = LinearSVC(
            C=self.c[0],
            class_weight=self.class_weight,
            dual="auto",
            random_state=0,
            max_iter=STEPS,
        )
        if len(self.c) == 1:
            return machine.fit(x, y), f"C = {self.c[0]:g}, {len(y):,} samples"
        parts = self._parts(y, groups)
        search = GridSearchCV(machine, {"C": self.c}, cv=parts, error_score="raise")
        try:
            search.fit(x, y, groups=groups)
        except ValueError as error:
            raise ValueError(
                f"cannot compare values of c in {parts.get_n_splits()} folds by group: {error}; "
                "write one c"
            ) from error
        said = (
            f"C = {search.best_params_['C']:g} (of {', '.join(f'{c:g}' for c in self.c)}), "
            f"{search.best_score_:.2f} right in {parts.get_n_splits()}-fold cross-validation by "
            f"group, {len(y):,} samples"
        )
        return search.best_estimator_, said

    def _parts(self, y: np.ndarray, groups: np.ndarray) -> Any:
        """How the samples are divided; classes evenly where each has a group for every fold."""
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        total = len(np.unique(groups))
        if total < 2:
            raise ValueError(
                f"compares values of c by groups of clips, but all are of the group '{groups[0]}'; "
                "write one c"
            )
        folds = min(self.folds, total)
        each = min(len(np.unique(groups[y == k])) for k in np.unique(y))
        return (StratifiedGroupKFold if each >= folds else GroupKFold)(folds)

    def _take(self, machine: Any, known: np.ndarray) -> None:
        """Fills the buffers; scikit-learn gives two classes one plane."""
        weight, bias = torch.from_numpy(machine.coef_), torch.from_numpy(machine.intercept_)
        if len(known) == 2:
            weight, bias = torch.cat([-weight, weight]), torch.cat([-bias, bias])
        self.weight.zero_()
        self.bias.fill_(ABSENT)
        self.weight[known] = weight.to(self.weight)
        self.bias[known] = bias.to(self.bias)
        self.fitted.fill_(True)


def _samples(batches: Iterable[Fitting]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every real step with a label: x [N, C] float64, class [N] int64, group [N] text."""
    vectors, classes, groups = [torch.empty(0)], [], []
    for batch in batches:
        features: Features = batch.features  # type: ignore[assignment]  # a head's are no dict
        label = _class(batch.target)  # type: ignore[arg-type]
        clips, steps = (features.mask & (label >= 0)[:, None]).nonzero(as_tuple=True)
        vectors.append(features.x[clips, steps].flatten(1).double())
        classes += label[clips].tolist()
        groups += [batch.group[clip] for clip in clips.tolist()]
    if not classes:
        raise ValueError("has nothing to learn from: no training clip has a label")
    x = torch.cat(vectors[1:])
    if not bool(x.isfinite().all()):
        raise ValueError("gets features that are NaN or infinite; look at the parts before it")
    return x.numpy(), np.array(classes), np.array(groups)


def _class(target: Tensor) -> Tensor:
    """Class numbers [B], -1 = no label. Raises ValueError for clips of several classes."""
    if target.ndim == 1:
        return target
    known = ~target.isnan().any(-1)
    whole = (target == 1).sum(-1).eq(1) & (target != 0).sum(-1).eq(1)
    if bool((known & ~whole).any()):
        raise ValueError("needs one class for each clip, but some have several, or a share of one")
    return target.nan_to_num().argmax(-1).where(known, -1)
