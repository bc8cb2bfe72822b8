from pathlib import Path

import pytest
import torch

from actionkit.contracts import Info, Reader, Record, VideoReadError
from actionkit.data.clips import Clips
from actionkit.data.order import Ask
from actionkit.data.samplers import Segments
from actionkit.data.sources import Source, Sources


class Numbers(Reader):
    """Videos named by how many frames they have; frame i is full of i."""

    def __init__(self, fps=10.0, channels=3, whole=False, folders=False, kind=None):
        self.fps, self.channels, self.kind = fps, channels, kind
        self.whole, self.folders = whole, folders

    def probe(self, path):
        if path.name == "none":
            raise VideoReadError(path, "numbers", "it is empty")
        frames = int(path.name)
        return Info(frames, self.fps, frames / self.fps, 4, 6)

    def read(self, path, indices):
        if indices.max() >= int(path.name):
            raise VideoReadError(path, "numbers", "has no such frame")
        frames = torch.from_numpy(indices).to(torch.uint8).view(-1, 1, 1, 1)
        return frames.expand(-1, self.channels, 4, 6).clone()


class Beside(Numbers):
    """Reads what lies beside the rgb of a record."""

    def source(self, record, modality):
        return record.sources["rgb"].with_name("7")


def record(start=None, end=None, **sources):
    return Record("r", {m: Path("videos", name) for m, name in sources.items()}, 0, start, end)


def test_one_reader_reads_all_that_a_record_has():
    reader = Numbers()
    found = Sources(reader).of(record(rgb="20", flow="19"))
    assert found == {
        "rgb": Source(reader, Path("videos/20")),
        "flow": Source(reader, Path("videos/19")),
    }


def test_a_map_reads_only_what_it_names_and_from_where_its_readers_say():
    rgb, beside = Numbers(), Beside(fps=5.0)
    sources = Sources({"flow": beside, "rgb": rgb})
    found = sources.of(record(rgb="20", audio="30"))
    assert found == {
        "flow": Source(beside, Path("videos/7")),
        "rgb": Source(rgb, Path("videos/20")),
    }
    assert list(found) == ["flow", "rgb"]
    said = r"r \(data\.reader\): its record has no 'rgb' to read, only audio"
    with pytest.raises(VideoReadError, match=said):
        Sources({"rgb": rgb}).of(record(audio="30"))


def test_the_map_that_was_given_may_change_behind():
    readers = {"rgb": Numbers()}
    sources = Sources(readers)
    readers["flow"] = Numbers()
    assert list(sources.of(record(rgb="20", flow="20"))) == ["rgb"]


def test_every_reader_is_changed_and_the_old_ones_stay():
    def faster(reader):
        return Numbers(fps=2 * reader.fps)

    one = Sources(Numbers())
    assert one.each(faster).readers.fps == 20
    assert one.readers.fps == 10
    several = Sources({"rgb": Numbers(), "flow": Numbers(fps=4.0)})
    changed = several.each(faster)
    assert {m: r.fps for m, r in changed.readers.items()} == {"rgb": 20, "flow": 8}
    assert {m: r.fps for m, r in several.readers.items()} == {"rgb": 10, "flow": 4}


def test_a_folder_of_images_is_noticed_among_several():
    assert not Sources(Numbers()).folders
    assert Sources(Numbers(folders=True)).folders
    assert not Sources({"rgb": Numbers(), "flow": Numbers()}).folders
    assert Sources({"rgb": Numbers(), "flow": Numbers(folders=True)}).folders


@pytest.mark.parametrize(
    ("files", "frames"), [(("20", "30"), 20), (("30", "20"), 20), (("9", "9"), 9)]
)
def test_indices_are_those_that_every_modality_has(files, frames):
    """In the rate of the first, whose seconds are cut to the frames that are left."""
    sources = Sources({"rgb": Numbers(fps=10.0), "flow": Numbers(fps=25.0)})
    info, seen = sources.timeline(record(0.5, 1.5, rgb=files[0], flow=files[1]))
    assert info == Info(frames, 10.0, frames / 10, 4, 6)
    assert (seen.start, seen.end) == (0.5, 1.5)


def test_what_is_read_whole_has_neither_start_nor_end():
    whole, part = Numbers(whole=True), Numbers()
    given = record(0.5, 1.5, rgb="20", flow="20")
    assert Sources(part).timeline(given)[1] is given
    for readers in (whole, {"rgb": whole}, {"rgb": whole, "flow": whole}):
        _, seen = Sources(readers).timeline(given)
        assert seen == given._replace(start=None, end=None)
    assert Sources({"rgb": whole, "flow": part}).timeline(given)[1] is given


@pytest.mark.parametrize("files", [("none", "20"), ("20", "none")])
def test_what_a_reader_cannot_read_is_said_by_it(files):
    sources = Sources({"rgb": Numbers(), "flow": Numbers()})
    with pytest.raises(VideoReadError, match=r"^videos/none \(numbers\): it is empty$"):
        sources.timeline(record(rgb=files[0], flow=files[1]))


class One:
    """A data set of one record."""

    def __init__(self, record):
        self.record = record

    def __getitem__(self, index):
        return self.record

    def __len__(self):
        return 1


def clips(given, sources, **options):
    made = Clips(One(given), Sources(sources), Segments(count=3, **options), (), train=False)
    return made[Ask(0, 0)]


def test_clips_are_read_by_their_own_readers_at_the_same_indices():
    readers = {
        "rgb": Numbers(),
        "flow": Numbers(channels=2),
        "semantics": Numbers(channels=1, kind="score"),
        "other": Beside(),
    }
    found = clips(record(rgb="30", flow="12", semantics="30", audio="9"), readers)
    assert not found.bad
    kinds = {name: clip.kind for name, clip in found.clips.items()}
    assert kinds == {"rgb": "rgb", "flow": "flow", "semantics": "score", "other": "rgb"}
    shown = {tuple(clip.x[0, :, 0, 0, 0].tolist()) for clip in found.clips.values()}
    assert len(shown) == 1
    assert max(shown.pop()) < 7  # of the shortest
    assert found.clips["flow"].x.shape == (1, 3, 2, 4, 6)


def test_a_part_of_a_video_is_sampled_unless_it_is_read_whole():
    given = record(1.0, 2.0, rgb="40")
    part, whole = (clips(given, {"rgb": Numbers(whole=w)}) for w in (False, True))
    assert 10 <= part.clips["rgb"].x.min() <= part.clips["rgb"].x.max() < 20
    assert part.clips["rgb"].times.tolist() == (part.clips["rgb"].x[..., 0, 0, 0] / 10).tolist()
    assert whole.clips["rgb"].x.min() < 10
    assert whole.clips["rgb"].x.max() > 20
    assert whole.clips["rgb"].times.isfinite().all()
