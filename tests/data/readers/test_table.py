import numpy as np
import pytest
from files_for_readers import CLIP, FILES, LIMITS, OPEN_GOP, reason, source
from videos import moving_frames, write_video

from actionkit.contracts import Info
from actionkit.data.readers import table as tables
from actionkit.data.readers.container import UnreadableError
from actionkit.data.readers.pyav import PyAV
from actionkit.data.readers.table import Table
from actionkit.data.readers.upright import Turn


def look(tmp_path, name, count=60, **kwargs) -> Table:
    return source(write_video(tmp_path / name, moving_frames(count), **kwargs)).table


def test_notices_a_changed_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(5))
    assert PyAV().probe(path).frames == 5
    write_video(path, moving_frames(7))
    assert PyAV().probe(path).frames == 7


def test_an_unchanged_file_is_listed_once(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_frames(5))
    first = PyAV().probe(path)
    monkeypatch.setattr(tables, "opened", None)
    assert PyAV().probe(path) == first


def test_even_times_take_no_memory(tmp_path):
    assert isinstance(look(tmp_path, "a.mp4", **CLIP).times, range)


def test_knows_whether_gops_are_closed(tmp_path):
    assert look(tmp_path, "closed.mp4", **CLIP).closed
    assert look(tmp_path, "intra.mp4", **FILES["h264_intra_refresh.mp4"]).closed
    assert not look(tmp_path, "open.mp4", options=OPEN_GOP).closed
    assert not look(tmp_path, "counted.avi", **FILES["mpeg4.avi"]).closed


ROUNDED = {  # milliseconds
    "29.97": [round(i * 1001 / 30) for i in range(60)],
    "floored": [i * 1001 // 24 for i in range(60)],
    "120": [round(i * 1000 / 120) for i in range(60)],
    "jitter": [33 * i + (i * 7) % 15 for i in range(60)],
}


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize("times", ROUNDED.values(), ids=ROUNDED.keys())
def test_times_that_are_even_but_for_rounding_are_a_constant_rate(tmp_path, name, times):
    table = look(tmp_path, name, times=times, options={"bf": "2"})
    assert not table.variable
    indices = np.array([59, 0, 7, 7])
    assert np.array_equal(table.shown(indices), indices)
    assert table.info.fps == pytest.approx(59_000 / (times[-1] - times[0]), rel=1e-3)


def made_up(times) -> Table:
    info = Info(len(times), 1.0, float(len(times)), 48, 64)
    variable = tables._is_variable(times)
    return Table(info, Turn(), True, times, (0,), True, variable, 1, 0, None)


@pytest.mark.parametrize("seed", range(5))
def test_where_the_rate_varies_an_index_is_what_is_on_the_screen(seed):
    rng = np.random.default_rng(seed)
    times = (np.cumsum(rng.integers(1, 400, 50)) - 3000).tolist()
    table = made_up(times)
    assert table.variable
    indices = rng.permutation(50)
    seconds = times[0] + indices * (times[-1] - times[0]) / 49
    expected = [sum(time <= s + 1e-9 for time in times) - 1 for s in seconds]
    assert table.shown(indices).tolist() == expected
    assert table.shown(np.array([0, 49])).tolist() == [0, 49]


def test_one_dropped_frame_in_the_middle_is_half_a_frame_off():
    half = [*range(0, 250, 10), *range(260, 510, 10)]
    assert not tables._is_variable(half)
    assert tables._is_variable([*range(0, 250, 10), *range(270, 520, 10)])


def test_a_single_frame_has_a_constant_rate():
    assert not tables._is_variable([4])


def test_frames_the_file_does_not_hold_stay_as_they_are():
    table = made_up([0, 10, 100, 1000])
    assert table.shown(np.array([3, 4, 9])).tolist() == [3, 4, 9]


def test_limits_on_what_a_file_may_claim(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(50))
    assert PyAV(max_frames=50, max_seconds=2).probe(path).frames == 50
    said = "it has, or claims to have, more than 49 frames; raise data.reader.max_frames if it "
    assert reason(PyAV(max_frames=49), path) == said + "should be read"
    said = "it lasts 2 s, longer than 1.9 s; raise data.reader.max_seconds if it should be read"
    assert reason(PyAV(max_seconds=1.9), path) == said


def test_a_claim_of_many_frames_is_refused_before_they_are_counted(tmp_path):
    """An AVI file without index, whose header speaks of four thousand million frames."""
    path = write_video(tmp_path / "a.avi", moving_frames(5), codec="mpeg4")
    data = path.read_bytes()
    header = data.index(b"avih") + 8 + 16
    stream = data.index(b"strh") + 8 + 32
    claim = (0xFFFFFFF0).to_bytes(4, "little")
    data = data[:header] + claim + data[header + 4 : stream] + claim + data[stream + 4 :]
    path.write_bytes(data[: data.index(b"idx1")])
    assert "more than 10000000 frames" in reason(PyAV(), path)
    assert PyAV(max_frames=None).probe(path).frames > 10**9


def test_listing_stops_at_the_limit(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_frames(50))
    listed = []
    monkeypatch.setattr(tables, "_Packet", lambda *fields: listed.append(fields))
    with pytest.raises(UnreadableError, match="more than 9 frames"):
        tables.table(path, LIMITS._replace(max_frames=9))
    assert len(listed) == 10
