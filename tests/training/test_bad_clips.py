import json

import pytest

from actionkit.contracts import Bad
from actionkit.data.collate import collate
from actionkit.errors import TooManyBadClipsError
from actionkit.training.bad_clips import BadClips

FIRST = Bad("a", "/d/a.mp4", "list.txt:3", "pyav", "the file is empty")
SECOND = Bad("b", "/d/b.mp4", "/d/b.mp4", "pyav", "there is no such file")
CLIPS = {"train": 10, "val": 4, "test": 4}


class Printer:
    """The part of a trainer that prints."""

    def __init__(self):
        self.lines = []

    def print(self, line):
        self.lines.append(line)


def batch(*bad):
    return collate([])._replace(bad=bad)


@pytest.fixture
def told(tmp_path):
    return BadClips(tmp_path / "bad_clips.jsonl", CLIPS, max_bad=0.5)


def listed(told):
    return [json.loads(line) for line in told.file.read_text().splitlines()]


def test_each_is_printed_and_listed_once(told):
    trainer = Printer()
    for number, bad in enumerate([(FIRST,), (), (SECOND, FIRST), (SECOND, SECOND)]):
        told.on_train_batch_start(trainer, None, batch(*bad), number)
    assert trainer.lines == [
        "unreadable, replaced by another clip: /d/a.mp4 (pyav): the file is empty [list.txt:3]",
        "unreadable, replaced by another clip: /d/b.mp4 (pyav): there is no such file",
    ]
    assert listed(told) == [{"split": "train", **bad._asdict()} for bad in (FIRST, SECOND)]


@pytest.mark.parametrize("split", ["val", "test"])
def test_in_evaluation_it_counts_as_missing(told, split):
    trainer = Printer()
    hook = told.on_validation_batch_start if split == "val" else told.on_test_batch_start
    hook(trainer, None, batch(FIRST), 0, 0)
    assert trainer.lines == [
        "unreadable, counted as missing: /d/a.mp4 (pyav): the file is empty [list.txt:3]"
    ]
    assert [entry["split"] for entry in listed(told)] == [split]


def test_two_entries_of_one_file_are_two(told):
    trainer = Printer()
    other = FIRST._replace(id="c", origin="list.txt:9")
    told.on_test_batch_start(trainer, None, batch(FIRST, other), 0)
    assert [line[-13:] for line in trainer.lines] == [" [list.txt:3]", " [list.txt:9]"]


def test_what_an_earlier_command_listed_is_not_listed_again(told):
    again = BadClips(told.file, CLIPS, max_bad=0.5, tested="val")
    told.on_validation_batch_start(Printer(), None, batch(FIRST), 0)
    trainer = Printer()
    again.on_test_batch_start(trainer, None, batch(FIRST, SECOND), 0)
    assert len(trainer.lines) == 2
    assert [(entry["split"], entry["id"]) for entry in listed(told)] == [("val", "a"), ("val", "b")]


def test_the_budget_is_a_share_of_the_split(tmp_path):
    told = BadClips(tmp_path / "bad_clips.jsonl", CLIPS, max_bad=0.25)
    told.on_validation_batch_start(Printer(), None, batch(FIRST, FIRST), 0)  # 1 of 4
    told.on_train_batch_start(Printer(), None, batch(FIRST, SECOND), 0)  # 2 of 10
    with pytest.raises(TooManyBadClipsError) as caught:
        told.on_validation_batch_start(Printer(), None, batch(SECOND), 1)
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert text.startswith(
        "2 of 4 clips of 'val' cannot be read, and data.max_bad allows a share of 0.25:\n"
        "  /d/a.mp4 (pyav): the file is empty [list.txt:3]\n"
    )
    assert str(told.file) in text
    assert "raise data.max_bad" in text
    assert len(listed(told)) == 4  # also what broke the budget


def test_only_the_first_are_shown(tmp_path):
    told = BadClips(tmp_path / "bad_clips.jsonl", {"train": 9}, max_bad=0)
    many = [FIRST._replace(id=str(i)) for i in range(8)]
    with pytest.raises(TooManyBadClipsError, match="  and 3 more\n"):
        told.add("train", many, print)


def test_names_that_are_not_utf_8_are_listed(told):
    strange = FIRST._replace(path="/d/\udcff.mp4")
    told.on_train_batch_start(Printer(), None, batch(strange), 0)
    assert listed(told)[0]["path"] == "/d/\udcff.mp4"
