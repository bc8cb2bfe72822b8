"""Frames and flow out of stores: the right ones, in the right order, or an error that tells."""

import json
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from makers import Listed
from videos import moving_frames, write_video

from actionkit import registry
from actionkit.contracts import Clip, Record, Shape, VideoReadError
from actionkit.data.clips import Clips
from actionkit.data.order import Ask
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments
from actionkit.data.sources import Sources
from actionkit.data.stores.blobs import DATA, ENDS, VIDEOS
from actionkit.data.stores.pictures import StoredFlow, StoredFrames
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.stack import FlowStack
from actionkit.extraction import flow
from actionkit.extraction.flow import StoringFlow
from actionkit.extraction.pictures import Storing, Videos, extract
from actionkit.grammar import Node
from actionkit.testing.subject import open_files

DIS = Node(
    "", "", "dis_flow", registry.find(("transforms",), "dis_flow"), {"length": 7, "bound": 4.0}
)
LENGTHS = {"run/a.mp4": 23, "run/b.mp4": 4, "jump/a é.mp4": 30}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos of 48x64 pixels, a text and a video of one frame."""
    root = tmp_path_factory.mktemp("videos")
    for seed, (name, length) in enumerate(LENGTHS.items()):
        write_video(root / name, moving_frames(length, seed=seed))
    (root / "run" / "text.mp4").write_text("this is no video")
    write_video(root / "run" / "one.mp4", moving_frames(1))
    return root


def store(path, storing, root):
    extract(path, storing, Videos(sorted(root.rglob("*.mp4")), PyAV(), {}), {}, workers=0)
    return path


@pytest.fixture(scope="module")
def frames(root, tmp_path_factory):
    return store(tmp_path_factory.mktemp("s") / "frames", Storing(PyAV(), 0, 90), root)


@pytest.fixture(scope="module")
def fields(root, tmp_path_factory):
    return store(tmp_path_factory.mktemp("s") / "flow", StoringFlow(PyAV(), 0, 100, node=DIS), root)


def all_of(reader, path):
    return reader.read(path, np.arange(reader.probe(path).frames))


def jpeg(image, quality, flag=cv2.IMREAD_COLOR):
    """What JPEG makes of a picture, in OpenCV's order of channels."""
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], flag)


def reason(reader, path, indices=(0,)):
    with pytest.raises(VideoReadError) as caught:
        reader.read(path, np.array(indices))
    assert str(path) in str(caught.value)
    assert caught.value.reader == reader.name
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value.reason


# ---------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("name", LENGTHS)
def test_frames_are_exactly_the_jpeg_of_the_reader_s_frames(root, frames, name):
    expected = [
        jpeg(frame[..., ::-1], 90)[..., ::-1]
        for frame in all_of(PyAV(), root / name).permute(0, 2, 3, 1).numpy()
    ]
    reader = StoredFrames(path=frames)
    found = all_of(reader, root / name)
    assert reader.probe(root / name) == PyAV().probe(root / name)
    assert np.array_equal(found.permute(0, 2, 3, 1), expected)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    indices = np.random.default_rng(0).integers(0, LENGTHS[name], 9)
    assert torch.equal(reader.read(root / name, indices), found[indices])
    assert torch.equal(torch.cat(list(reader.stream(root / name, 3))), found)
    assert reader.read(root / name, np.array([], np.int64)).shape == (0, 3, 48, 64)


@pytest.mark.parametrize(("short", "size"), [(24, (24, 32)), (30, (30, 40)), (48, (48, 64))])
def test_frames_are_scaled_by_their_area(root, tmp_path, short, size):
    path = store(tmp_path / "s", Storing(PyAV(), short, 95), root)
    video, reader = root / "run/a.mp4", StoredFrames(path=path)
    assert reader.probe(video)[-2:] == size
    for frame, found in zip(all_of(PyAV(), video), all_of(reader, video), strict=True):
        image = frame.permute(1, 2, 0).numpy()[..., ::-1]
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        assert np.array_equal(found.permute(1, 2, 0), jpeg(small, 95)[..., ::-1])


def test_upright_videos_are_scaled_by_their_short_side_too(tmp_path):
    video = write_video(tmp_path / "v.mp4", moving_frames(2, 64, 48))
    path = store(tmp_path / "s", Storing(PyAV(), 24, 95), tmp_path)
    assert StoredFrames(path=path).probe(video)[-2:] == (32, 24)


# ------------------------------------------------------------------------------------------ flow


def computed(frames, quality=None):
    """The maker's own fields of all successive frames, [F - 1, 2, H, W] uint8, maybe as JPEG."""
    maker = DISFlow(length=len(frames) - 1, bound=4)
    size = (1, 1, len(frames))
    real = torch.ones(size, dtype=torch.bool)
    clip = Clip(frames[None, None], real, torch.zeros(size), "rgb")
    x = maker.apply({"rgb": clip}, [{}])["flow"].x[0, 0]
    if quality is None:
        return x
    gray = cv2.IMREAD_GRAYSCALE
    return np.array([[jpeg(d, quality, gray) for d in field] for field in x.numpy()])


@pytest.mark.parametrize("most", [1, 2, 3, 7, 64])
def test_fields_are_those_of_the_maker_whatever_the_chunks(root, tmp_path, monkeypatch, most):
    monkeypatch.setattr(flow, "MOST", most)
    monkeypatch.setattr("actionkit.extraction.pictures.MOST", max(2, most - 1))
    path = store(tmp_path / "s", StoringFlow(PyAV(), 0, 100, node=DIS), root)
    reader = StoredFlow(path=path)
    for name, length in LENGTHS.items():
        assert reader.probe(root / name) == (length - 1, 25, (length - 1) / 25, 48, 64)
        frames, found = all_of(PyAV(), root / name), all_of(reader, root / name)
        assert np.array_equal(found, computed(frames, 100))
        exact = computed(frames)
        assert (found.int() - exact.int()).abs().max() <= 2
        assert exact.float().std() > 5


def test_fields_are_in_pixels_of_the_scaled_frames(root, tmp_path):
    storing, video = StoringFlow(PyAV(), 24, 100, node=DIS), root / "run/b.mp4"
    path = store(tmp_path / "s", storing, root)
    small = torch.cat(list(storing.scaled(video, PyAV().probe(video))))
    assert small.shape == (4, 3, 24, 32)
    found = all_of(StoredFlow(path=path), video)
    assert np.array_equal(found, computed(small, 100))


@pytest.mark.parametrize("stack", [1, 2, 3, 10])
def test_a_stack_starts_at_its_frame(root, fields, stack):
    single, reader = StoredFlow(path=fields), StoredFlow(path=fields, stack=stack)
    assert reader.out(Shape(5, 2, None, None)) == Shape(5, 2 * stack, None, None)
    for name, length in LENGTHS.items():
        all_fields = all_of(single, root / name)
        frames = max(1, length - 1 - stack + 1)
        assert reader.probe(root / name).frames == frames
        found = all_of(reader, root / name)
        for i in range(frames):
            which = np.minimum(np.arange(i, i + stack), length - 2)  # the last one is repeated
            assert torch.equal(found[i], all_fields[which].flatten(0, 1))


@pytest.mark.parametrize("stack", [1, 4, 5, 10])
def test_a_stack_lies_around_its_frame(root, fields, stack):
    single = StoredFlow(path=fields)
    reader = StoredFlow(path=fields, stack=stack, frame="middle")
    for name, length in LENGTHS.items():
        all_fields, found = all_of(single, root / name), all_of(reader, root / name)
        assert len(found) == length - 1
        for i in range(length - 1):
            start = min(max(i - stack // 2, 0), max(0, length - 1 - stack))
            which = np.minimum(np.arange(start, start + stack), length - 2)
            assert torch.equal(found[i], all_fields[which].flatten(0, 1))


def both_ways(root, fields, keep, seed):
    """A sample with flow computed from its frames, and one with flow from the store."""
    data = Listed([Record("a", {"rgb": root / name}) for name in LENGTHS])
    stack, train = 3, seed is not None
    options = {"train": train, "views_per_item": None}
    made = Clips(
        data,
        Sources(PyAV()),
        Segments(count=4, length=stack + 1),
        [DISFlow(length=stack, bound=4, keep=keep), FlowStack(length=stack)],
        **options,
    )
    stored = StoredFlow(path=fields, stack=stack, frame=keep)
    read = Clips(data, Sources({"rgb": PyAV(), "flow": stored}), Segments(count=4), [], **options)
    for index in range(len(data)):
        ask = Ask(index, seed or 0, 0)
        yield made[ask].clips, read[ask].clips


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
def test_stored_flow_gives_the_snippets_that_a_maker_of_flow_would_get(root, fields, seed):
    for made, read in both_ways(root, fields, "first", seed):
        assert torch.equal(made["rgb"].x, read["rgb"].x)
        assert made["flow"].kind == read["flow"].kind == "flow"
        for name in ("rgb", "flow"):
            assert torch.equal(made[name].times, read[name].times)
        assert made["flow"].x.shape == read["flow"].x.shape == (1, 4, 6, 48, 64)
        assert (made["flow"].x.int() - read["flow"].x.int()).abs().max() <= 2


def test_around_the_middle_it_is_what_the_maker_keeps_there(root, fields):
    video = root / "jump/a é.mp4"
    exact = computed(all_of(PyAV(), video))
    reader = StoredFlow(path=fields, stack=3, frame="middle")
    maker = DISFlow(length=3, keep="middle")
    for start in range(26):
        (middle,) = maker.kept
        found = reader.read(video, np.array([start + middle]))[0]
        assert (found.int() - exact[start : start + 3].flatten(0, 1).int()).abs().max() <= 2


def test_flow_lies_beside_records_that_list_only_their_video(root, fields):
    reader = StoredFlow(path=fields)
    rgb, own = Path("v.mp4"), Path("own.mp4")
    assert reader.source(Record("", {"rgb": rgb}), "flow") == rgb
    assert reader.source(Record("", {"rgb": rgb, "flow": own}), "flow") == own
    with pytest.raises(KeyError):
        reader.source(Record("", {}), "flow")
    with pytest.raises(KeyError):
        StoredFrames.source(reader, Record("", {"rgb": rgb}), "flow")


# ---------------------------------------------------------------------------------- both: errors


def test_the_videos_need_not_be_there_any_more_or_may_have_moved(root, frames, tmp_path):
    video = tmp_path / "elsewhere" / "run" / "a.mp4"
    moved = StoredFrames(path=frames, root=tmp_path / "elsewhere")
    expected = all_of(StoredFrames(path=frames), root / "run" / "a.mp4")
    assert torch.equal(all_of(moved, video), expected)
    assert "is not in the store" in reason(moved, root / "run" / "a.mp4")


def test_relative_paths_are_found_from_where_we_are(root, frames, monkeypatch):
    monkeypatch.chdir(root / "run")
    assert StoredFrames(path=frames).probe(Path("a.mp4")).frames == 23
    assert StoredFrames(path=frames, root=Path("..")).probe(Path("b.mp4")).frames == 4


def test_a_video_that_is_not_in_the_store(root, fields, frames):
    assert reason(StoredFlow(path=fields), root / "run" / "c.mp4") == (
        f"is not in the store {fields}, which was made of videos in {root}; extract again with a "
        "recipe that lists it, tell by `root` where the videos lie now, or read it with pyav"
    )
    assert "is not in the store" in reason(StoredFrames(path=frames), root.parent / "a.mp4")
    assert reason(StoredFrames(path=frames), root / "run" / "text.mp4") == (
        f"could not be stored in {frames}: it is text, not a video"
    )
    assert reason(StoredFlow(path=fields), root / "run" / "one.mp4") == (
        f"could not be stored in {fields}: it has one frame, and so no flow"
    )


def test_indices_beyond_the_last_are_refused(root, frames, fields):
    for indices in ([0, 23], [-1]):
        said = reason(StoredFrames(path=frames), root / "run" / "a.mp4", indices)
        assert said.endswith("were asked for, but it has frames 0 to 22")
    said = reason(StoredFlow(path=fields, stack=3), root / "run" / "a.mp4", [20])
    assert said == "frames 20 to 20 were asked for, but it has frames 0 to 19"


@pytest.fixture
def copy(frames, tmp_path):
    return Path(shutil.copytree(frames, tmp_path / "copy"))


def test_damaged_pictures(root, copy):
    video, reader = root / "run" / "a.mp4", StoredFrames(path=copy)
    line = next(r for r in map(json.loads, (copy / VIDEOS).open()) if r["name"] == "run/a.mp4")
    ends = np.fromfile(copy / ENDS, "<i8")
    start = ends[line["first"] + 4]
    with (copy / DATA).open("r+b") as file:
        file.seek(start)
        file.write(bytes(ends[line["first"] + 5] - start))
    good = reader.read(video, np.array([4, 6]))
    assert torch.equal(good, StoredFrames(path=copy).read(video, np.array([4, 6])))
    assert reason(reader, video, [4, 5, 6]) == (
        f"its picture 5 in the store {copy} is damaged: its bytes are no whole JPEG picture; "
        "remove the store, extract again"
    )


@pytest.mark.parametrize("name", [DATA, ENDS])
def test_a_store_that_is_cut_short(root, copy, name):
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 7)
    os.utime(copy / VIDEOS)
    said = reason(StoredFrames(path=copy), root / "jump" / "a é.mp4")
    assert said == (
        f"the store {copy} is cut short: its {name} has {size - 7} bytes and should have {size}; "
        "copy it anew, or remove it and extract again"
    )


def test_files_that_are_gone_or_cut_after_the_first_look(root, copy):
    video, reader = root / "run" / "a.mp4", StoredFrames(path=copy)
    reader.probe(video)
    os.truncate(copy / ENDS, 8)
    assert f"its picture 0 in the store {copy} is lost: {ENDS} does not" in reason(reader, video)
    (copy / DATA).unlink()
    assert f"the store {copy} cannot be read (" in reason(reader, video)
    (copy / VIDEOS).unlink()
    assert f"the store {copy} cannot be opened (" in reason(reader, video)


def test_what_cannot_be_a_reader(frames, fields, tmp_path):
    with pytest.raises(ValueError, match=r"finds no store in .*; make it: actionkit extract flow"):
        StoredFlow(path=tmp_path / "none")
    with pytest.raises(ValueError, match=r"reads stores of frames, but .* use stored_flow"):
        StoredFrames(path=fields)
    with pytest.raises(ValueError, match="takes a stack of at least 1 field, but gets 0"):
        StoredFlow(path=fields, stack=0)


def test_readers_hold_no_file_and_pickle(root, frames, fields):
    before = open_files()
    for reader in (StoredFrames(path=frames), StoredFlow(path=fields, stack=2)):
        expected = all_of(reader, root / "run" / "a.mp4")
        reason(reader, root / "run" / "none.mp4")
        assert open_files() == before
        again = pickle.loads(pickle.dumps(reader))
        assert torch.equal(all_of(again, root / "run" / "a.mp4"), expected)
        assert len(pickle.dumps(reader)) < 1000
