import io

import pytest
from makers import Listed, bad_files, good_files, records
from rich.console import Console

from actionkit.contracts import Record
from actionkit.data.preflight import preflight
from actionkit.data.readers.pyav import PyAV


class Counting(PyAV):
    """Counts what it opens, and decodes nothing."""

    def __init__(self):
        self.probed = []

    def probe(self, path):
        self.probed.append(path)
        return super().probe(path)

    def read(self, path, indices):
        raise AssertionError("a look does not decode")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return good_files(tmp_path_factory.mktemp("good"), 3, frames=4)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return bad_files(tmp_path_factory.mktemp("bad"))


def look(datasets, reader=None):
    return list(preflight(datasets, reader or Counting(), Console(file=io.StringIO())))


def test_counts_each_split_and_names_the_bad(good, bad):
    files = [good[0], bad["empty"], good[1], bad["text"], bad["missing"], bad["audio"]]
    lines = look({"train": Listed(records(good)), "val": Listed(records(files))})
    assert lines[0] == "train: 3 of 3 clips can be opened"
    assert lines[-1] == "val: 2 of 6 clips can be opened"
    named = lines[1:-1]
    assert len(named) == 4
    for line, what, place in zip(
        named, ("empty", "text", "missing", "audio"), (2, 4, 5, 6), strict=True
    ):
        assert line.startswith(f"  unreadable: {bad[what]} (pyav): ")
        assert line.endswith(f" [list.txt:{place}]")


def test_an_origin_that_is_the_file_is_not_said_twice(bad):
    record = Record("a", {"rgb": bad["empty"]}, origin=str(bad["empty"]))
    (line, _) = look({"train": Listed([record])})
    assert line.count(str(bad["empty"])) == 1
    assert "[" not in line


def test_the_same_clips_are_looked_at_once(good):
    data, reader = Listed(records(good)), Counting()
    lines = look({"train": data, "val": Listed(records(good[:1])), "test": data}, reader)
    assert lines[-1] == "test: the same clips as train"
    assert sorted(reader.probed) == sorted([*good, good[0]])


def test_other_files_or_times_under_the_same_ids_are_other_clips(good, bad):
    def split(path, end=None):
        return Listed([Record("clip", {"rgb": path}, end=end)])

    lines = look({"train": split(good[0]), "val": split(bad["empty"]), "test": split(good[0], 1.0)})
    assert lines[0] == "train: 1 of 1 clips can be opened"
    assert lines[2] == "val: 0 of 1 clips can be opened"
    assert lines[3] == "test: 1 of 1 clips can be opened"


def test_every_modality_is_opened(good, bad):
    lines = look({"train": Listed([Record("a", {"rgb": good[0], "flow": bad["missing"]})])})
    assert "missing.mp4" in lines[0]
    assert lines[1] == "train: 0 of 1 clips can be opened"


def test_data_are_made_before_they_are_looked_at(good):
    class Late(Listed):
        def prepare(self):
            self.records = records(good)

    assert look({"train": Late([])}) == ["train: 3 of 3 clips can be opened"]
