import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from unfinished import ended, part

from actionkit.errors import RunError
from actionkit.files import HOST, free_bytes
from actionkit.training.run_folder import INHERITED, RunFolder

RECIPE = {
    "name": "két_stream",
    "seed": 3,
    "data": {"dataset": {"use": "folder", "root": "videos: here"}, "batch": 4},
    "model": {"streams": {"rgb": {"aggregate": ["spatial_pool", {"use": "mean"}]}}},
    "optimizer": {"lr": 1e-05, "schedule": {"min_lr": 0.0}},
    "off": "no",
    "nothing": None,
}
RECORD = {"name": "file_name", "recipe": RECIPE, "versions": {"actionkit": "0.1", "torch": "2.10"}}


def create(record, path=None):
    run = RunFolder.choose(record, path)
    run.begin(record)
    return run


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(INHERITED, "")  # so that what `begin` sets is taken back
    monkeypatch.delenv(INHERITED)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_place_without_a_path():
    run = create(RECORD)
    assert re.fullmatch(r"runs/két_stream/\d{8}T\d{6}Z-[0-9a-f]{8}", run.path.as_posix())
    assert run.checkpoints == run.path / "checkpoints"
    assert run.checkpoints.is_dir()


def test_name_of_the_recipes_file_where_it_has_none():
    run = create({**RECORD, "recipe": {**RECIPE, "name": None}})
    assert run.path.parent == Path("runs/file_name")


def test_hash_is_that_of_what_the_recipe_says(monkeypatch, tmp_path):
    def digest(recipe, **versions):
        monkeypatch.chdir(tmp_path_of[len(seen)])
        seen.append(create({**RECORD, "recipe": recipe, "versions": versions}).path.name)
        return seen[-1][-8:]

    seen: list[str] = []
    tmp_path_of = [tmp_path / str(i) for i in range(3)]
    for folder in tmp_path_of:
        folder.mkdir()
    first = digest(RECIPE)
    assert digest(dict(reversed(RECIPE.items())), torch="1") == first
    assert digest({**RECIPE, "seed": 4}) != first


def test_a_given_path_is_taken(tmp_path):
    run = create(RECORD, tmp_path / "a" / "b")
    assert run.path == tmp_path / "a" / "b"
    assert (run.path / "recipe.yaml").is_file()


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    create(RECORD, tmp_path / "run")
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="holds a run already"):
        create({**RECORD, "recipe": {**RECIPE, "seed": 4}}, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before


def test_choosing_makes_nothing(tmp_path):
    RunFolder.choose(RECORD, tmp_path / "run")
    RunFolder.choose(RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for act in (RunFolder.prepare, lambda run: run.begin(RECORD)):
        with pytest.raises(
            RunError, match=r"cannot be written by user \d+: Not a dir.*; choose an"
        ):
            act(RunFolder(tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "in the way"


def test_recipe_loads_again(tmp_path):
    text = (create(RECORD, tmp_path / "run").path / "recipe.yaml").read_text("utf-8")
    loaded = yaml.safe_load(text)
    assert loaded == RECIPE
    assert list(loaded) == list(RECIPE)  # in the order of the author
    assert text.splitlines()[0].startswith("# két_stream, as it ran on ")
    assert "actionkit 0.1, torch 2.10" in text.splitlines()[0]


def test_other_ranks_take_the_folder_of_rank_0(tmp_path, monkeypatch):
    first = create(RECORD, tmp_path / "run")
    files = sorted(first.path.rglob("*"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.chdir("/")
    other = create(RECORD)
    assert other.path == first.path.resolve()
    assert sorted(first.path.rglob("*")) == files


def test_results_of_several_commands_stand_side_by_side(tmp_path):
    run = create(RECORD, tmp_path / "run")
    run.add_results("fit", {"metrics": {"top1": 0.5}})
    RunFolder(run.path).add_results("test", {"metrics": {"top1": 0.25}})
    run.add_results("fit", {"metrics": {"top1": 0.75}})
    assert json.loads((run.path / "results.json").read_text()) == {
        "fit": {"metrics": {"top1": 0.75}},
        "test": {"metrics": {"top1": 0.25}},
    }
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints",
        "recipe.yaml",
        "results.json",
    ]


# -------------------------------------------------------------------------------- preparing


def test_preparing_proves_and_leaves_nothing(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.prepare()
    assert list(tmp_path.iterdir()) == []
    run.begin(RECORD)
    before = sorted(run.path.rglob("*"))
    run.prepare()  # as for a run that goes on
    assert sorted(run.path.rglob("*")) == before


def test_preparing_keeps_a_folder_that_was_there(tmp_path):
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").prepare()
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_only_the_first_rank_prepares(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOCAL_RANK", "1")
    RunFolder(tmp_path / "file" / "run").prepare()


PREPARE = """
import os, resource, sys
from pathlib import Path
from actionkit.errors import RunError
from actionkit.training.run_folder import RunFolder
{limit}
try:
    RunFolder(Path("run")).prepare()
except RunError as error:
    sys.exit(str(error))
"""


def prepared_under(limit, folder):
    """The sentence of a process that prepares below a folder under some limit."""
    command = [sys.executable, "-c", PREPARE.format(limit=limit)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return done.stderr.strip()


def test_another_user_s_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    # root may write everywhere
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    become = f"os.setuid({user}) if os.geteuid() == 0 else None"
    sentence = f"run/checkpoints cannot be written by user {user}: Permission denied; choose "
    try:
        assert prepared_under(become, tmp_path).startswith(sentence)
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_in_which_files_can_be_made_but_not_filled_is_refused(tmp_path):
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))"
    assert "cannot be written by user" in prepared_under(full, tmp_path)
    assert "File too large; choose another --run" in prepared_under(full, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert prepared_under("", tmp_path) == ""


@pytest.mark.parametrize("stage", ["mkdir", "fsync", "replace"])
def test_a_file_system_that_is_read_only_is_refused(tmp_path, monkeypatch, stage):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path if stage == "mkdir" else os, stage, fail)
        with pytest.raises(RunError, match="Read-only file system; choose another --run"):
            RunFolder(tmp_path / "run").prepare()
    assert list(tmp_path.iterdir()) == []


def test_room_for_three_checkpoints_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 299_999_999)
    )
    run = RunFolder(tmp_path / "not" / "made")
    assert free_bytes(run.path) == 299_999_999
    run.require_space(99_999_999)
    with pytest.raises(
        RunError, match=r"room for 300\.0 MB, but .* third, of 100\.0 MB each; free"
    ):
        run.require_space(100_000_000)


def test_preparing_removes_unfinished_files_of_the_run(tmp_path):
    run = create(RECORD, tmp_path / "run")
    before = sorted(run.path.rglob("*"))
    part(run.path, HOST, ended(), name="results.json")
    part(run.checkpoints, HOST, ended())
    run.prepare()
    assert sorted(run.path.rglob("*")) == before
