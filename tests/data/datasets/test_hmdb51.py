import pickle

import pytest

from actionkit.data.datasets.hmdb51 import HMDB51

CLIMB = """A_climb_f_cm_np1_ba_med_0.avi 1
A_climb_f_cm_np1_ba_med_1.avi 1
B_climb_f_cm_np1_ba_med_0.avi 2
C_climb_f_cm_np1_ba_med_0.avi 0
"""
STAIRS = "A_climb_stairs_u_nm_np1_ba_goo_0.avi 2\nD_climb_stairs_u_nm_np1_ba_goo_0.avi 1\n"


def write(folder, climb=CLIMB, stairs=STAIRS, split=1):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("climb", climb), ("climb_stairs", stairs)):
        (folder / f"{name}_test_split{split}.txt").write_bytes(text.encode())
    return folder


def refusal(root, **lists):
    folder = write(root / "testTrainMulti_7030_splits", **lists)
    with pytest.raises(ValueError, match=r"^finds .* in its lists:") as raised:
        HMDB51("train", root=root)
    _, *lines = str(raised.value).split("\n")
    return [line.strip().replace(f"{folder}/", "") for line in lines]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_official_splits_have_the_published_sizes(real_data, split):
    options = {"root": real_data / "real_clips", "lists": real_data / "annotations/hmdb51"}
    sides = {s: HMDB51(s, split=split, **options) for s in ("train", "val", "test")}
    assert [len(side) for side in sides.values()] == [70 * 51, 30 * 51, 30 * 51]
    assert list(sides["val"]) == list(sides["test"])
    train, test = list(sides["train"]), list(sides["test"])
    assert len({r.id for r in train + test}) == 100 * 51
    classes = sides["train"].classes
    assert (len(classes), classes[0], classes[-1]) == (51, "brush_hair", "wave")
    for side, each in ((train, 70), (test, 30)):
        targets = [r.target for r in side]
        assert [targets.count(k) for k in range(51)] == [each] * 51
        assert all(classes[r.target] == r.id.split("/")[0] for r in side)
    films = [{(r.target, r.group) for r in side} for side in (train, test)]
    assert not films[0] & films[1]


def test_records(tmp_path):
    write(tmp_path / "testTrainMulti_7030_splits")
    train, test = (HMDB51(side, root=tmp_path) for side in ("train", "test"))
    assert train.classes == ["climb", "climb_stairs"]
    first, _, last = train
    assert first.id == "climb/A_climb_f_cm_np1_ba_med_0"
    assert first.sources == {"rgb": tmp_path / "climb/A_climb_f_cm_np1_ba_med_0.avi"}
    assert (first.target, first.group) == (0, "A")
    assert (last.target, last.group) == (1, "D")
    assert [r.id for r in test] == [
        "climb/B_climb_f_cm_np1_ba_med_0",
        "climb_stairs/A_climb_stairs_u_nm_np1_ba_goo_0",
    ]
    assert last.origin.endswith("climb_stairs_test_split1.txt:2")
    assert list(pickle.loads(pickle.dumps(train))) == list(train)


@pytest.mark.parametrize("layout", ["climb/", "", "hmdb51_org/climb/"])
def test_videos_are_found_where_they_lie(tmp_path, layout):
    write(tmp_path)
    file = tmp_path / f"{layout}A_climb_f_cm_np1_ba_med_0.avi"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert HMDB51("train", root=tmp_path)[0].sources == {"rgb": file}


@pytest.mark.parametrize("place", ["videos/testTrainMulti_7030_splits", "videos", "elsewhere"])
def test_lists_are_found_in_root_or_beside_or_named(tmp_path, place):
    (tmp_path / "videos").mkdir()
    folder = write(tmp_path / place, split=2)
    named = {"lists": folder} if place == "elsewhere" else {}
    assert len(HMDB51("train", root=tmp_path / "videos", split=2, **named)) == 3
    with pytest.raises(ValueError, match=r"finds no CLASS_test_split3.txt in .*; unpack"):
        HMDB51("train", root=tmp_path / "videos", split=3, **named)


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"climb": "x.avi\n"}, "climb_test_split1.txt:1: expected 'NAME.avi N', N being 1 to"),
        ({"climb": f"{CLIMB}x.avi 3\n"}, "climb_test_split1.txt:5: expected 'NAME.avi N'"),
        ({"climb": f"{CLIMB}{CLIMB[:31]}\n"}, "climb_test_split1.txt:5: A_climb_f_cm_np1_ba_med_0"),
        ({"stairs": ""}, "climb_stairs_test_split1.txt: expected lines, but the file is empty"),
        (
            {"climb": f"{CLIMB}A_climb_f_cm_np1_ba_med_7.avi 2\n"},
            "climb_test_split1.txt:5: the film A is in train too (line 1); take one side out",
        ),
        ({"climb": "../../x_climb_0.avi 1\n"}, "climb_test_split1.txt:1: "),
    ],
)
def test_wrong_lines_are_said_with_their_place(tmp_path, lists, sentence):
    (line,) = refusal(tmp_path, **lists)
    assert line.startswith(sentence)


def test_all_wrong_lines_come_at_once(tmp_path):
    found = refusal(tmp_path, climb="a\nb\n", stairs="c\n")
    assert len(found) == 3


@pytest.mark.parametrize(
    ("subset", "options", "sentence"),
    [
        ("train", {"split": 4}, "has the splits 1, 2 and 3, but was asked for 4; write 1"),
        ("all", {}, "has the subsets train, val and test, but was asked for 'all'"),
    ],
)
def test_wrong_options(tmp_path, subset, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        HMDB51(subset, root=tmp_path, **options)


def test_a_missing_root_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"finds no folder .*nowhere; check root"):
        HMDB51("train", root=tmp_path / "nowhere")
