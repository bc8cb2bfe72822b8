import importlib.util
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.svm import LinearSVC

from actionkit.contracts import Features, Fitting, Shape
from actionkit.heads.linear_svm import LinearSVM

C = 6
CLASSES = ["run", "jump", "swim"]
ONE = Shape(1, C, 1, 1)


def features(x, mask=None):
    """x [B, T, C] as features; all steps real by default."""
    x = torch.as_tensor(x, dtype=torch.float32)
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    return Features(x[..., None, None], mask)


def blobs(count=60, classes=3, spread=1.0, groups=12, seed=0):
    """Vectors [N, C] around a centre a class, their classes [N], and groups [N] of whole classes'
    mixtures.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(count) % classes)
    centres = rng.normal(size=(classes, C))
    x = (centres[y] + spread * rng.normal(size=(count, C))).astype(np.float32)
    return x, y, [f"g{i % groups}" for i in range(count)]


def fittings(x, y, groups, size=16):
    """Batches of clips of one step."""
    return [
        Fitting(
            features(x[i : i + size, None]), torch.as_tensor(y[i : i + size]), groups[i : i + size]
        )
        for i in range(0, len(x), size)
    ]


def logits(head, x):
    return head(features(x[:, None])).x.flatten(1).detach().numpy()


def reference(x, y, c=1.0, **options):
    return LinearSVC(C=c, dual="auto", random_state=0, max_iter=10_000, **options).fit(x, y)


@pytest.mark.parametrize("balance", [None, "balanced"])
def test_it_is_scikit_learn_s_machine(balance):
    x, y, groups = blobs()
    y[:40] = np.where(y[:40] == 2, 0, y[:40])  # classes of other sizes
    head = LinearSVM(ONE, CLASSES, c=0.5, class_weight=balance)
    said = head.fit_from(fittings(x, y, groups))
    wanted = reference(x.astype(np.float64), y, 0.5, class_weight=balance)
    np.testing.assert_allclose(logits(head, x), wanted.decision_function(x), atol=1e-5)
    assert said == "C = 0.5, 60 samples"
    assert bool(head.fitted)


def test_two_classes_are_one_plane_and_its_mirror_image():
    x, y, groups = blobs(classes=2)
    head = LinearSVM(ONE, CLASSES[:2], c=1.0)
    head.fit_from(fittings(x, y, groups))
    distance = reference(x.astype(np.float64), y).decision_function(x)
    np.testing.assert_allclose(logits(head, x), np.stack([-distance, distance], 1), atol=1e-5)


def test_a_class_without_clips_is_never_said():
    x, y, groups = blobs(classes=2)
    head = LinearSVM(ONE, ["none", *CLASSES[:2]], c=1.0)
    head.fit_from(fittings(x, y + 1, groups))
    found = logits(head, 100 * x)
    assert (found[:, 0] == -10_000).all()
    assert (found[:, 1:] > -10_000).all()
    np.testing.assert_allclose(found[:, 1], -found[:, 2], rtol=1e-5)


def test_orthonormal_descriptors_of_distinct_classes_are_all_right():
    names = [f"class{i}" for i in range(C)]
    for c in (0.01, 100.0):
        head = LinearSVM(ONE, names, c=c)
        head.fit_from(fittings(np.eye(C, dtype=np.float32), np.arange(C), ["g"] * C))
        assert logits(head, np.eye(C)).argmax(1).tolist() == list(range(C))


def test_every_real_step_of_a_clip_with_a_label_is_a_sample():
    x, y, groups = blobs(count=40)
    clips = torch.from_numpy(x).unflatten(0, (20, 2))  # [20, 2 steps, C]
    label, mask = torch.from_numpy(y[::2].copy()), torch.ones(20, 2, dtype=torch.bool)
    mask[::3, 1] = False
    label[5:8] = -1
    clips[5:8] = 1e6
    clips[~mask] = torch.nan
    head = LinearSVM(Shape(2, C, 1, 1), CLASSES, c=1.0)
    said = head.fit_from([Fitting(features(clips, mask), label, groups[:20])])
    used = mask & (label >= 0)[:, None]
    rows, known = clips[used].double().numpy(), label[:, None].expand(-1, 2)[used].numpy()
    wanted = reference(rows, known)
    assert said == f"C = 1, {len(rows)} samples"
    assert len(rows) < 34
    np.testing.assert_allclose(head.weight.numpy(), wanted.coef_, atol=1e-5)


def test_one_hot_targets_are_classes():
    x, y, groups = blobs()
    shares = np.eye(3, dtype=np.float32)[y]
    shares[3] = np.nan
    heads = [LinearSVM(ONE, CLASSES, c=1.0) for _ in range(2)]
    heads[0].fit_from(fittings(x, shares, groups))
    y[3] = -1
    heads[1].fit_from(fittings(x, y, groups))
    torch.testing.assert_close(heads[0].weight, heads[1].weight)


@pytest.mark.parametrize("row", [[0.5, 0.5, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
def test_shares_of_classes_are_refused(row):
    x, y, groups = blobs()
    shares = np.eye(3, dtype=np.float32)[y]
    shares[3] = row
    with pytest.raises(ValueError, match=r"^needs one class for each clip, but some have several"):
        LinearSVM(ONE, CLASSES, c=1.0).fit_from(fittings(x, shares, groups))


# --------------------------------------------------------------------------- choice of C


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("groups", "parts"), [(12, StratifiedGroupKFold), (3, GroupKFold)])
def test_c_is_the_one_that_a_grid_search_by_groups_picks(seed, groups, parts):
    x, y, names = blobs(count=90, spread=2.5, groups=groups, seed=seed)
    if parts is GroupKFold:  # the last class is in one group only, so it cannot be spread
        y[(y == 2) & (np.array(names) != "g0")] = 0
        y[:3] = 2, 1, 0
    folds = min(5, groups)
    values = [0.001, 0.01, 0.1, 1.0, 100.0]
    head = LinearSVM(ONE, CLASSES, c=tuple(values))
    said = head.fit_from(fittings(x, y, names))
    machine = LinearSVC(dual="auto", random_state=0, max_iter=10_000)
    search = GridSearchCV(machine, {"C": values}, cv=parts(folds))
    search.fit(x.astype(np.float64), y, groups=names)
    chosen = search.best_params_["C"]
    assert said == (
        f"C = {chosen:g} (of 0.001, 0.01, 0.1, 1, 100), {search.best_score_:.2f} right in "
        f"{folds}-fold cross-validation by group, 90 samples"
    )
    np.testing.assert_allclose(
        logits(head, x), search.best_estimator_.decision_function(x), atol=1e-4
    )


def test_the_smallest_of_equally_good_values_is_taken():
    x, y, groups = blobs(spread=0.01)
    said = LinearSVM(ONE, CLASSES, c=(100.0, 10.0, 1.0)).fit_from(fittings(x, y, groups))
    assert said.startswith("C = 1 (of 1, 10, 100), 1.00 right")


def test_no_group_is_on_both_sides(monkeypatch):
    x, y, names = blobs(count=60, groups=9)
    group_of = {row.tobytes(): name for row, name in zip(x.astype(np.float64), names, strict=True)}
    fitted, scored = [], []
    fit, score = LinearSVC.fit, LinearSVC.score

    def groups(rows):
        return {group_of[row.tobytes()] for row in rows}

    monkeypatch.setattr(
        LinearSVC, "fit", lambda s, a, b: (fitted.append(groups(a)), fit(s, a, b))[1]
    )
    monkeypatch.setattr(
        LinearSVC, "score", lambda s, a, b: (scored.append(groups(a)), score(s, a, b))[1]
    )
    LinearSVM(ONE, CLASSES, c=(0.1, 1.0), folds=4).fit_from(fittings(x, y, names))
    assert len(scored) == 8
    assert len(fitted) == 9  # the last is fitted to all
    assert fitted.pop() == set(names)
    for learnt, asked in zip(fitted, scored, strict=True):
        assert learnt
        assert asked
        assert not learnt & asked


# ------------------------------------------------------------------------------ sentences


def test_no_label():
    x, y, groups = blobs()
    with pytest.raises(
        ValueError, match=r"^has nothing to learn from: no training clip has a label$"
    ):
        LinearSVM(ONE, CLASSES).fit_from(fittings(x, np.full_like(y, -1), groups))


def test_one_class():
    x, y, groups = blobs()
    with pytest.raises(ValueError, match=r"^needs training clips of two classes at least"):
        LinearSVM(ONE, CLASSES).fit_from(fittings(x, np.ones_like(y), groups))


def test_one_group():
    x, y, _ = blobs()
    with pytest.raises(ValueError, match=r"^compares values of c by groups .* 'g'; write one c$"):
        LinearSVM(ONE, CLASSES).fit_from(fittings(x, y, ["g"] * len(y)))


def test_a_fold_that_cannot_be_learnt_from():
    x, y, _ = blobs(classes=2)
    with pytest.raises(
        ValueError, match=r"^cannot compare values of c in 2 folds by group: .*one c$"
    ):
        LinearSVM(ONE, CLASSES).fit_from(fittings(x, y, [f"g{k}" for k in y]))


def test_features_that_are_no_numbers():
    x, y, groups = blobs()
    x[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"^gets features that are NaN or infinite"):
        LinearSVM(ONE, CLASSES).fit_from(fittings(x, y, groups))


def test_a_fit_that_does_not_converge_is_told(monkeypatch):
    x, y, groups = blobs(spread=3)
    fit = LinearSVC.fit

    def hurried(self, *given):
        warnings.warn("Liblinear failed to converge", ConvergenceWarning, stacklevel=1)
        return fit(self, *given)

    monkeypatch.setattr(LinearSVC, "fit", hurried)
    said = LinearSVM(ONE, CLASSES, c=1.0).fit_from(fittings(x, y, groups))
    assert said.endswith("; liblinear did not converge in 10000 steps; normalise its vectors")


@pytest.mark.parametrize(
    ("shape", "options", "text"),
    [
        (Shape(1, C, 7, 7), {}, "takes one vector per step, but gets maps of 7x7"),
        (ONE, {"c": 0.0}, "takes one c above 0, or several, but got 0.0"),
        (ONE, {"c": ()}, "takes one c above 0"),
        (ONE, {"c": (1.0, -1.0)}, "takes one c above 0"),
        (ONE, {"folds": 1}, "takes 2 folds or more, but got 1"),
    ],
)
def test_what_cannot_work(shape, options, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        LinearSVM(shape, CLASSES, **options)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^needs scikit-learn.*pip install 'actionkit\[scikit-"):
        LinearSVM(ONE, CLASSES)
