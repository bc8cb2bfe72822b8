"""The gate before the race: wrong frames are found, whatever is wrong with them."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from actionkit.bench import decode as bench
from actionkit.contracts import Reader, VideoReadError
from actionkit.data.readers.pyav import PyAV
from actionkit.data.readers.table import table
from actionkit.testing import toy

FRAMES = 24


class Changed(Reader):
    """PyAV, but for what it is told to do wrong."""

    def __init__(self, change):
        self.change, self.right = change, PyAV()

    def probe(self, path):
        return self.right.probe(path)

    def read(self, path, indices):
        return self.change(self.right, path, indices)


def one_late(right, path, indices):
    return right.read(path, np.maximum(indices - 1, 0))


def noisy_when_sparse(right, path, indices):
    frames = right.read(path, indices)
    return frames if len(indices) == FRAMES else frames ^ 1


def brighter(right, path, indices):
    return right.read(path, indices).clip(max=254) + 1


def refusing(right, path, indices):
    raise VideoReadError(path, "refusing", "not today")


def short(right, path, indices):
    return right.read(path, indices)[:-1]


@pytest.fixture(scope="module", params=["h264.mp4", "mpeg4.avi"])
def video(request, tmp_path_factory):
    codec = {"h264.mp4": "libx264", "mpeg4.avi": "mpeg4"}[request.param]
    path = tmp_path_factory.mktemp("videos") / request.param
    return toy.video(path, codec=codec, frames=FRAMES)


def rows(video, change):
    tested = {"pyav": PyAV(), "changed": Changed(change)}
    return {
        c.title.split(",")[0]: {row.name: row for row in c.rows}
        for c in bench.decode(video, tested, 1)
    }


def test_every_pattern_is_timed_against_the_limit(video):
    found, _ = bench.readers()
    comparisons = bench.decode(video, found, 1)
    assert [c.title.split(",")[0] for c in comparisons] == ["u8", "u25", "d16x2", "d32x2", "all"]
    for comparison in comparisons:
        named = {row.name: row for row in comparison.rows}
        assert named["pyav"].facts["frames"] == "exact"
        assert named["pyav"].ratio > 0
        assert named["pyav"].facts["of limit"] > 0
        assert named[bench.LIMIT].ratio is None  # it is no reader, and in no verdict
        assert "limit" not in comparison.verdict


@pytest.mark.parametrize(("change", "said"), [
    (one_late, "WRONG: index 1 gives frame 0"),
    (refusing, "refused: not today"),
    (short, f"WRONG: {FRAMES - 1} frames of (48, 64)"),
])  # fmt: skip
def test_a_reader_of_wrong_frames_is_not_timed(video, change, said):
    for pattern in rows(video, change).values():
        assert pattern["changed"].facts["frames"] == said
        assert pattern["changed"].cpu is pattern["changed"].ratio is None
        assert pattern["pyav"].ratio is not None


def test_frames_that_depend_on_what_else_is_read_are_wrong_only_where_they_do(video):
    found = rows(video, noisy_when_sparse)
    wrong = "WRONG: off by up to 1 from its own sequence"
    assert found["u8"]["changed"].facts["frames"] == wrong
    assert found["all"]["changed"].facts["frames"] == "exact"


def test_another_rule_for_pixels_is_no_wrong_frame(video):
    assert all(p["changed"].facts["frames"] == "exact" for p in rows(video, brighter).values())


def test_the_limit_decodes_from_the_keyframes_to_the_last_wanted_frame(video):
    wanted = [3, 5, 14]
    known = table(video, bench.LIMITS)
    with av.open(str(video)) as container:
        limit = bench.Physical(container, known, wanted)
        seen = []
        limit._reformatter = SimpleNamespace(
            reformat=lambda frame, **_: seen.append(frame.to_ndarray(format="rgb24"))
        )
        limit()
        limit()  # the same again, though the file was read on
    if known.timed:  # a keyframe every 12 frames
        assert limit.runs == {0: 5, 12: 14}
        assert limit.forced == 6 + 3
    else:
        assert limit.runs == {0: 14}
        assert limit.forced == 15
    right = toy.decode(video)[wanted * 2]
    np.testing.assert_array_equal(np.stack(seen), right)


def test_patterns_stay_inside_the_video():
    for frames in (1, 7, 300):
        for name, indices in bench.patterns(frames).items():
            assert indices.dtype == np.int64, name
            assert 0 <= indices.min() <= indices.max() < frames, name
    dense = bench.patterns(300)
    assert len(dense["u8"]) == 8
    assert dense["u8"][[0, -1]].tolist() == [0, 299]
    assert set(np.diff(dense["d16x2"])) == {2}


def test_of_a_long_video_only_so_many_frames_are_read_as_memory_takes(video, monkeypatch):
    monkeypatch.setattr(bench, "MOST_BYTES", 10 * 3 * 48 * 64)
    comparison = bench.decode(video, {"pyav": PyAV()}, 1)[-1]
    assert comparison.title == "all, 10 frames"
    assert f"10 of {FRAMES} frames" in comparison.group


def test_what_is_no_video_is_an_error(tmp_path):
    with pytest.raises(VideoReadError, match="there is no such file"):
        bench.decode(tmp_path / "none.mp4", {"pyav": PyAV()}, 1)


def test_the_written_videos_are_what_their_names_say(tmp_path):
    kinds = [kind._replace(frames=30) for kind in bench.KINDS[:2]]
    avi, mp4 = bench.write_videos(tmp_path, kinds)
    assert table(avi, bench.LIMITS).info[:1] == (30,)
    assert not table(avi, bench.LIMITS).timed
    assert table(mp4, bench.LIMITS).keys == (0, 12, 24)
    with av.open(str(mp4)) as container:
        types = {frame.pict_type for frame in container.decode(video=0)}
    assert av.video.frame.PictureType.B in types
    assert torch.equal(PyAV().read(mp4, np.array([7])), PyAV().read(mp4, np.arange(8))[-1:])
