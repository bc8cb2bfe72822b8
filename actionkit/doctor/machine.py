"""Python, cores, memory, and the folders that runs write to."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actionkit.doctor.result import Result, fault, ok, warning

GIB = 2**30
SHARED = Path("/dev/shm")  # noqa: S108  where loader workers hand over their batches
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
SHM_CURE = "docker run --shm-size=8g ... (or --ipc=host); or data.workers=0"


def python() -> Iterator[Result]:
    """Version and platform."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield ok("python", f"{platform.python_version()} in {sys.prefix}, on {system}")


def processor() -> Iterator[Result]:
    """Cores this process may use, and what a container lets it have of them."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    text = f"{cores} core{'s' if cores > 1 else ''}"
    quota, _, period = _limit(CPU_LIMIT).partition(" ")
    if quota.isdigit() and period.isdigit() and int(quota) < cores * int(period):
        share = int(quota) / int(period)
        text += f", but this container gets the time of {share:g}"
        yield warning("processor", text, f"data.workers={max(1, int(share))}")
        return
    yield ok("processor", text)


def memory() -> Iterator[Result]:
    """Main memory, and the shared memory that workers need."""
    if hasattr(os, "sysconf"):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = _limit(MEMORY_LIMIT)
        limited = limit.isdigit() and int(limit) < size
        size = int(limit) if limited else size
        yield ok("memory", f"{size / GIB:.1f} GiB{', limited by a container' if limited else ''}")
    if SHARED.is_dir():
        size = shutil.disk_usage(SHARED).total
        if size < GIB:
            text = f"{SHARED} has {_size(size)}; workers pass batches through it and need 1 GiB"
            yield warning("shared memory", text, SHM_CURE)
        else:
            yield ok("shared memory", f"{_size(size)} in {SHARED}")


def folders() -> Iterator[Result]:
    """The cache folder and the working directory can be written and have room."""
    from actionkit.data.datasets.probes import cache_folder

    cache, here = cache_folder(), Path.cwd()
    if reason := _unwritable(cache):
        cure = "export ACTIONKIT_CACHE=/a/folder/you/may/write"
        yield fault("cache folder", f"{cache} cannot be written: {reason}", cure)
    else:
        yield _room("cache folder", cache, "export ACTIONKIT_CACHE=/a/folder/on/another/disk")
    cure = "actionkit fit RECIPE --run /a/folder/elsewhere"
    if reason := _unwritable(here):
        yield warning("working folder", f"{here} cannot be written: {reason}", cure)
    else:
        yield _room("working folder", here, cure)


def _limit(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(at for at in (folder, *folder.absolute().parents) if at.exists())


def _unwritable(folder: Path) -> str:
    """Why no file can be made in a folder, or in the one it would be made in; empty if it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _room(name: str, folder: Path, cure: str) -> Result:
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{folder}, {_size(free)} free"
    return warning(name, f"{text}: almost full", cure) if free < GIB else ok(name, text)
