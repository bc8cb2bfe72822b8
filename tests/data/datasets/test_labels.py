from contextlib import suppress
from pathlib import Path

import pytest

from actionkit.data.datasets.labels import Labels, learn_labels, name_labels
from actionkit.data.datasets.lists import Problems

TRAIN = Path("train.txt")


def test_names_learnt_are_sorted():
    labels = learn_labels(["run", "jump", "run"], TRAIN, Problems())
    assert labels.classes == ["jump", "run"]
    assert [labels.target(x) for x in ("jump", "run", "")] == [0, 1, -1]


def test_numbers_learnt_name_themselves_in_the_order_of_numbers():
    labels = learn_labels([str(n) for n in (10, *range(10))], TRAIN, Problems())
    assert labels.classes == [str(n) for n in range(11)]
    assert [labels.target(x) for x in ("10", "2", "002", "+3", "")] == [10, 2, 2, 3, -1]


@pytest.mark.parametrize(
    ("found", "missing", "most"), [("1 2 3", 0, 3), ("0 1 999999999", 2, 999999999)]
)
def test_numbers_that_leave_one_out_are_refused(found, missing, most):
    sentence = (
        rf"train.txt: no clip has label {missing}, though labels go up to {most}; count from 0"
    )
    with pytest.raises(ValueError, match=sentence):
        learn_labels(found.split(), TRAIN, Problems())


def test_given_names_keep_their_order_and_need_no_clip():
    labels = name_labels(["run", "jump", "sit"], ["jump"], Problems())
    assert [labels.target(x) for x in ("run", "jump", "sit")] == [0, 1, 2]
    labels = name_labels(["run", "jump", "sit"], ["2"], Problems())
    assert [labels.target(x) for x in "012"] == [0, 1, 2]


def test_a_label_that_is_the_name_of_a_class_is_that_class():
    assert name_labels(["7", "5", "run"], ["5"], Problems()).target("5") == 1


@pytest.mark.parametrize(
    ("text", "first"),
    [("jump\nrun far\n", 0), ("0 jump\n1 run far\n", 0), ("1 jump\r\n2\trun far\r\n\r\n", 1)],
)
def test_a_file_of_classes_may_number_them_from_0_or_1(tmp_path, text, first):
    (tmp_path / "classes.txt").write_text(text)
    by_number = name_labels(tmp_path / "classes.txt", [str(first)], Problems())
    assert by_number.classes == ["jump", "run far"]
    assert [by_number.target(str(first + i)) for i in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=rf"label 7 outside {first}\.\.{first + 1} \(2 classes\)"):
        by_number.target("7")
    assert name_labels(tmp_path / "classes.txt", ["jump"], Problems()).target("run far") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"classes.txt: expected names of classes, got \[\]"),
        ("run\njump\nrun\n", r"classes.txt: 'run' is named more than once; take out all but one"),
        ("0 run\n2 jump\n", r"classes.txt:2: expected number 1, got 2"),
        ("5 run\n6 jump\n", r"classes.txt:1: expected number 0, got 5"),
    ],
)
def test_files_of_classes_that_cannot_be_used(tmp_path, text, sentence):
    (tmp_path / "classes.txt").write_text(text)
    problems = Problems()
    with suppress(ValueError):  # only where there is no class at all
        name_labels(tmp_path / "classes.txt", ["run"], problems)
    with pytest.raises(ValueError, match=sentence):
        problems.require_none()


def test_given_lists_that_cannot_be_used():
    for names in ([], ["run", ""]):
        with pytest.raises(ValueError, match="classes: expected names of classes"):
            name_labels(names, ["run"], Problems())


@pytest.mark.parametrize(
    ("labels", "label", "sentence"),
    [
        (Labels([*"abc"], 0), "3", r"label 3 outside 0\.\.2 \(3 classes\)"),
        (Labels([*"abc"], 0), "-1", r"label -1 outside 0\.\.2 \(3 classes\)"),
        (Labels([*"abc"], 0), "x", "label 'x' is no number, unlike the first of train; write one"),
        (Labels([*"abc"]), "x", "label 'x' is none of the 3 classes"),
        (Labels([*"abc"]), "1", "label '1' is a number, unlike the first of train; write one kind"),
    ],
)
def test_wrong_labels(labels, label, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        labels.target(label)
