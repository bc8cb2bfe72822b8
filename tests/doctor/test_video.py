"""Readers that read, that give wrong frames, and that fail."""

import pytest
from sites import fresh, rows

from actionkit.doctor import video

site = pytest.fixture(fresh)

READERS = "actionkit.readers"
CODE = """
from actionkit.data.readers.pyav import PyAV


class Late(PyAV):
    '''The frame after the wanted one.'''

    def read(self, path, indices):
        return super().read(path, (indices + 1) % self.probe(path).frames)


class Failing(PyAV):
    '''None.'''

    def probe(self, path):
        raise OSError("no decoder")


class Asking(PyAV):
    '''Needs a key.'''

    def __init__(self, *, key: str):
        self.key = key
"""


def test_our_default_reader_reads():
    (row,) = rows(video.readers, "pyav")
    assert row.state == "ok"


def test_readers_of_wrong_frames_are_faults_and_a_good_one_is_named(site):
    names = {"late": "Late", "failing": "Failing", "asking": "Asking", "broken": "NotThere"}
    points = {READERS: {name: f"odd_readers:{target}" for name, target in names.items()}}
    site.install("odd-readers", points, code=CODE)
    found = {row.name: row for row in rows(video.readers)}
    assert found["pyav"].state == "ok"
    late = found["late"]
    assert (late.state, late.cure) == ("fault", "data.reader=pyav")
    assert late.text.startswith("h264.mp4: of [0, 1, ")
    assert "0 gives frame 1" in late.text
    failing = found["failing"]
    assert (failing.state, failing.cure) == ("fault", "data.reader=pyav")
    assert failing.text == "fails on a small video: OSError: no decoder"
    asking = found["asking"]
    assert (asking.state, asking.text) == ("ok", "was not tried: it needs the option key")
    assert "broken" not in found  # the plugins' checks say so


def test_without_any_good_reader_pyav_is_installed_again(monkeypatch):
    monkeypatch.setattr(video, "_wrong", lambda entry: "h264.mp4: gives nothing")
    assert {row.cure for row in rows(video.readers)} == {video.REINSTALL}


def test_a_codec_that_is_not_there_is_a_fault(monkeypatch):
    (row,) = rows(video.codecs)
    assert row.state == "ok"
    monkeypatch.setattr(video, "DECODERS", ("h264", "no_such_codec"))
    monkeypatch.setattr(video, "ENCODERS", ("libnothing",))
    (row,) = rows(video.codecs)
    assert row.state == "fault"
    assert row.text.endswith(": no no_such_codec decoder, no libnothing encoder")
    assert row.cure == video.REINSTALL
