import io

import pytest
from makers import Listed, bad_files, good_files, records
from rich.console import Console

from actionkit.contracts import Record
from actionkit.data.preflight import preflight
from actionkit.data.readers.pyav import PyAV
from actionkit.data.sources import Sources


class Counting(PyAV):
    """Counts what it opens, and decodes nothing."""

    def __init__(self):
        super().__init__()
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
    return list(preflight(datasets, Sources(reader or Counting()), Console(file=io.StringIO())))


def said(datasets, reader=None):
    return [str(line) for line in look(datasets, reader)]


def test_counts_each_split_and_names_the_bad(good, bad):
    files = [good[0], bad["empty"], good[1], bad["text"], bad["missing"], bad["audio"]]
    train, val = look({"train": Listed(records(good)), "val": Listed(records(files))})
    assert str(train) == "train: 3 of 3 clips can be opened"
    assert str(val) == "val: 2 of 6 clips can be opened"
    assert train.bad == []
    found = [(b.path, b.origin, b.reader) for b in val.bad]
    places = zip(("empty", "text", "missing", "audio"), (2, 4, 5, 6), strict=True)
    assert found == [(str(bad[what]), f"list.txt:{place}", "pyav") for what, place in places]


def test_the_same_clips_are_looked_at_once(good):
    data, reader = Listed(records(good)), Counting()
    lines = said({"train": data, "val": Listed(records(good[:1])), "test": data}, reader)
    assert lines[-1] == "test: the same clips as train"
    assert sorted(reader.probed) == sorted([*good, good[0]])


def test_other_files_or_times_under_the_same_ids_are_other_clips(good, bad):
    def split(path, end=None):
        return Listed([Record("clip", {"rgb": path}, end=end)])

    lines = said({"train": split(good[0]), "val": split(bad["empty"]), "test": split(good[0], 1.0)})
    assert lines == [
        "train: 1 of 1 clips can be opened",
        "val: 0 of 1 clips can be opened",
        "test: 1 of 1 clips can be opened",
    ]


def test_every_modality_is_opened(good, bad):
    (line,) = look({"train": Listed([Record("a", {"rgb": good[0], "flow": bad["missing"]})])})
    assert [b.path for b in line.bad] == [str(bad["missing"])]
    assert str(line) == "train: 0 of 1 clips can be opened"


def test_data_are_made_before_they_are_looked_at(good):
    class Late(Listed):
        def prepare(self):
            self.records = records(good)

    assert said({"train": Late([])}) == ["train: 3 of 3 clips can be opened"]
