import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from actionkit.evaluation.metrics import MeanClassAccuracy, Top1, Top5

CLASSES = [f"c{i}" for i in range(8)]
METRICS = [Top1, Top5, MeanClassAccuracy]


def results(videos=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(videos, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 6, (videos,), generator=generator)  # two classes never occur
    scores[torch.arange(videos), target] += 1
    return scores, target


def naive(scores, target, k):
    hits = []
    for row, true in zip(scores.tolist(), target.tolist(), strict=True):
        hits.append(true in sorted(range(8), key=lambda c: -row[c])[:k])
    return hits


@pytest.mark.parametrize(("metric", "k"), [(Top1, 1), (Top5, 5)])
def test_top_k_equals_a_loop_and_torchmetrics(metric, k):
    scores, target = results()
    value = metric(CLASSES)(scores, target)
    hits = naive(scores, target, k)
    assert value == pytest.approx(sum(hits) / len(hits), abs=1e-12)
    torchs = multiclass_accuracy(scores, target, 8, average="micro", top_k=k)
    assert value == pytest.approx(torchs.item(), abs=1e-6)


def test_mean_class_accuracy_equals_a_loop():
    scores, target = results()
    hits = naive(scores, target, 1)
    recalls = []
    for c in range(8):
        own = [hit for hit, true in zip(hits, target.tolist(), strict=True) if true == c]
        if own:
            recalls.append(sum(own) / len(own))
    assert len(recalls) == 6
    assert MeanClassAccuracy(CLASSES)(scores, target) == pytest.approx(sum(recalls) / 6, abs=1e-12)


def test_mean_class_accuracy_is_torchmetrics_macro_where_all_classes_occur():
    scores, target = results()
    value = MeanClassAccuracy(CLASSES[:6])(scores[:, :6], target)
    torchs = multiclass_accuracy(scores[:, :6], target, 6, average="macro")
    assert value == pytest.approx(torchs.item(), abs=1e-6)


def test_a_class_predicted_but_never_true_is_not_averaged_in():
    """Where torchmetrics' macro average differs: it counts class 2 as recall 0."""
    scores = torch.eye(3)[torch.tensor([0, 0, 1, 2])]
    target = torch.tensor([0, 0, 1, 1])
    assert MeanClassAccuracy("abc")(scores, target) == 0.75
    assert multiclass_accuracy(scores, target, 3, average="macro").item() == pytest.approx(0.5)


def test_unbalanced_classes():
    scores = torch.eye(2)[torch.zeros(10, dtype=torch.int64)]
    target = torch.tensor([0] * 9 + [1])
    assert Top1("ab")(scores, target) == 0.9
    assert MeanClassAccuracy("ab")(scores, target) == 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_a_constant_predictor_gains_nothing(metric):
    assert metric(CLASSES)(torch.zeros(4, 8), torch.tensor([0, 1, 2, 3])) == 0


def test_top5_of_few_classes_is_1():
    for count in (1, 3, 5):
        scores, target = torch.randn(6, count), torch.randint(0, count, (6,))
        assert Top5(CLASSES[:count])(scores, target) == 1


def test_infinite_scores_are_ranked():
    scores = torch.tensor([[math.inf, 0.0], [-math.inf, 0.0]])
    assert Top1("ab")(scores, torch.tensor([0, 1])) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_refuses(metric):
    scores, target = results(3)
    with pytest.raises(ValueError, match=r"one true class a video.*float32 of shape \[3, 8\]"):
        metric(CLASSES)(scores, torch.zeros(3, 8))
    scores[1, 2] = math.nan
    with pytest.raises(ValueError, match="some are NaN"):
        metric(CLASSES)(scores, target)
