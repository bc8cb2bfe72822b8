import csv
import json
import pickle

import pytest
import yaml
from videos import moving_frames, write_video

from actionkit import schema, values
from actionkit.data.datasets.listing import Listing
from actionkit.data.readers.pyav import PyAV
from actionkit.registry import Entry

TRAIN = "a/1.mp4 0\na/2.mp4 1\nb/3.mp4 2\n"
VAL = "c/4.mp4 1\nc/5.mp4 0\n"


def write(folder, **lists):
    """Lists by name; the suffix is behind the last underscore."""
    for name, text in {"train_txt": TRAIN, "val_txt": VAL, **lists}.items():
        stem, suffix = name.rsplit("_", 1)
        (folder / f"{stem}.{suffix}").write_bytes(text.encode("utf-8", "surrogateescape"))
    return {"root": folder, "train": folder / "train.txt", "val": folder / "val.txt"}


def refusal(folder, options):
    """The lines of what such a data set says, with names of files alone."""
    with pytest.raises(ValueError, match=r"^finds .* in its lists:\n") as raised:
        Listing("train", **options)
    _, *lines = str(raised.value).replace(f"{folder}/", "").split("\n")
    return [line.strip() for line in lines]


def test_subsets_and_records(tmp_path):
    options = write(tmp_path)
    train, val, test = (Listing(subset, **options) for subset in ("train", "val", "test"))
    assert train.classes == val.classes == ["0", "1", "2"]
    assert [record.target for record in train] == [0, 1, 2]
    assert list(val) == list(test)
    record = val[0]
    assert record.id == "c/4.mp4"
    assert record.sources == {"rgb": tmp_path.resolve() / "c/4.mp4"}
    assert record.target == 1
    assert (record.start, record.end, record.group) == (None, None, "")
    assert record.origin == f"{tmp_path / 'val.txt'}:1"


def test_a_test_list_of_its_own(tmp_path):
    options = write(tmp_path, test_txt="t.mp4\n")
    test = Listing("test", **options, test=tmp_path / "test.txt")
    assert [(record.id, record.target) for record in test] == [("t.mp4", -1)]
    assert Listing("val", **options, test=tmp_path / "test.txt")[0].id == "c/4.mp4"


def test_one_list_in_all_formats_gives_the_same_records(tmp_path):
    rows = [(f"some dir/{i}.mp4", name) for i, name in enumerate(["run", "jump", "run"])]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "t.txt").write_text("".join(f"{path} {name}\n" for path, name in rows))
    values = [{"path": path, "label": name} for path, name in rows]
    (tmp_path / "t.json").write_text(json.dumps(values, indent=0))
    (tmp_path / "v.txt").write_text("v.mp4\n")
    found = [
        Listing("train", root=tmp_path, train=tmp_path / f"t.{s}", val=tmp_path / "v.txt")
        for s in ("txt", "csv", "json")
    ]
    for other in found[1:]:
        assert other.classes == found[0].classes == ["jump", "run"]
        for a, b in zip(found[0], other, strict=True):
            assert a._replace(origin="") == b._replace(origin="")


def test_parts_of_a_file_are_clips(tmp_path):
    rows = "path,label,start,end,group\na.mp4,run,0.5,2,g\na.mp4,run,2,,g\na.mp4,jump,,0.5,g\n"
    options = write(tmp_path, train_csv=rows) | {"train": tmp_path / "train.csv"}
    (tmp_path / "val.txt").write_text("v.mp4 run")
    records = list(Listing("train", **options))
    assert [record.id for record in records] == ["a.mp4#t=0.5,2", "a.mp4#t=2,", "a.mp4#t=0,0.5"]
    assert [(r.start, r.end) for r in records] == [(0.5, 2.0), (2.0, None), (None, 0.5)]
    assert {record.group for record in records} == {"g"}
    assert len({record.sources["rgb"] for record in records}) == 1


def test_lists_and_classes_are_found_as_written_then_in_root(tmp_path, monkeypatch):
    write(tmp_path, names_txt="x\ny\nz\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names = {"train": "train.txt", "val": "val.txt", "classes": "names.txt"}
    dataset = Listing("train", root=tmp_path, **names)
    assert dataset.classes == ["x", "y", "z"]
    assert dataset[0].origin == f"{tmp_path / 'train.txt'}:1"
    (tmp_path / "elsewhere/val.txt").write_text("here.mp4 2")
    val = Listing("val", root=tmp_path, **names)
    assert (val[0].id, val[0].origin) == ("here.mp4", "val.txt:1")
    with pytest.raises(
        ValueError, match=r"^finds no file no.txt, neither as written nor in .*; cor"
    ):
        Listing("val", root=tmp_path, **{**names, "classes": "no.txt"})


@pytest.mark.parametrize("classes", [["x", "y", "z"], "names.txt", "numbered.txt"])
def test_classes_name_the_numbers(tmp_path, classes):
    options = write(tmp_path, names_txt="x\ny\nz\n", numbered_txt="0 x\n1 y\n2 z\n")
    dataset = Listing("train", **options, classes=classes)
    assert dataset.classes == ["x", "y", "z"]
    assert [record.target for record in dataset] == [0, 1, 2]


def test_labels_are_checked_in_all_lists_at_once(tmp_path):
    options = write(tmp_path, train_txt=TRAIN + "b/6.mp4 5\nb/7.mp4\n", val_txt="c 3\nd x\ne -1\n")
    assert refusal(tmp_path, options | {"classes": ["x", "y", "z"]}) == [
        "train.txt:5: expected a label, which every clip to train on needs",
        "train.txt:4: label 5 outside 0..2 (3 classes)",
        "val.txt:1: label 3 outside 0..2 (3 classes)",
        "val.txt:2: label 'x' is no number, unlike the first of train; write one kind",
        "val.txt:3: label -1 outside 0..2 (3 classes)",
    ]


def test_a_label_outside_is_said_as_of_118_lines_the_last(tmp_path):
    lines = [f"{i}.mp4,{i % 101}" for i in range(117)]
    options = write(tmp_path, train_csv="\n".join([*lines, "x.mp4,101"]))
    options |= {"train": tmp_path / "train.csv", "classes": [f"c{i}" for i in range(101)]}
    assert refusal(tmp_path, options) == ["train.csv:118: label 101 outside 0..100 (101 classes)"]


def test_labels_of_val_must_be_classes_of_train(tmp_path):
    options = write(tmp_path, train_txt="a run\nb jump\n", val_txt="c fly\nd\n")
    assert refusal(tmp_path, options) == ["val.txt:1: label 'fly' is none of the 2 classes"]


def test_mixed_labels_are_refused(tmp_path):
    options = write(tmp_path, train_txt="a run\nb 3\n")
    cure = "unlike the first of train; write one kind"
    assert refusal(tmp_path, options)[0] == f"train.txt:2: label '3' is a number, {cure}"


def test_json_on_one_line_names_the_clip(tmp_path):
    options = write(
        tmp_path, train_json=json.dumps([{"path": "a", "label": 0}, {"path": "b/../a"}])
    )
    lines = refusal(tmp_path, options | {"train": tmp_path / "train.json"})
    assert "train.json:1: 'b/../a': the same clip, or id, is in line 1; take one out" in lines


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("a,0\n./a,0\n", "train.csv:2: the same clip, or id, is in line 1; take one out"),
        (
            "path,label,start\na,0,0\na,0,\n",
            "train.csv:3: the same clip, or id, is in line 2; take one out",
        ),
        (
            "path,label,id\na,0,x\nb,0,x\n",
            "train.csv:3: the same clip, or id, is in line 2; take one out",
        ),
        ("a\nb\n", "train.csv: expected a label for every clip to train on, but none has one"),
        ("", "train.csv: expected clips, but the list is empty"),
        ("a,1\nb,2\n", "train.csv: no clip has label 0, though labels go up to 2; count from 0, or "
         "name all classes in 'classes'"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_trained_on(tmp_path, train, sentence):
    options = write(tmp_path, train_csv=train, val_txt="v\n") | {"train": tmp_path / "train.csv"}
    assert refusal(tmp_path, options) == [sentence]


# ----------------------------------------------------------------------------------------- leaks


@pytest.mark.parametrize("side", ["val", "test"])
def test_a_clip_on_two_sides_is_refused(tmp_path, side):
    options = write(tmp_path, other_txt="x.mp4 0\n./a//2.mp4 1\n") | {side: tmp_path / "other.txt"}
    assert refusal(tmp_path, options) == [
        f"other.txt:2: the same clip in train and {side}: a/2.mp4 (train.txt:2); take it out of one"
    ]


@pytest.mark.parametrize(
    ("train", "val", "leaks"),
    [
        ((0, 2), (2, 4), False),
        ((2, 4), (0, 2), False),
        ((0, 2), (1.9, 4), True),
        ((1, 2), (0, 4), True),
        ((0, 4), (1, 2), True),
        (("", ""), (1, 2), True),
        ((3, ""), (1, 2), False),
        ((1, ""), (1.5, ""), True),
    ],
)
def test_parts_of_one_file_leak_only_where_they_overlap(tmp_path, train, val, leaks):
    lists = {
        f"{name}_csv": "path,label,start,end\na.mp4,0,{},{}\n".format(*part)
        for name, part in (("train", train), ("val", val))
    }
    write(tmp_path, **lists)
    options = {"root": tmp_path, "train": tmp_path / "train.csv", "val": tmp_path / "val.csv"}
    if leaks:
        assert "the same clip in train and val: a.mp4" in refusal(tmp_path, options)[0]
    else:
        assert len(Listing("val", **options)) == 1


def test_ids_and_groups_on_two_sides_are_refused(tmp_path):
    header = "path,label,id,group\n"
    write(
        tmp_path,
        train_csv=header + "a,0,x,\nb,0,,g\nc,0,,\n",
        val_csv=header + "d,0,x,\ne,0,,g\nf,0,,g\nh,0,,\n",
    )
    options = {"root": tmp_path, "train": tmp_path / "train.csv", "val": tmp_path / "val.csv"}
    assert refusal(tmp_path, options) == [
        "val.csv:2: the same clip in train and val: x (train.csv:2); take it out of one",
        "val.csv:3: clips of the same group in train and val: g (train.csv:3); take it out of one",
    ]


# ----------------------------------------------------------------------------------------- paths


def test_paths_that_leave_root_are_refused(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/link.mp4").symlink_to("/etc/passwd")
    write(root, val_txt="../x.mp4 0\n/etc/passwd 0\na/link.mp4 0\n" + str(root / "ok.mp4") + " 0")
    options = {"root": root, "train": root / "train.txt", "val": root / "val.txt"}
    lines = refusal(root, options)
    assert [line.split("; ")[0].split(" -> ")[0] for line in lines] == [
        f"val.txt:1: the path leaves root: '..' is not in {root}",
        f"val.txt:2: the path leaves root: '/etc' is not in {root}",
        "val.txt:3: a link that leads out of root: a/link.mp4",
    ]


def test_absolute_paths_in_root_are_fine(tmp_path):
    options = write(tmp_path, val_txt=f"{tmp_path}/v.mp4 0")
    assert Listing("val", **options)[0].id == "v.mp4"


def test_names_that_are_not_utf8_are_read_and_can_be_printed(tmp_path):
    name = "caf\udce9.mp4"
    options = write(tmp_path, train_txt=f"{name} r\udcffn\n", val_txt="v\n")
    write_video(tmp_path / "plain.mp4", moving_frames(3)).rename(tmp_path / name)
    dataset = Listing("train", **options)
    record = dataset[0]
    for text in (record.id, record.origin, *dataset.classes):
        text.encode()
    assert record.id == r"caf\udce9.mp4"
    assert PyAV().probe(record.sources["rgb"]).frames == 3


def test_files_need_not_exist(tmp_path):
    dataset = Listing("train", **write(tmp_path))
    assert not any(record.sources["rgb"].exists() for record in dataset)


# --------------------------------------------------------------------------------------- options


def test_options_are_readable_from_a_recipe():
    entry = Entry("datasets", "listing", "actionkit.data.datasets.listing:Listing", "x", "0")
    found = schema.parameters(entry)
    assert [name for name, p in found.items() if p.required] == ["root", "train", "val"]
    for text in ("names.txt", "[run, jump]", "null"):
        values.fit(yaml.safe_load(text), found["classes"].type)
    with pytest.raises(values.MisfitError, match="expected a path or a list of texts or null"):
        values.fit([1, 2], found["classes"].type)
    entry = entry._replace(target="actionkit.data.datasets.ucf101:UCF101")
    found = schema.parameters(entry)
    assert list(found) == ["root", "split", "lists"]
    assert values.fit(3, found["split"].type) == 3
    with pytest.raises(values.MisfitError, match="expected 1, 2, 3, got 4"):
        values.fit(4, found["split"].type)


def test_wrong_options(tmp_path):
    options = write(tmp_path)
    with pytest.raises(ValueError, match=r"^has the splits train, val and test, but was asked"):
        Listing("dev", **options)
    with pytest.raises(ValueError, match=r"^finds no folder .*nowhere; check root$"):
        Listing("train", **options | {"root": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match=r"^finds no file .*no.txt, neither as written nor in "):
        Listing("train", **options | {"val": tmp_path / "no.txt"})


def test_pickles(tmp_path):
    dataset = Listing("train", **write(tmp_path))
    copy = pickle.loads(pickle.dumps(dataset))
    assert list(copy) == list(dataset)
    assert copy.classes == dataset.classes
    assert copy[-1] == dataset[2]
