import pickle

import numpy as np
import pytest

from actionkit.data.datasets.ucf101 import UCF101
from actionkit.data.readers.pyav import PyAV

INDEX = "1 Archery\n2 Bowling\n3 HandstandPushups\n"
TRAIN = """Archery/v_Archery_g08_c01.avi 1
Bowling/v_Bowling_g08_c01.avi 2
HandstandPushups/v_HandStandPushups_g08_c02.avi 3
"""
TEST = "Archery/v_Archery_g01_c01.avi\nHandstandPushups/v_HandStandPushups_g01_c02.avi\n"


def write(folder, index=INDEX, train=TRAIN, test=TEST, split=1):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classInd.txt").write_bytes(index.encode())
    (folder / f"trainlist0{split}.txt").write_bytes(train.encode())
    (folder / f"testlist0{split}.txt").write_bytes(test.encode())
    return folder


def refusal(root, **lists):
    """The lines of what a data set with such lists says, with names of files alone."""
    folder = write(root / "ucfTrainTestlist", **lists)
    with pytest.raises(ValueError, match=r"^finds .* in its lists:") as raised:
        UCF101("train", root=root)
    _, *lines = str(raised.value).split("\n")
    return [line.strip().replace(f"{folder}/", "") for line in lines]


# ------------------------------------------------------------------------------- the real lists


@pytest.fixture(scope="module")
def real(real_data):
    return {"root": real_data / "real_clips/ucf101", "lists": real_data / "annotations/ucf101"}


@pytest.mark.parametrize(
    ("split", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)]
)
def test_official_splits_have_the_published_sizes_and_share_no_group(real, split, train, test):
    sides = {s: UCF101(s, split=split, **real) for s in ("train", "val", "test")}
    assert [len(side) for side in sides.values()] == [train, test, test]
    assert list(sides["val"]) == list(sides["test"])
    records = {name: list(side) for name, side in sides.items()}
    groups = {name: {record.group for record in side} for name, side in records.items()}
    assert not groups["train"] & groups["test"]
    assert len(groups["train"] | groups["test"]) == 101 * 25
    assert len({r.id for r in records["train"] + records["test"]}) == 13320
    for side, found in records.items():
        assert {record.target for record in found} == set(range(101))
        classes = sides[side].classes
        assert all(classes[record.target] == record.id.split("/")[0] for record in found)


def test_official_classes_keep_their_order(real):
    classes = UCF101("test", **real).classes
    assert len(classes) == 101
    assert classes[:3] == ["ApplyEyeMakeup", "ApplyLipstick", "Archery"]
    assert classes[100] == "YoYo"


def test_a_real_record(real):
    record = UCF101("train", **real)[117]
    assert record.id == "ApplyLipstick/v_ApplyLipstick_g12_c01"
    assert record.target == 1
    assert record.group == "v_ApplyLipstick_g12"
    assert record.origin == f"{real['lists'] / 'trainlist01.txt'}:118"
    assert (record.start, record.end) == (None, None)


def test_real_clips_are_read_through_their_records(real):
    found = [record for record in UCF101("val", **real) if record.sources["rgb"].exists()]
    assert [record.id for record in found] == [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01",
        "BaseballPitch/v_BaseballPitch_g01_c01",
    ]
    for record in found:
        info = PyAV().probe(record.sources["rgb"])
        assert (info.height, info.width) == (240, 320)
        frames = PyAV().read(record.sources["rgb"], np.array([0, info.frames - 1]))
        assert frames.shape == (2, 3, 240, 320)
        assert frames.float().std() > 10


# ------------------------------------------------------------------------------------ the layout


@pytest.mark.parametrize(
    "layout", ["Bowling/v_Bowling_g08_c01.avi", "v_Bowling_g08_c01.avi",
               "UCF-101/Bowling/v_Bowling_g08_c01.avi"]
)  # fmt: skip
def test_videos_are_found_where_they_lie(tmp_path, layout):
    write(tmp_path / "ucfTrainTestlist")
    (tmp_path / layout).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / layout).touch()
    record = UCF101("train", root=tmp_path)[1]
    assert record.sources == {"rgb": tmp_path.resolve() / layout}
    assert record.id == "Bowling/v_Bowling_g08_c01"


def test_without_any_video_they_are_awaited_in_their_classes(tmp_path):
    write(tmp_path)
    path = UCF101("train", root=tmp_path)[0].sources["rgb"]
    assert path == tmp_path.resolve() / "Archery/v_Archery_g08_c01.avi"


@pytest.mark.parametrize("place", ["videos/ucfTrainTestlist", "ucfTrainTestlist", "videos"])
def test_lists_are_found_in_root_or_beside(tmp_path, place):
    (tmp_path / "videos").mkdir()
    folder = write(tmp_path / place)
    dataset = UCF101("test", root=tmp_path / "videos")
    assert dataset[0].origin == f"{folder / 'testlist01.txt'}:1"


def test_lists_beside_a_root_that_is_a_link(tmp_path):
    (tmp_path / "disk/videos").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/videos").symlink_to(tmp_path / "disk/videos")
    write(tmp_path / "data/ucfTrainTestlist")
    assert len(UCF101("train", root=tmp_path / "data/videos")) == 3


def test_given_lists_win(tmp_path):
    write(tmp_path)
    write(tmp_path / "mine", train=TRAIN.splitlines()[1])
    assert [r.target for r in UCF101("train", root=tmp_path, lists=tmp_path / "mine")] == [1]


def test_missing_lists_are_said_with_the_places_tried(tmp_path):
    (tmp_path / "videos").mkdir()
    places = [tmp_path / "videos/ucfTrainTestlist", tmp_path / "ucfTrainTestlist"]
    tried = " or ".join(map(str, [*places, tmp_path / "videos"]))
    with pytest.raises(ValueError, match=r"^finds no classInd\.txt in ") as raised:
        UCF101("train", root=tmp_path / "videos")
    assert str(raised.value).startswith(f"finds no classInd.txt in {tried}; unpack UCF101TrainTest")
    assert str(raised.value).endswith("beside the videos, or name its folder as lists")
    with pytest.raises(ValueError, match=r"^finds no classInd.txt in [^ ]*elsewhere; unpack"):
        UCF101("train", root=tmp_path, lists=tmp_path / "elsewhere")


# ------------------------------------------------------------------------------------- the lines


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "  \t\n"),
    lambda text: text.replace("\n", "\n\n") + "\n \n",
    lambda text: text.rstrip("\n"),
    lambda text: "\ufeff" + text,
])  # fmt: skip
def test_ends_of_lines_do_not_matter(tmp_path, change):
    write(tmp_path, *map(change, (INDEX, TRAIN, TEST)))
    train, test = UCF101("train", root=tmp_path), UCF101("test", root=tmp_path)
    assert train.classes == ["Archery", "Bowling", "HandstandPushups"]
    assert [record.target for record in train] == [0, 1, 2]
    assert [record.target for record in test] == [0, 2]


def test_cut_lists_keep_all_classes(tmp_path):
    write(tmp_path, train=TRAIN.splitlines()[2])
    dataset = UCF101("train", root=tmp_path)
    assert dataset.classes == ["Archery", "Bowling", "HandstandPushups"]
    assert [(r.target, r.group) for r in dataset] == [(2, "v_HandStandPushups_g08")]


def test_a_test_list_may_have_labels(tmp_path):
    write(tmp_path, test="Bowling/v_Bowling_g01_c01.avi 2\n")
    assert UCF101("test", root=tmp_path)[0].target == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("Fencing/v_Fencing_g08_c01.avi 1", "expected a class of classInd.txt, got 'Fencing'"),
        ("../v_Archery_g09_c01.avi 1", "expected a class of classInd.txt, got '..'"),
        (
            "Bowling/v_Bowling_g09_c01.avi 3",
            "expected label 2, since the folder is Bowling, got 3, which is HandstandPushups",
        ),
        ("Bowling/v_Bowling_g09_c01.avi 0", "label 0 outside 1..3 (3 classes)"),
        ("Bowling/v_Bowling_g09_c01.avi 4", "label 4 outside 1..3 (3 classes)"),
        ("Bowling/v_Bowling_g09_c01.avi x", "label x outside 1..3 (3 classes)"),
        (
            "Bowling/v_Bowling_g09_c01.avi",
            "expected 'CLASS/v_CLASS_g01_c01.avi NUMBER', got 'Bowling/v_Bowling_g09_c01.avi'",
        ),
        (
            "../../etc/passwd 1",
            "expected 'CLASS/v_CLASS_g01_c01.avi NUMBER', got '../../etc/passwd 1'",
        ),
        (
            "Archery/v_Archery_g08_c01.avi 1",
            "v_Archery_g08_c01.avi is in line 1 already; take one out",
        ),
    ],
)
def test_a_wrong_line_is_said_with_its_place(tmp_path, line, sentence):
    assert refusal(tmp_path, train=TRAIN + line) == [f"trainlist01.txt:4: {sentence}"]


def test_all_wrong_lines_come_at_once(tmp_path):
    lines = refusal(tmp_path, train="a\nb\nc\n" + TRAIN, test="d\ne\nf\n")
    assert [line.split(": ")[0] for line in lines] == [
        *("trainlist01.txt:1", "trainlist01.txt:2", "trainlist01.txt:3"),
        *("testlist01.txt:1", "testlist01.txt:2", "and 1 more"),
    ]
    assert lines[3] == "testlist01.txt:1: expected 'CLASS/v_CLASS_g01_c01.avi', got 'd'"


def test_a_source_video_on_both_sides_is_refused_once(tmp_path):
    test = TEST + "Bowling/v_Bowling_g08_c02.avi\nBowling/v_Bowling_g08_c03.avi\n"
    (line,) = refusal(tmp_path, test=test)
    assert line == (
        "testlist01.txt:3: the source video v_Bowling_g08 is in train too (trainlist01.txt:2); "
        "take its clips out of one list"
    )


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"index": "1 Archery\n3 Bowling"}, "classInd.txt:2: expected '2 NAME', got '3 Bowling'"),
        ({"index": "1 Archery\n2 .."}, "classInd.txt:2: expected '2 NAME', got '2 ..'"),
        (
            {"index": "1 Archery\n2 Archery"},
            "classInd.txt:2: the class 'Archery' is listed twice; take one out",
        ),
        ({"index": "\n"}, "classInd.txt: expected lines, but the file is empty"),
        ({"train": ""}, "trainlist01.txt: expected lines, but the file is empty"),
    ],
)
def test_wrong_files_are_said(tmp_path, lists, sentence):
    assert refusal(tmp_path, **lists) == [sentence]


def test_a_missing_list_is_said(tmp_path):
    write(tmp_path, split=2)
    assert len(UCF101("train", root=tmp_path, split=2)) == 3
    with pytest.raises(ValueError, match=r"trainlist01.txt: there is no such file; unpack all"):
        UCF101("train", root=tmp_path)


def test_links_out_of_root_are_refused(tmp_path):
    root = tmp_path / "root"
    write(root / "ucfTrainTestlist")
    (root / "Archery").mkdir()
    (root / "Archery/v_Archery_g08_c01.avi").symlink_to("/etc/passwd")
    (root / "Bowling").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="finds 2 problems") as raised:
        UCF101("train", root=root)
    first, second = str(raised.value).splitlines()[1:]
    assert "trainlist01.txt:1: a link that leads out of root: " in first
    assert "trainlist01.txt:2: a link that leads out of root: " in second
    assert first.endswith("copy the file, or take the folder that holds both as root")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"subset": "dev"}, "has the subsets train, val and test, but was asked for 'dev'"),
        ({"split": 4}, "has the splits 1, 2 and 3, but was asked for 4; write 1"),
    ],
)
def test_wrong_options(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        UCF101(**{"subset": "train", "root": tmp_path, **options})


def test_a_missing_root_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"^finds no folder .*nowhere; check root$"):
        UCF101("train", root=tmp_path / "nowhere")


def test_pickles(tmp_path):
    write(tmp_path)
    dataset = UCF101("train", root=tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    assert list(copy) == list(dataset)
    assert copy[-1] == dataset[2]
    assert copy.classes == dataset.classes
