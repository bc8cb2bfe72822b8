import pickle

import pytest

from actionkit.data.datasets.folder import SUFFIXES, Folder


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def ids(folder):
    return [folder[i].id for i in range(len(folder))]


@pytest.fixture
def given(tmp_path):
    return make(
        tmp_path,
        *("train/run/a.mp4", "train/run/B.AVI", "train/jump/c.webm", "val/run/d.mkv"),
        *("train/run/notes.txt", "train/run/.hidden.mp4", "train/.git/x.mp4"),
    )


@pytest.fixture
def drawn(tmp_path):
    names = [f"{c}/{i:02}.mp4" for c, n in [("run", 20), ("jump", 2), ("sit", 1)] for i in range(n)]
    return make(tmp_path, *names)


def test_given_split(given):
    train, val, test = (Folder(split, root=given) for split in ("train", "val", "test"))
    assert train.classes == val.classes == test.classes == ["jump", "run"]
    assert ids(train) == ["train/jump/c.webm", "train/run/B.AVI", "train/run/a.mp4"]
    assert ids(val) == ids(test) == ["val/run/d.mkv"]
    record = val[0]
    assert record.sources == {"rgb": given.resolve() / "val/run/d.mkv"}
    assert record.target == 1
    assert record.origin == str(record.sources["rgb"])


def test_given_test_split(given):
    make(given, "test/jump/t.mov")
    assert ids(Folder("test", root=given)) == ["test/jump/t.mov"]


def test_drawn_split_is_a_partition_with_val_clips_in_every_class(drawn):
    train, val = Folder("train", root=drawn), Folder("val", root=drawn)
    assert train.classes == val.classes == ["jump", "run", "sit"]
    assert not set(ids(train)) & set(ids(val))
    assert len(train) + len(val) == 23
    assert [sum(i.startswith(c) for i in ids(val)) for c in train.classes] == [1, 4, 0]
    assert ids(Folder("test", root=drawn)) == ids(val)
    for folder in (train, val):
        for i in range(len(folder)):
            assert folder.classes[folder[i].target] == folder[i].id.split("/")[0]


def test_drawn_split_is_stable(drawn):
    before = [i for i in ids(Folder("val", root=drawn)) if i.startswith("run")]
    assert ids(Folder("val", root=drawn)) == ids(Folder("val", root=drawn))
    make(drawn, "a_new_class/x.mp4", "jump/zz.mp4")
    assert [i for i in ids(Folder("val", root=drawn)) if i.startswith("run")] == before
    seeds = {tuple(ids(Folder("val", root=drawn, seed=seed))) for seed in range(5)}
    assert len(seeds) > 1


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.99])
def test_ratio_leaves_no_side_empty(drawn, ratio):
    val = ids(Folder("val", root=drawn, ratio=ratio))
    count = sum(i.startswith("run") for i in val)
    assert count == {0.01: 1, 0.5: 10, 0.99: 19}[ratio]
    assert sum(i.startswith("jump") for i in val) == 1


def test_every_suffix_in_any_case(tmp_path):
    make(tmp_path, *(f"train/run/{i}{s.upper()}" for i, s in enumerate(SUFFIXES)), "val/run/x.mp4")
    assert len(Folder("train", root=tmp_path)) == len(SUFFIXES)


def test_a_class_may_be_named_train(tmp_path):
    make(tmp_path, "train/a.mp4", "train/b.mp4", "ship/c.mp4", "ship/d.mp4")
    assert Folder("train", root=tmp_path).classes == ["ship", "train"]


def test_pickles(given):
    folder = pickle.loads(pickle.dumps(Folder("train", root=given)))
    assert ids(folder) == ids(Folder("train", root=given))


def test_links(tmp_path):
    root = make(tmp_path / "root", "run/a.mp4", "run/b.mp4")
    (root / "run/c.mp4").symlink_to(root / "run/a.mp4")
    assert len(Folder("train", root=root)) + len(Folder("val", root=root)) == 3
    make(tmp_path / "outside", "secret.mp4", "x/y.mp4")
    (root / "run/d.mp4").symlink_to(tmp_path / "outside/secret.mp4")
    with pytest.raises(ValueError, match=r"^finds a link that leads out of root: .*d\.mp4 -> "):
        Folder("train", root=root)
    (root / "run/d.mp4").unlink()
    (root / "sit").symlink_to(tmp_path / "outside/x")
    with pytest.raises(ValueError, match=r"^finds a link that leads out of root: .*sit -> "):
        Folder("train", root=root)


def test_root_may_be_a_link(tmp_path, drawn):
    (tmp_path / "link").symlink_to(drawn / "run")
    make(drawn, "run/x/a.mp4", "run/x/b.mp4")
    assert ids(Folder("train", root=tmp_path / "link"))[0].startswith("x/")


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        ([], {}, "finds no class folders in .*; put videos in root/CLASS/"),
        (["a.mp4"], {}, "finds no class folders in .*; put videos in root/CLASS/"),
        (["run/a.txt"], {}, "finds no video in .*run; take that folder away, or put videos"),
        (["train/run/a.mp4"], {}, "finds no class folders in .*val; put videos"),
        (["val/run/a.mp4"], {}, "finds no class folders in .*train; put videos"),
        (["train/run/a.txt", "val/run/a.mp4"], {}, "finds no video in .*train.run; take that"),
        (["train/run/a.mp4", "val/run/a.txt"], {"split": "val"}, "finds no video for val in .*"),
        (
            ["train/run/a.mp4", "val/run/a.mp4", "val/fly/a.mp4"],
            {},
            "finds classes in .*val that train does not have: fly; move them to train as well",
        ),
        (["run/a.mp4"], {"split": "val"}, "finds no video for val in .*; put videos"),
        (["run/a.mp4"], {"split": "dev"}, "has the splits train, val and test, but was asked for"),
        (["run/a.mp4"], {"ratio": 1.0}, "needs a ratio between 0 and 1, but got 1.0; try 0.2"),
        (["run/a.mp4"], {"seed": -1}, "needs a seed of at least 0, but got -1"),
    ],
)
def test_errors_are_sentences(tmp_path, names, options, sentence):
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Folder(**{"split": "train", "root": tmp_path, **options})


def test_missing_root(tmp_path):
    with pytest.raises(ValueError, match=r"^finds no folder .*nowhere; check root$"):
        Folder("train", root=tmp_path / "nowhere")
