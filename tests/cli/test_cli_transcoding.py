"""`transcode`: a data set, of which only the root changes, and what is said about it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from recipes_for_tests import TWO_STREAMS, changed, write
from typer.testing import CliRunner
from videos import moving_frames, write_video

from actionkit import builder
from actionkit.cli import transcoding
from actionkit.cli.transcoding import transcode
from actionkit.data.readers.pyav import PyAV
from actionkit.errors import RunError, TooManyBadClipsError
from actionkit.recipe import RecipeError
from actionkit.testing.toy import images

app = typer.Typer()
app.command()(transcode)
AVI = {"codec": "mpeg4", "options": {"g": "250", "bf": "2", "b": "4M"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Speed is measured by one test only."""
    monkeypatch.setattr("actionkit.extraction.transcoding.gain", lambda *_: 2.5)


def invoke(*arguments, code=0):
    result = CliRunner().invoke(
        app, [str(a) for a in arguments], env={"COLUMNS": "200"}, catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    return result.output


def recipe(folder, dataset, **data):
    changes = {"data.dataset": dataset, **{f"data.{key}": value for key, value in data.items()}}
    return write(folder, changed(TWO_STREAMS, changes))


def clips(path, *overrides):
    """Every split's records with what is read of them, as a recipe has them."""
    found = builder.blueprint(path, overrides)
    found.require()
    return found, {
        split: [dataset[i] for i in range(len(dataset))]
        for split, dataset in found.datasets.items()
    }


def compare_sets(old, new):
    """The same records, of frames that are nearly the same; says how many files there are."""
    (before, records), (after, others) = old, new
    seen = {}
    for split, listed in records.items():
        for one, other in zip(listed, others[split], strict=True):
            assert (other.id, other.target, other.group) == (one.id, one.target, one.group)
            assert (other.start, other.end) == (one.start, one.end)
            seen[one.sources["rgb"]] = other
            ((reader, path),) = before.stages.sources.of(one).values()
            ((again, new_path),) = after.stages.sources.of(other).values()
            assert again.probe(new_path) == reader.probe(path)
            indices = np.arange(0, reader.probe(path).frames, 5)
            a, b = reader.read(path, indices).float(), again.read(new_path, indices).float()
            away = (a[:, None] - b[None]).abs().mean((2, 3, 4))
            assert away.argmin(0).tolist() == list(range(len(indices)))
    return len(seen)


@pytest.fixture
def folder(tmp_path):
    """A folder of videos, of two containers and codecs."""
    for i in range(6):
        name = f"{'run' if i % 2 else 'jump'}/{i}.{'avi' if i < 3 else 'mp4'}"
        write_video(
            tmp_path / "old" / name, moving_frames(20 + i, seed=i), **(AVI if i < 3 else {})
        )
    (tmp_path / "old" / "run" / "notes.txt").write_text("no video")
    return tmp_path / "old"


def test_a_data_set_works_with_only_its_root_changed(tmp_path, folder):
    path = recipe(tmp_path, {"use": "folder", "root": str(folder), "ratio": 0.4})
    out = tmp_path / "new"
    text = invoke(path, out, "--workers", 2)
    assert "6 of 6 videos encoded" in text
    assert f"data.dataset.root={out}" in text
    assert "2.5 times as fast" in text
    assert compare_sets(clips(path), clips(path, f"data.dataset.root={out}")) == 6
    assert {p.name for p in (out / "run").iterdir()} == {"1.avi", "3.mp4", "5.mp4"}
    assert "0 of 6 videos encoded, 6 were there already" in invoke(path, out)


def test_lists_stay_right_where_all_their_files_lie_deeper_than_root(tmp_path):
    root = tmp_path / "old"
    for i in range(4):
        write_video(root / "videos" / "a" / f"{i}.mp4", moving_frames(30, seed=i))
    for name, numbers in (("train", (0, 1)), ("val", (2, 3))):
        lines = [f"videos/a/{i}.mp4,{i % 2},0.2,1.0\n" for i in numbers]
        (tmp_path / f"{name}.csv").write_text("path,label,start,end\n" + "".join(lines))
    lists = {name: str(tmp_path / f"{name}.csv") for name in ("train", "val")}
    path = recipe(tmp_path, {"use": "listing", "root": "nowhere", **lists})
    invoke(path, tmp_path / "new", f"data.dataset.root={root}", "--workers", 0)
    old, new = (clips(path, f"data.dataset.root={tmp_path / side}") for side in ("old", "new"))
    assert compare_sets(old, new) == 4


def test_folders_of_images_become_videos_of_the_same_names(tmp_path):
    for i in range(2):
        images(tmp_path / "old" / f"clip.{i}", moving_frames(20, seed=i))
        (tmp_path / f"{'tv'[i]}.txt").write_text("clip.0 0\n" if i == 0 else "clip.1 0\n")
    lists = {"train": str(tmp_path / "t.txt"), "val": str(tmp_path / "v.txt")}
    dataset = {"use": "listing", "root": str(tmp_path / "old"), **lists}
    path = recipe(tmp_path, dataset, reader={"use": "frames", "fps": 12.5})
    text = invoke(path, tmp_path / "new", "--workers", 0)
    wanted = f"data.dataset.root={tmp_path / 'new'} data.reader=pyav"
    assert wanted in text
    assert compare_sets(clips(path), clips(path, *wanted.split())) == 2


def test_a_folder_and_a_file_are_sources_too(tmp_path, folder):
    text = invoke(folder, tmp_path / "new", "--gop", 6, "--short-side", 24, "--suffix", ".mp4")
    assert "6 of 6 videos encoded" in text
    assert "before, " in text
    assert {p.suffix for p in (tmp_path / "new" / "jump").iterdir()} == {".mp4"}
    info = PyAV().probe(tmp_path / "new" / "jump" / "0.mp4")
    assert (info.frames, info.height, info.width) == (20, 24, 32)
    settings = json.loads((tmp_path / "new" / "store.json").read_text())["settings"]
    assert (settings["gop"], settings["crf"], settings["short_side"]) == (6, 20, 24)
    with pytest.raises(RunError, match=r"gop is 6 there, 12 is wanted.*crf is 20 there, 30 is"):
        invoke(folder, tmp_path / "new", "--crf", 30, "--short-side", 24, "--suffix", ".mp4")
    invoke(folder / "run" / "1.avi", tmp_path / "one")
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"1.avi", "store.json"}


def test_bad_files_are_named_and_too_many_of_them_end_with_their_own_code(tmp_path, folder):
    for i in range(7):
        (folder / "run" / f"bad{i}.mp4").write_text("no video at all")
    path = recipe(tmp_path, {"use": "folder", "root": str(folder)}, max_bad=0.6)
    text = invoke(path, tmp_path / "new", "--workers", 2)
    assert "6 of 13 videos encoded" in text
    assert "run/bad0.mp4 (pyav): it is text" in text
    assert f"and 2 more, in {tmp_path / 'new' / 'store.json'}" in text
    with pytest.raises(TooManyBadClipsError, match="7 of 13 videos could not") as error:
        invoke(folder, tmp_path / "other", "--workers", 2)
    assert error.value.exit_code == 4
    assert len(list((tmp_path / "other" / "jump").iterdir())) == 3  # the rest was done


def test_a_file_outside_of_the_root_is_refused(tmp_path, folder, monkeypatch):
    path = recipe(tmp_path, {"use": "folder", "root": str(folder)})
    found = builder.blueprint(path)
    found.plan.data.dataset.options["root"] = folder / "run"
    monkeypatch.setattr(transcoding, "checked", lambda *_, **__: found)
    with pytest.raises(RunError, match=r"jump/0.avi does not lie in the data set's root"):
        invoke(path, tmp_path / "new")


def test_what_cannot_be_asked_for_is_said_before_anything_is_written(tmp_path, folder):
    for options, text in {
        ("--preset", "fastest"): "ultrafast",
        ("--short-side", "255"): "even number",
        ("--suffix", "mp4"): ".mp4",
        ("--gop", "0"): "--gop",
        ("data.batch=3",): "of a recipe only",
    }.items():
        assert text in invoke(folder, tmp_path / "new", *options, code=2)
    with pytest.raises(RecipeError, match="no recipe goes by this name"):
        invoke("nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_it_is_worth_is_measured_and_said(tmp_path, folder, monkeypatch):
    monkeypatch.undo()
    text = invoke(folder, tmp_path / "new", "--workers", 0)
    assert "clips are read" in text or "clips take" in text
    for times, words in ((3.14, "read 3.1 times as fast"), (1.0, "as fast as before"),
                         (0.5, "take 2.0 times as long to read as before: keep")):  # fmt: skip
        assert words in transcoding._verdict(times)
    asked = []
    room = "actionkit.extraction.transcoding.gain"
    monkeypatch.setattr(room, lambda videos, _: asked.append(len(videos)) or 0.25)
    text = invoke(folder, tmp_path / "other", "--workers", 0)
    assert asked == [3]  # before the others are encoded
    assert text.index("Ctrl+C ends this") < text.index("6 of 6 videos encoded")
    assert "take 4.0 times as long" in text


def test_the_command_imports_no_torch_before_it_runs():
    code = "import sys, actionkit.cli.transcoding; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
