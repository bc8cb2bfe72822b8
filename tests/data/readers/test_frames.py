import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from files_for_readers import read, reason
from videos import moving_frames

from actionkit.contracts import Record, VideoReadError
from actionkit.data.datasets.listing import Listing
from actionkit.data.preflight import _probe
from actionkit.data.readers import frames as module
from actionkit.data.readers.container import Deadline, UnreadableError
from actionkit.data.readers.frames import Frames
from actionkit.data.samplers import Dense
from actionkit.data.sources import Sources

FRAMES = Frames(fps=25)


def write(folder: Path, images, name="img_{:05d}.png", first=1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, first):
        data = cv2.imencode(Path(name).suffix, image[..., ::-1])[1].tobytes()
        (folder / name.format(number)).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "first"),
    [("img_{:05d}.png", 1), ("{}.png", 0), ("a 7.{}.PNG", 98), ("frame{:02d}.png", 95)],
)
def test_index_i_is_the_image_of_the_ith_number(tmp_path, name, first):
    images = moving_frames(12)
    folder = write(tmp_path / "clip", images, name, first)
    assert FRAMES.probe(folder) == (12, 25.0, 0.48, 48, 64)
    assert np.array_equal(read(FRAMES, folder, range(12)), images)
    some = [11, 3, 3, 0]
    assert np.array_equal(read(FRAMES, folder, some), images[some])


def test_jpeg_is_what_opencv_decodes(tmp_path):
    images = moving_frames(3)
    folder = write(tmp_path / "clip", images, "img_{:05d}.jpg")
    expected = [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]
    assert np.array_equal(read(FRAMES, folder, range(3)), expected)
    assert np.abs(np.int16(expected) - images).mean() < 20


def test_gray_images_become_rgb(tmp_path):
    gray = moving_frames(3)[..., 0]
    folder = tmp_path / "clip"
    folder.mkdir()
    for i, image in enumerate(gray):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    assert np.array_equal(read(FRAMES, folder, range(3)), np.stack([gray] * 3, axis=-1))


def test_memory_lies_in_frame_order(tmp_path):
    folder = write(tmp_path / "clip", moving_frames(4))
    frames = FRAMES.read(folder, np.array([3, 3, 1]))
    assert frames.shape == (3, 3, 48, 64)
    assert frames.permute(0, 2, 3, 1).is_contiguous()
    assert FRAMES.read(folder, np.array([], np.int64)).shape == (0, 3, 48, 64)


@pytest.mark.parametrize(("degrees", "exif"), [(90, 6), (180, 3)])
def test_exif_turns_images_upright(tmp_path, degrees, exif):
    folder = write(tmp_path / "clip", moving_frames(1), "{}.jpg")
    stored = read(FRAMES, folder, [0])
    data = (folder / "1.jpg").read_bytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, exif]) + bytes(6)
    note = b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag
    (folder / "0.jpg").write_bytes(data[:2] + note + data[2:])
    (folder / "1.jpg").unlink()
    assert np.array_equal(read(FRAMES, folder, [0]), np.rot90(stored, -degrees // 90, axes=(1, 2)))


def test_a_pattern_picks_one_of_several_series(tmp_path):
    images, flow = moving_frames(5), moving_frames(4, seed=1)
    folder = write(tmp_path / "clip", images)
    for name in ("flow_x_{:05d}.png", "flow_y_{:05d}.png"):
        write(folder, flow, name)
    assert reason(FRAMES, folder) == (
        "it holds several series of images (flow_x_*.png, flow_y_*.png, img_*.png); say which one "
        "is meant by data.reader.pattern: 'flow_x_*.png'"
    )
    assert np.array_equal(read(Frames(fps=25, pattern="img_*"), folder, range(5)), images)
    assert np.array_equal(read(Frames(fps=25, pattern="flow_x_*"), folder, range(4)), flow)
    said = "it holds no images (jpg, png) that match 'rgb_*', which is data.reader.pattern"
    assert reason(Frames(fps=25, pattern="rgb_*"), folder) == said


def test_other_files_do_not_count(tmp_path):
    images = moving_frames(3)
    folder = write(tmp_path / "clip", images)
    (folder / "n_frames").write_text("3")
    (folder / "._img_00001.png").write_bytes(b"what a Mac leaves behind")
    (folder / "more").mkdir()
    assert np.array_equal(read(FRAMES, folder, range(3)), images)


def test_numbers_without_a_gap(tmp_path):
    again = "; extract them again"
    for name, present, said in [
        ("img_{:05d}.png", [1, 2, 4], "img_00003.png should be, there is img_00004.png"),
        ("{}.png", [8, 9, 11], "10.png should be, there is 11.png"),
    ]:
        folder = tmp_path / said[:3]
        for number in present:
            write(folder, moving_frames(1), name, number)
        assert reason(FRAMES, folder) == (
            f"its images are not numbered one by one: where {said}{again}"
        )
    write(folder, moving_frames(1), "0{}.png", 9)
    assert reason(FRAMES, folder, [0]).startswith("its images are not numbered one by one: where ")
    write(tmp_path / "title", moving_frames(2))
    write(tmp_path / "title", moving_frames(1), "cover.png")
    assert reason(FRAMES, tmp_path / "title") == (
        "its image cover.png has no number before its ending; take it out, or leave it out by "
        "data.reader.pattern"
    )


def test_what_is_no_folder_of_images(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"video")
    assert reason(FRAMES, tmp_path / "missing") == "there is no such folder"
    assert reason(FRAMES, tmp_path / "empty") == "it holds no images (jpg, png)"
    said = "it is a file, not a folder of images; set data.reader: pyav"
    assert reason(FRAMES, tmp_path / "clip.mp4", [0]) == said


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_bad_image_is_named(tmp_path, suffix):
    folder = write(tmp_path / "clip", moving_frames(20), f"img_{{:05d}}.{suffix}")
    bad = folder / f"img_00018.{suffix}"
    whole, named = bad.read_bytes(), f"frame 17 (img_00018.{suffix})"
    noise = bytearray(whole)
    noise[20:-20] = bytes(len(noise) - 40)
    for content, said in [
        *((whole[: len(whole) * part // 5], "is cut short") for part in (1, 2, 3, 4)),
        (b"", "is empty"),
        (b"<html>404 Not Found</html>", "is not an image, whatever its name says"),
        (bytes(noise), "is damaged"),
    ]:
        bad.write_bytes(content)
        assert reason(FRAMES, folder, [3, 17]) == f"{named} {said}"
        assert read(FRAMES, folder, [16, 18]).shape == (2, 48, 64, 3)
    bad.unlink()
    bad.mkdir()
    assert reason(FRAMES, folder, [17]) == f"{named} cannot be opened (Is a directory)"


def test_a_bad_first_image_is_found_by_probe(tmp_path):
    folder = write(tmp_path / "clip", moving_frames(2))
    (folder / "img_00001.png").write_bytes(b"")
    assert reason(FRAMES, folder) == "frame 0 (img_00001.png) is empty"


def test_images_that_change_size(tmp_path):
    folder = write(tmp_path / "clip", moving_frames(3))
    write(folder, moving_frames(1, 40, 56), first=4)
    assert FRAMES.probe(folder).frames == 4
    said = "its frames change size: the first has 48x64, frame 3 (img_00004.png) has 40x56"
    assert reason(FRAMES, folder, [0, 3]) == said


def test_limits(tmp_path, monkeypatch):
    folder = write(tmp_path / "clip", moving_frames(3))
    assert "have more than 100 pixels; raise data.reader.max_pixels" in reason(
        Frames(fps=25, max_pixels=100), folder
    )
    assert reason(FRAMES, folder, [1, 3]) == (
        "frames 1 to 3 were asked for, but it has frames 0 to 2"
    )

    def too_late(self):
        raise UnreadableError("took longer than 30 s")

    monkeypatch.setattr(Deadline, "left", too_late)
    assert reason(FRAMES, folder, [0]) == "took longer than 30 s"


@pytest.mark.parametrize("fps", [0, -25.0, float("inf"), float("nan")])
def test_the_rate_is_a_positive_number(fps):
    with pytest.raises(ValueError, match=r"^needs fps above 0, the images of a second, but got "):
        Frames(fps=fps)
    with pytest.raises(ValueError, match=r"^needs timeout above 0, but got 0"):
        Frames(fps=25, timeout=0)


def test_a_folder_is_listed_once_until_it_changes(tmp_path, monkeypatch):
    folder = write(tmp_path / "clip", moving_frames(3))
    assert FRAMES.probe(folder).frames == 3
    with monkeypatch.context() as patch:
        patch.setattr(module, "_names", None)
        assert FRAMES.probe(folder).frames == 3
    write(folder, moving_frames(1), first=4)
    stat = folder.stat()
    os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # a coarse clock may stand still
    assert FRAMES.probe(folder).frames == 4


@pytest.mark.skipif(os.name != "posix", reason="file names are text")
def test_names_that_are_not_utf8(tmp_path):
    images = moving_frames(3)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff"))
    try:
        write(folder, images, os.fsdecode(b"\xe9_{}.png"))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert np.array_equal(read(FRAMES, folder, [2, 0]), images[[2, 0]])
    (folder / os.fsdecode(b"\xe9_3.png")).write_bytes(b"")
    with pytest.raises(VideoReadError) as caught:
        FRAMES.read(folder, np.array([2]))
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_seconds_are_counted_by_fps(tmp_path):
    folder = write(tmp_path / "clip", moving_frames(30))
    record = Record("a", {"rgb": folder}, start=1.0, end=2.0)
    reader = Frames(fps=10)
    (indices,) = Dense(length=10)(reader.probe(folder), record, None)
    assert indices.tolist() == list(range(10, 20))


def test_a_listing_may_name_folders(tmp_path):
    images = moving_frames(6)
    for name in ("clips/abc", "clips/d e", "more/x"):
        write(tmp_path / name, images)
    (tmp_path / "train.txt").write_text("clips/abc run\nclips/d e jump\n")
    (tmp_path / "val.txt").write_text("more/x run\nmore/missing jump\n")
    listed = {
        side: Listing(side, root=tmp_path, train=Path("train.txt"), val=Path("val.txt"))
        for side in ("train", "val")
    }
    for record in (listed["train"][0], listed["train"][1], listed["val"][0]):
        assert _probe(record, Sources(FRAMES)) is None
        assert np.array_equal(read(FRAMES, record.sources["rgb"], [5, 0]), images[[5, 0]])
    bad = _probe(listed["val"][1], Sources(FRAMES))
    assert bad is not None
    assert bad.reason == "there is no such folder"


def test_survives_pickling(tmp_path):
    folder = write(tmp_path / "clip", moving_frames(3))
    reader = pickle.loads(pickle.dumps(Frames(fps=12.5, pattern="img_*")))
    assert reader.probe(folder).fps == 12.5
