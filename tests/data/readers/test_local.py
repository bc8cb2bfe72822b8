import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from files_for_readers import CLIP, read, reason
from videos import moving_frames, write_video

from actionkit.contracts import VideoReadError
from actionkit.data.readers import video
from actionkit.data.readers.pyav import PyAV


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_frames(60), **CLIP)


def test_memory_lies_in_frame_order(clip):
    frames = PyAV().read(clip, np.array([3, 3, 1]))
    assert frames.shape == (3, 3, 48, 64)
    assert frames.permute(0, 2, 3, 1).is_contiguous()
    assert PyAV().read(clip, np.array([], np.int64)).shape == (0, 3, 48, 64)


def test_frames_out_of_range(clip):
    expected = "frames {} to {} were asked for, but it has frames 0 to 59"
    assert reason(PyAV(), clip, [3, 60]) == expected.format(3, 60)
    assert reason(PyAV(), clip, [-1, 2]) == expected.format(-1, 2)


def test_a_relative_path(clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    assert read(PyAV(), Path(clip.name), [5]).shape == (1, 48, 64, 3)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists open files by /proc")
def test_keeps_no_file_open(clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:400])
    gc.collect()  # of what other tests have left open
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read(PyAV(), clip, [30])
        reason(PyAV(), broken)
        reason(PyAV(), clip, [60])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PermissionError(13, "Permission denied"), "it cannot be opened (Permission denied)"),
        (RuntimeError("strange data"), "strange data"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_whatever_goes_wrong_is_a_video_read_error(clip, monkeypatch, raised, expected):
    def fail(*_):
        raise raised

    monkeypatch.setattr(video, "table", fail)
    with pytest.raises(VideoReadError) as caught:
        PyAV().probe(clip)
    assert caught.value.reason == expected
    assert str(pickle.loads(pickle.dumps(caught.value))) == f"{clip} (pyav): {expected}"


@pytest.mark.parametrize("name", ["max_pixels", "max_frames", "max_seconds", "timeout"])
def test_limits_are_above_0(name):
    with pytest.raises(ValueError, match=f"needs {name} above 0, but got 0"):
        PyAV(**{name: 0})
