"""Thousands of files opened leave neither memory nor descriptors behind."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from videos import moving_frames, write_video

from actionkit.contracts import VideoReadError
from actionkit.data.readers.pyav import PyAV
from actionkit.testing import zoo
from actionkit.testing.subject import open_files

PAGES = Path("/proc/self/statm")
OPENS, LEAST = 2_000, 5e6


def resident():
    """Bytes of this process in memory."""
    gc.collect()
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not PAGES.is_file(), reason="this system does not tell the size of a process")
def test_opening_two_thousand_times_costs_nothing_that_stays(tmp_path):
    good = write_video(tmp_path / "a.mp4", moving_frames(8))
    (tmp_path / "bad").mkdir()
    bad = zoo.bad(tmp_path / "bad")
    reader, indices = PyAV(), np.array([1, 4, 6])

    def use(times):
        for _ in range(times):
            reader.read(good, indices)
        for _ in range(times // 2):
            with pytest.raises(VideoReadError):
                reader.probe(bad["text"])

    use(200)
    files, size = open_files(), resident()
    use(OPENS)
    assert open_files() == files
    assert resident() - size < LEAST
