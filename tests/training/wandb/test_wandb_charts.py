"""Charts and mistakes against counting by hand."""

import math

import pytest
import torch

from actionkit.training.wandb import charts
from actionkit.training.wandb.facts import nodes, tags

NAMES = ["a", "b", "c"]
SCORES = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]])
TARGETS = torch.tensor([0, 1, 1, -1])


def made(scores, targets, names):
    return dict(charts.charts(scores, targets, names))


def test_classes_count_what_is_labelled():
    table = made(SCORES, TARGETS, NAMES)["classes"]
    assert table.columns == ["class", "support", "average precision", "accuracy"]
    assert [row[:2] for row in table.data] == [["a", 1], ["b", 2], ["c", 0]]
    assert [row[3] for row in table.data] == [1.0, 0.5, None]
    # of a: found at the first rank; of b: at ranks 1 and 2; c does not occur
    assert [row[2] for row in table.data] == [pytest.approx(1), pytest.approx(1), None]


def test_logits_give_the_charts_of_their_probabilities():
    logits = SCORES.log() + torch.tensor([[3.0], [-1.0], [0.5], [0.0]])
    assert torch.allclose(charts.probabilities(logits), SCORES)
    given, wanted = (made(x, TARGETS, NAMES)["classes"].data for x in (logits, SCORES))
    assert given == wanted


def test_of_many_classes_the_pairs_most_confused_are_listed():
    names = [f"k{i:03}" for i in range(charts.MATRIX + 1)]
    targets = torch.tensor([5, 5, 7, 9])
    predicted = torch.tensor([6, 6, 8, 9])
    scores = torch.nn.functional.one_hot(predicted, len(names)).float()
    table = made(scores, targets, names)["confusion_matrix"]
    assert table.columns == ["true", "predicted", "count"]
    assert table.data == [["k005", "k006", 2], ["k007", "k008", 1]]


def test_curves_are_of_the_classes_found_worst():
    count = charts.CURVES + 3
    names = [f"k{i}" for i in range(count)]
    targets = torch.arange(count)
    scores = torch.eye(count)
    scores[0] = torch.nn.functional.one_hot(torch.tensor(1), count).float()  # 0 is never found
    chart = made(scores, targets, names)["precision_recall"]
    shown = {row[0] for row in chart.table.data}
    assert len(shown) == charts.CURVES
    assert {"k0", "k1"} <= shown


def test_several_labels_a_clip_have_curves_and_no_matrix():
    truth = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [math.nan] * 3])
    found = made(SCORES[:3], truth, NAMES)
    assert set(found) == {"classes", "precision_recall"}
    assert [row[:2] for row in found["classes"].data] == [["a", 1], ["b", 2], ["c", 0]]
    assert charts.worst(["x", "y", "z"], SCORES[:3], truth, NAMES, 5) == []


def test_without_labels_there_is_nothing_to_show():
    assert made(SCORES, torch.full((4,), -1), NAMES) == {}


def test_the_worst_mistakes_come_first_and_equals_by_id():
    scores = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.8, 0.2]])
    targets = torch.tensor([1, 1, 1, 1])
    found = charts.worst(["d", "c", "b", "a"], scores, targets, ["no", "yes"], 2)
    assert [mistake.id for mistake in found] == ["b", "d"]
    assert found[0][1:3] == ("yes", "no")
    assert found[0].confidence == pytest.approx(0.9)
    assert found[0].loss == pytest.approx(-math.log(0.1), rel=1e-5)
    every = charts.worst(["d", "c", "b", "a"], scores, targets, ["no", "yes"], 9)
    assert [mistake.id for mistake in every] == ["b", "d", "a"]  # c is right


def test_names_that_are_no_utf_8_can_be_sent():
    (name,) = charts.plain([b"caf\xe9".decode("utf-8", "surrogateescape")])
    name.encode()
    assert name == "caf\\udce9"


def test_tags_are_the_data_set_and_every_backbone():
    streams = {
        "rgb": {"backbone": {"use": "timm", "arch": "resnet50"}},
        "flow": {"backbone": [{"use": "tsm", "arch": "resnet18"}, "extra"]},
    }
    model = {"streams": streams, "joint": "slowfast"}
    recipe = {"data": {"dataset": {"use": "ucf101", "root": "x"}}, "model": model}
    assert list(tags(recipe)) == ["ucf101", "resnet50", "resnet18", "extra", "slowfast"]
    assert list(tags({})) == []
    assert nodes(None) == []
