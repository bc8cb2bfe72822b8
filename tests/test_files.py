"""Files are written whole or not at all, and what the dead left is removed."""

import contextlib
import os

from unfinished import ended, part

from actionkit.files import DEAD_AFTER, HOST, remove_unfinished, replacing, write


def test_writes_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "results.json"
    write(file, "first\n")
    with contextlib.suppress(RuntimeError), replacing(file) as half:
        half.write(b"x" * 100_000)
        raise RuntimeError("in the middle")
    assert file.read_text() == "first\n"
    assert list(tmp_path.iterdir()) == [file]  # no temporary one left
    write(file, "second\n")
    assert file.read_text() == "second\n"
    write(file, "caf\udce9.mp4")  # the name of a file that is no UTF-8
    assert file.read_text(encoding="utf-8") == "caf\\udce9.mp4"


def test_only_dead_processes_unfinished_files_are_removed(tmp_path):
    gone = [
        part(tmp_path, HOST, ended()),
        part(tmp_path, HOST, os.getpid()),  # this one writes nothing yet
        part(tmp_path, "elsewhere", 1, idle=DEAD_AFTER + 60),
        part(tmp_path, HOST, os.getppid(), idle=DEAD_AFTER + 60, name="old"),  # number reused
    ]
    kept = [
        part(tmp_path, HOST, os.getppid()),
        part(tmp_path, "elsewhere", ended(), idle=DEAD_AFTER - 60),
    ]
    others = [
        "best.ckpt",
        ".hidden",
        ".best.ckpt.x.1.tmp",
        "a.b.1.actionkit-part",
        ".x.actionkit-part",
    ]
    for name in others:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_unfinished(tmp_path)
    assert not any(path.exists() for path in gone)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept} | set(others)


def test_unfinished_files_are_known_by_the_name_they_get(tmp_path):
    with replacing(tmp_path / "a.b.ckpt"):
        assert len(list(tmp_path.iterdir())) == 1
        remove_unfinished(tmp_path)  # by this very process: it counts as left from before
        assert list(tmp_path.iterdir()) == []
        (tmp_path / f".a.b.ckpt.{HOST}.{os.getpid()}.actionkit-part").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.b.ckpt"]
