import csv
import io
import json

import pytest
import torch
from rich.console import Console

from actionkit.contracts import Bad
from actionkit.evaluation import report
from actionkit.tasks.recognition import Results

BAD = [
    Bad("v3", "/d/v3.avi", "list.txt:4", "pyav", "the file is empty"),
    Bad("v4", "/d/v4.avi", "list.txt:5", "pyav", "there is no such file"),
]
SCORES = {
    "scores": torch.tensor([[0.75, 0.25], [0.125, 0.875], [0.5, 0.5]]),
    "rgb": torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]),
}


def results(**changes) -> Results:
    found = Results(
        ids=["v0", "v1", "v2"],
        targets=dict.fromkeys(SCORES, torch.tensor([0, 1, -1])),
        scores=SCORES,
        metrics={
            "scores": {"top1": 0.875, "mean_class_accuracy": 0.5},
            "rgb": {"top1": 0.25, "mean_class_accuracy": 0.125},
            "flow": {"top1": 1 / 3},
        },
        bad=BAD,
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def rows(found, title="val") -> list[list[str]]:
    table = report.table(found, title)
    return list(map(list, zip(*(column.cells for column in table.columns), strict=True)))


def test_table_has_a_row_a_stream_and_the_fused_one_last():
    assert rows(results()) == [
        ["rgb", "0.250", "0.125"],
        ["flow", "0.333", "-"],
        ["fused", "0.875", "0.500"],
    ]
    names = [str(column.header) for column in report.table(results(), "val").columns]
    assert names == ["scores of", "top1", "mean class accuracy"]


def test_table_of_one_stream_and_of_several_without_fusion():
    alone = {"scores": {"top1": 0.5}}
    assert rows(results(metrics=alone)) == [["network", "0.500"]]
    heads = {"rgb_verb": {"top1": 0.5}, "rgb_noun": {"top1": 0.25}}
    assert rows(results(metrics=heads)) == [["rgb_verb", "0.500"], ["rgb_noun", "0.250"]]


def test_table_prints_its_title():
    console = Console(file=io.StringIO(), width=80)
    console.print(report.table(results(), "val: 3 of 5 videos"))
    assert "val: 3 of 5 videos" in console.file.getvalue()


def test_coverage_in_words_and_as_a_share():
    assert report.coverage(results()) == "3 of 5 videos (2 unreadable, coverage 60.0%)"
    assert report.coverage(results(bad=[])) == "3 of 3 videos"
    assert results().coverage == 0.6
    assert results(bad=BAD + BAD).coverage == 0.6  # two items of one video
    assert results(ids=[], bad=BAD).coverage == 0
    assert results(ids=[], bad=[]).coverage == 0


def as_json(found):
    options = {"protocol": "p", "checkpoint": "c.ckpt", "versions": {"torch": "2"}}
    return report.as_json(found, split="val", **options)


def test_json_of_a_command():
    made = as_json(results())
    assert json.loads(json.dumps(made)) == {
        "split": "val",
        "protocol": "p",
        "checkpoint": "c.ckpt",
        "coverage": 0.6,
        "videos": 3,
        "missing": [bad._asdict() for bad in BAD],
        "metrics": {"top1": 0.875, "mean_class_accuracy": 0.5},
        "streams": {
            "rgb": {"top1": 0.25, "mean_class_accuracy": 0.125},
            "flow": {"top1": 1 / 3},
        },
        "versions": {"torch": "2"},
    }


def test_json_names_the_missing():
    missing = as_json(results())["missing"]
    assert missing[0] == {
        "id": "v3",
        "path": "/d/v3.avi",
        "origin": "list.txt:4",
        "reader": "pyav",
        "reason": "the file is empty",
    }
    assert [entry["id"] for entry in missing] == ["v3", "v4"]


def test_json_without_a_fusion_takes_the_first_output():
    made = as_json(results(metrics={"verb": {"top1": 0.5}, "noun": {"top1": 0.25}}))
    assert made["metrics"] == {"top1": 0.5}
    assert made["streams"] == {"noun": {"top1": 0.25}}


def table_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_predictions_are_the_whole_networks_scores():
    text = report.predictions(results(), ["clap", "wave, slow"], {"scores": "scores"})
    assert table_of(text) == [
        ["id", "target", "clap", "wave, slow"],
        ["v0", "0", "0.75", "0.25"],
        ["v1", "1", "0.125", "0.875"],
        ["v2", "-1", "0.5", "0.5"],
    ]
    assert text.endswith("\n")
    assert "\r" not in text


def test_predictions_of_several_heads_stand_side_by_side():
    scores = {"rgb_verb": SCORES["scores"], "rgb_noun": torch.eye(3)}
    heads = {"rgb_verb": "verb", "rgb_noun": "noun"}
    classes = {"verb": ["put", "take"], "noun": ["cup", "pan", "lid"]}
    targets = {"rgb_verb": torch.tensor([0, 1, -1]), "rgb_noun": torch.tensor([2, 0, 1])}
    found = results(scores=scores, targets=targets)
    found = table_of(report.predictions(found, classes, heads))
    assert found[0][1:4] == ["rgb_verb/target", "rgb_verb/put", "rgb_verb/take"]
    assert found[0][4:] == ["rgb_noun/target", "rgb_noun/cup", "rgb_noun/pan", "rgb_noun/lid"]
    assert found[1] == ["v0", "0", "0.75", "0.25", "2", "1", "0", "0"]


def test_predictions_of_soft_targets():
    soft = torch.tensor([[0.5, 0.5], [1.0, 0.0], [torch.nan, torch.nan]])
    found = table_of(
        report.predictions(results(targets={"scores": soft}), ["a", "b"], {"scores": "scores"})
    )
    assert [row[1] for row in found[1:]] == ["0.5 0.5", "1 0", "nan nan"]


def test_predictions_keep_six_digits():
    scores = {"scores": torch.tensor([[1 / 3, 2e-7]])}
    found = results(ids=["v0"], targets={"scores": torch.tensor([0])}, scores=scores)
    (_, row) = table_of(report.predictions(found, ["a", "b"], {"scores": "scores"}))
    assert [float(v) for v in row[2:]] == pytest.approx([1 / 3, 2e-7], rel=1e-5)


def test_nothing_read():
    empty = results(
        ids=[],
        targets={"scores": torch.zeros(0, dtype=torch.int64)},
        scores={"scores": torch.zeros(0, 0)},
        metrics={"scores": {}},
    )
    text = report.predictions(empty, ["a", "b"], {"scores": "scores"})
    assert table_of(text) == [["id", "target", "a", "b"]]
    assert as_json(empty)["metrics"] == {}
    assert rows(empty) == [["network"]]
