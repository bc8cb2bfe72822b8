"""Makers of files that a process left unfinished."""

import os
import subprocess
import sys
import time


def ended():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def part(folder, host, process, *, idle=0.0, name="best.ckpt"):
    path = folder / f".{name}.{host}.{process}.actionkit-part"
    path.touch()
    os.utime(path, (time.time() - idle,) * 2)
    return path
