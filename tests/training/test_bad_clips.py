import pytest

from actionkit.contracts import Bad
from actionkit.data.collate import collate
from actionkit.training.bad_clips import BadClips

FIRST = Bad("a", "/d/a.mp4", "list.txt:3", "pyav", "the file is empty")
SECOND = Bad("b", "/d/b.mp4", "/d/b.mp4", "pyav", "there is no such file")


class Printer:
    """The part of a trainer that prints."""

    def __init__(self):
        self.lines = []

    def print(self, line):
        self.lines.append(line)


def batch(*bad):
    return collate([])._replace(bad=bad)


def test_each_is_printed_once():
    told, trainer = BadClips(), Printer()
    for number, bad in enumerate([(FIRST,), (), (SECOND, FIRST), (SECOND, SECOND)]):
        told.on_train_batch_start(trainer, None, batch(*bad), number)
    told.on_validation_batch_start(trainer, None, batch(FIRST), 0)
    assert trainer.lines == [
        "unreadable, replaced by another clip: /d/a.mp4 (pyav): the file is empty [list.txt:3]",
        "unreadable, replaced by another clip: /d/b.mp4 (pyav): there is no such file",
    ]
    assert list(told.found.values()) == [FIRST, SECOND]


@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_test_batch_start"])
def test_in_evaluation_it_counts_as_missing(hook):
    told, trainer = BadClips(), Printer()
    getattr(told, hook)(trainer, None, batch(FIRST), 0, 0)
    assert trainer.lines == [
        "unreadable, counted as missing: /d/a.mp4 (pyav): the file is empty [list.txt:3]"
    ]


def test_two_entries_of_one_file_are_two():
    told, trainer = BadClips(), Printer()
    other = FIRST._replace(id="c", origin="list.txt:9")
    told.on_test_batch_start(trainer, None, batch(FIRST, other), 0)
    assert [line[-13:] for line in trainer.lines] == [" [list.txt:3]", " [list.txt:9]"]
