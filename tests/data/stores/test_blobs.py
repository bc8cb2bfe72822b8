"""Blobs on the disk: what a writer puts there, and what is left when it is killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from actionkit.data.stores import blobs as module
from actionkit.data.stores.blobs import (
    DATA,
    ENDS,
    VIDEOS,
    PartFile,
    StoreError,
    Video,
    Writer,
    decode,
    name_of,
    read_blobs,
    table,
)
from actionkit.errors import RunError
from actionkit.testing.subject import open_files

FILES = (DATA, ENDS, VIDEOS)


def content(number):
    """The blobs of a video, each of other bytes and another length."""
    rng = np.random.default_rng(number)
    return [rng.bytes(int(rng.integers(0, 50))) for _ in range(3 + number)]


def part(folder, number):
    file = PartFile(folder / f"{number}.data")
    file.add(b"")
    for blob in content(number):
        file.add(blob)
    made = file.finish(Video(f"v{number}.mp4", 0, 0, 9, 25.0, 0.36, 4, 6))
    file.close()
    return made


def write(store, numbers):
    store.mkdir(exist_ok=True)
    writer = Writer(store)
    for number in numbers:
        writer.append(part(store.parent, number))
    writer.close()
    return store


def bytes_of(store):
    return {name: (store / name).read_bytes() for name in FILES}


def test_blobs_come_back_by_number(tmp_path):
    store = write(tmp_path / "store", range(4))
    videos = table(store).videos
    everything = [blob for number in range(4) for blob in (b"", *content(number))]
    assert [(v.first, v.blobs) for v in videos.values()] == [(0, 4), (4, 5), (9, 6), (15, 7)]
    assert list(read_blobs(store, np.arange(22))) == everything
    rng = np.random.default_rng(0)
    for count in (0, 1, 5, 21):
        some = np.sort(rng.permutation(22)[:count])
        assert list(read_blobs(store, some)) == [everything[i] for i in some] if count else True
    assert {p.name for p in tmp_path.iterdir()} == {"store"}  # parts are gone


def test_long_runs_are_read_in_pieces(tmp_path, monkeypatch):
    store = write(tmp_path / "store", [40])
    monkeypatch.setattr(module, "AT_ONCE", 7)
    assert list(read_blobs(store, np.arange(1, 44))) == content(40)


def test_writing_in_two_goes_is_writing_in_one(tmp_path):
    whole = write(tmp_path / "whole", range(4))
    other = write(tmp_path / "other", [0, 1])
    write(other, [])
    assert bytes_of(write(other, [2, 3])) == bytes_of(whole)


def test_any_tail_behind_the_last_whole_video_is_cut_off(tmp_path):
    before, whole = write(tmp_path / "a", range(2)), write(tmp_path / "b", range(3))
    start, end = bytes_of(before), bytes_of(whole)
    torn = tmp_path / "torn"
    places = {name: range(len(start[name]), len(end[name])) for name in FILES}
    cuts = [(d, len(start[ENDS]), len(start[VIDEOS])) for d in places[DATA][::9]]
    cuts += [(len(end[DATA]), e, len(start[VIDEOS])) for e in places[ENDS][::3]]
    cuts += [(len(end[DATA]), len(end[ENDS]), v) for v in places[VIDEOS][::9]]
    for cut in cuts:
        torn.mkdir()
        for name, size in zip(FILES, cut, strict=True):
            (torn / name).write_bytes(end[name][:size])
        assert list(table(torn).videos) == ["v0.mp4", "v1.mp4"]
        assert bytes_of(write(torn, [])) == start
        assert bytes_of(write(torn, [2])) == end
        shutil.rmtree(torn)


@pytest.mark.parametrize("name", [DATA, ENDS])
def test_what_is_cut_short_is_said(tmp_path, name):
    store = write(tmp_path / "store", range(2))
    size = (store / name).stat().st_size
    os.truncate(store / name, size - 1)
    said = f"is cut short: its {name} has {size - 1} bytes and should have {size}"
    assert table(store).damage == f"{said}; copy it anew, or remove it and extract again"
    with pytest.raises(RunError, match=said):
        Writer(store)


def test_a_damaged_table_is_said(tmp_path):
    store = write(tmp_path / "store", range(2))
    lines = (store / VIDEOS).read_bytes()
    (store / VIDEOS).write_bytes(b"?" + lines[1:])
    assert table(store).damage.startswith(f"has a damaged {VIDEOS} (")
    with pytest.raises(RunError, match="remove it and extract again"):
        Writer(store)
    (store / VIDEOS).write_bytes(lines)
    assert len(table(store).videos) == 2  # what has changed is read again


def test_two_processes_do_not_write_one_store(tmp_path):
    store = write(tmp_path / "store", [0])
    writer = Writer(store)
    code = f"from actionkit.data.stores.blobs import *; Writer(Path({str(store)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{store} is being written by another process; wait for it" in done.stderr
    writer.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_stays_open(tmp_path):
    before = open_files()
    store = write(tmp_path / "store", range(2))
    table(store)
    next(read_blobs(store, np.arange(5)))
    assert open_files() == before
    os.truncate(store / DATA, 1)
    with pytest.raises(RunError):
        Writer(store)
    assert open_files() == before


def test_names_are_paths_from_the_root_with_slashes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of(tmp_path / "a" / "b é.mp4", str(tmp_path)) == "a/b é.mp4"
    assert name_of(tmp_path / "a" / ".." / "b.mp4", str(tmp_path)) == "b.mp4"
    assert name_of(Path("a/b.mp4"), str(tmp_path)) == "a/b.mp4"


def test_decoding_refuses_what_is_no_whole_picture():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    blob = cv2.imencode(".jpg", image)[1].tobytes()
    right = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decode(blob, cv2.IMREAD_COLOR, 8, 12), right)
    empty = blob[:2] + blob[-2:]
    for bad, height in [(blob[:-1], 8), (b"", 8), (empty, 8), (bytes(99), 8), (blob, 9)]:
        with pytest.raises(StoreError, match="is damaged: its bytes are no "):
            decode(bad, cv2.IMREAD_COLOR, height, 12)
