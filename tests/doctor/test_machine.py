"""Limits of containers, and folders that cannot be written."""

import os
from types import SimpleNamespace

import pytest
from sites import rows

from actionkit.doctor import machine


def test_python_and_platform_are_named():
    (row,) = rows(machine.python)
    assert row.state == "ok"


def test_a_container_s_share_of_the_processor_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    assert rows(machine.processor)[0][:3] == ("processor", "ok", "8 cores")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert rows(machine.processor)[0].state == "ok"
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (row,) = rows(machine.processor)
    assert row.text == "8 cores, but this container gets the time of 2.5"
    assert (row.state, row.cure) == ("warning", "data.workers=2")


def test_a_container_s_memory_is_what_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text(f"{64 * 2**20}\n")
    assert rows(machine.memory, "memory")[0].text == "0.1 GiB, limited by a container"
    (tmp_path / "memory.max").write_text("max\n")
    assert "limited" not in rows(machine.memory, "memory")[0].text


@pytest.mark.parametrize(("size", "state"), [(64 * 2**20, "warning"), (2 * 2**30, "ok")])
def test_little_shared_memory_is_a_warning(tmp_path, monkeypatch, size, state):
    monkeypatch.setattr(machine, "SHARED", tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(total=size))
    (row,) = rows(machine.memory, "shared memory")
    assert row.state == state
    assert state == "ok" or ("64 MiB" in row.text and "--shm-size=8g" in row.cure)


def test_folders_that_can_be_written_are_well_and_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "a" / "b"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 2**30))
    cache, here = rows(machine.folders)
    assert cache == ("cache folder", "ok", f"{tmp_path / 'a' / 'b'}, 5.0 GiB free", "", "")
    assert here.state == "ok"
    assert not list(tmp_path.iterdir())


def test_a_cache_folder_that_cannot_be_written_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "file" / "cache"))
    (row,) = rows(machine.folders, "cache folder")
    assert row.state == "fault"
    assert row.text.endswith("cannot be written: Not a directory")
    assert row.cure.startswith("export ACTIONKIT_CACHE=")


def test_a_full_disk_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    for row in rows(machine.folders):
        assert row.state == "warning"
        assert row.text.endswith(", 1 MiB free: almost full")
