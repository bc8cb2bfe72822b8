"""What the kit's checks of readers, and the zoo they use, notice."""

import re

import pytest
import torch

from actionkit.contracts import Info, Reader, VideoReadError
from actionkit.data.readers.pyav import PyAV
from actionkit.registry import Entry
from actionkit.testing import readers, toy, zoo
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import NotConformingError


class Changed(PyAV):
    """Gives frames that are not quite right, of one odd file."""

    name = "changed"

    def read(self, path, indices):
        frames = super().read(path, indices)
        return self.change(frames) if path.name == f"{self.of}.mp4" else frames


class Sideways(Changed):
    """Forgets the quarter turn."""

    of = "rotated"

    def change(self, frames):
        return frames.rot90(1, (2, 3))


class UpsideDown(Changed):
    """Turns to the wrong side."""

    of = "rotated"

    def change(self, frames):
        return frames.rot90(2, (2, 3))


class Bluish(Changed):
    """Takes red for blue."""

    of = "ten_bit"

    def change(self, frames):
        return frames.flip(1)


class Dark(Changed):
    """Is a bit dark."""

    of = "odd_size"

    def change(self, frames):
        return frames // 8 * 7


class Behind(Changed):
    """Is a frame late."""

    of = "several_streams"

    def change(self, frames):
        return frames.roll(1, 0)


class ByCount(PyAV):
    """Takes index i for the i-th frame, whatever the times are."""

    def read(self, path, indices):
        if path.name != "variable_rate.mp4":
            return super().read(path, indices)
        return torch.from_numpy(toy.decode(path)[indices]).permute(0, 3, 1, 2)


class Longer(PyAV):
    """Promises a frame more."""

    def probe(self, path):
        info = super().probe(path)
        return info._replace(frames=info.frames + path.name.startswith("one_frame"))


class Faster(PyAV):
    """Is off by a thousandth and more."""

    def probe(self, path):
        info = super().probe(path)
        return info._replace(fps=info.fps * 1.01) if path.suffix == ".avi" else info


class Refusing(Reader):
    """Reads nothing."""

    why = "it cannot be read"

    def probe(self, path):
        raise VideoReadError(path, "refusing", self.why)

    def read(self, path, indices):
        raise AssertionError("nobody got here")


class Referring(Refusing):
    """Knows who can."""

    why = "it cannot be read; set data.reader: pyav"


class Gullible(PyAV):
    """Gives grey frames of what it cannot read."""

    accepts = ()

    def probe(self, path):
        try:
            return super().probe(path)
        except VideoReadError:
            if path.stem in self.accepts:
                return Info(3, 25.0, 0.12, 48, 64)
            raise

    def read(self, path, indices):
        try:
            return super().read(path, indices)
        except VideoReadError:
            if path.stem in self.accepts:
                return None
            raise


def subject(reader):
    made = Subject(Entry("readers", reader.__name__.lower(), "", "", ""))
    made.make = reader
    return made


def sentence(check, reader):
    with pytest.raises(NotConformingError) as error:
        check(subject(reader))
    return str(error.value)


@pytest.mark.parametrize(("reader", "said"), [
    (Sideways, r"rotated: read gives torch.uint8 \[24, 3, 48, 64\], not uint8 \[24, 3, 64, 48\]"),
    (UpsideDown, "rotated: of .* gives frame"),
    (Bluish, "ten_bit: of .* gives frame"),
    (Dark, "odd_size: of .*, 0 gives frame 0, off by 1.* of 255 levels on average"),
    (Behind, "several_streams: of .*, 0 gives frame 23"),
    (Longer, r"one_frame: probe says \(frames, H, W\) \(2, 48, 64\), they are \(1, 48, 64\)"),
    (Faster, "b_frames_avi: probe says 25.25 fps, 0.96 s; 25, 0.96 are right"),
    (ByCount, r"variable_rate: of \[0, 1, .*\], 1 gives frame 1$"),
    (Refusing, "one_frame: the error names no reader that can: it cannot be read"),
])  # fmt: skip
def test_wrong_frames_of_odd_files_are_noticed(reader, said):
    assert re.match(said, sentence(readers.odd, reader), re.DOTALL)


@pytest.mark.parametrize("reader", [PyAV, Referring])
def test_odd_files_are_read_or_referred(reader):
    readers.odd(subject(reader))


@pytest.mark.parametrize("name", ["half", "half_avi", "zeroed", "flipped", "m3u8", "directory"])
def test_every_bad_file_that_is_accepted_is_noticed(name):
    reader = type("One", (Gullible,), {"accepts": (name,)})
    assert re.match(rf"{name}\.\w+ gives \d+ frames and no error", sentence(readers.errors, reader))
    readers.errors(subject(Gullible))


def test_a_variable_rate_is_read_by_time(tmp_path):
    video = zoo.odd(tmp_path)["variable_rate"]
    info = Info(24, video.fps, 24 / video.fps, 48, 64)
    allowed = video.allowed(info)
    assert allowed[0] == {0}
    assert allowed[-1] <= {22, 23}  # the last frame is shown at that very time
    for i, frames in enumerate(allowed):
        seconds = i / video.fps
        for frame in frames:
            assert video.times[frame] <= seconds + zoo.EDGE
            assert frame == 23 or video.times[frame + 1] > seconds - zoo.EDGE
    assert sum({i} != frames for i, frames in enumerate(allowed)) > 15  # not by count


def test_the_same_zoo_every_time(tmp_path):
    first, second = zoo.bad(tmp_path / "a"), zoo.bad(tmp_path / "b")
    for name, path in first.items():
        if path.is_file():
            assert path.read_bytes() == second[name].read_bytes(), name
    for name, video in zoo.odd(tmp_path / "a").items():
        assert len({frame.tobytes() for frame in video.frames}) == len(video.frames), name
