import errno
import itertools
import multiprocessing
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from makers import saves
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from actionkit import files
from actionkit.errors import RunError
from actionkit.files import remove_unfinished
from actionkit.training import checkpoints as module
from actionkit.training.checkpoints import (
    AtomicCheckpointIO,
    newest_whole,
    read,
    verify,
)
from actionkit.training.run_folder import RunFolder

# Children that are killed: forked from a server that has imported all but done nothing yet.
KILLED = multiprocessing.get_context("forkserver")
KILLED.set_forkserver_preload(["lightning.pytorch", "actionkit.training.checkpoints"])


def content(step, size=1000):
    return {"state_dict": {"w": torch.full((size,), float(step))}, "global_step": step}


def save(path, step=1, **options):
    AtomicCheckpointIO().save_checkpoint(content(step, **options), str(path))
    return path


def step_of(path):
    """The step that a whole checkpoint was written at."""
    verify(path)
    kept = AtomicCheckpointIO().load_checkpoint(path)
    assert (kept["state_dict"]["w"] == kept["global_step"]).all()  # of one save, not of two
    return kept["global_step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------- a save


def test_what_is_saved_comes_back(tmp_path):
    whole = {"a": [1, 2.5, None, "text", (True,)], "b": {"c": torch.arange(6).view(2, 3)}}
    AtomicCheckpointIO().save_checkpoint(whole, tmp_path / "new" / "x.ckpt")
    kept = AtomicCheckpointIO().load_checkpoint(tmp_path / "new" / "x.ckpt")
    assert kept["a"] == whole["a"]
    assert torch.equal(kept["b"]["c"], whole["b"]["c"])
    assert names(tmp_path / "new") == ["x.ckpt"]


def test_it_takes_the_place_of_a_link_and_leaves_what_that_points_to(tmp_path):
    save(tmp_path / "kept.ckpt", 1)
    (tmp_path / "last.ckpt").symlink_to("kept.ckpt")
    save(tmp_path / "last.ckpt", 2)
    assert not (tmp_path / "last.ckpt").is_symlink()
    assert [step_of(tmp_path / name) for name in ("kept.ckpt", "last.ckpt")] == [1, 2]


@pytest.mark.parametrize(("value", "entry", "kind"), [
    ({"h": {"lr": np.float64(0.1)}}, "h.lr", "numpy.float64"),
    ({"h": [1, {"file": Path("x")}]}, "h.1.file", "pathlib.PosixPath"),
    ({"h": OmegaConf.create({"a": 1})}, "h", "omegaconf.dictconfig.DictConfig"),
    ({"h": {"f": lambda: 1}}, "h.f", "builtins.function"),
    ({"h": {np.int64(3): 1}}, "h.3 (its key)", "numpy.int64"),
    ({"h": (1, {Path("x")})}, "h.1.0", "pathlib.PosixPath"),
])  # fmt: skip
def test_what_is_no_plain_data_is_refused_at_once_and_named(tmp_path, value, entry, kind):
    path = save(tmp_path / "best.ckpt", 1)
    with pytest.raises(RunError) as error:
        AtomicCheckpointIO().save_checkpoint({**content(2), **value}, path)
    assert str(error.value).startswith(f"{path} is not written, since it could not be loaded safe")
    assert f"its entry {entry} is no plain data but a {kind}; keep only" in str(error.value)
    assert step_of(path) == 1
    assert names(tmp_path) == ["best.ckpt"]


def test_a_file_that_does_not_come_back_as_written_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "best.ckpt", 1)
    monkeypatch.setattr(torch, "save", lambda _, file: file.write(b"PK\x03\x04 and no more"))
    with pytest.raises(RunError, match="is cut short"):
        save(path, 2)
    assert step_of(path) == 1
    assert names(tmp_path) == ["best.ckpt"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_failing_write_is_a_sentence_and_keeps_the_file_before(
    tmp_path, monkeypatch, stage, code
):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    path = save(tmp_path / "best.ckpt", 1)
    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(RunError) as error:
        AtomicCheckpointIO().save_checkpoint(content(2, size=1_000_000), path)
    assert str(error.value).startswith(f"{path} cannot be written: {os.strerror(code)}; it takes 4")
    assert "MB are free; the file before it is kept. Free space, or choose another" in str(
        error.value
    )
    assert step_of(path) == 1
    assert names(tmp_path) == ["best.ckpt"]


def test_control_c_while_writing_is_no_error_of_the_disk(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = save(tmp_path / "last.ckpt", 1)
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(path, 2)
    assert step_of(path) == 1
    assert names(tmp_path) == ["last.ckpt"]


def save_in_little_room(path, limit):
    """In a process whose files may not grow beyond a limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(path, 2, size=1_000_000)
    except RunError as error:
        return str(error), names(path.parent)


def test_a_full_disk_leaves_half_of_nothing(tmp_path):
    path = save(tmp_path / "best.ckpt", 1)
    with ProcessPoolExecutor(1, KILLED) as pool:
        sentence, left = pool.submit(save_in_little_room, path, 2_000_000).result()
    assert sentence.startswith(f"{path} cannot be written: File too large; it takes 4.0 MB and ")
    assert left == ["best.ckpt"]
    assert step_of(path) == 1


def test_a_folder_that_became_a_file_is_a_sentence(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(RunError, match=r"best\.ckpt cannot be written: File exists; it takes 0\."):
        save(tmp_path / "checkpoints" / "best.ckpt")


# ---------------------------------------------------------------------------------- a load


def damaged(path, how):
    whole = save(path, size=100_000).read_bytes()
    middle = len(whole) // 2
    spoilt = {
        "half": whole[:middle],
        "all but a byte": whole[:-1],
        "empty": b"",
        "text": b"this is no checkpoint\n" * 100,
        "a byte changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }
    path.write_bytes(spoilt[how])
    return path


@pytest.mark.parametrize(("how", "reason"), [
    ("half", r"is cut short: it ends after 200,\d\d\d bytes"),
    ("all but a byte", "is cut short: it ends after 40"),
    ("empty", "is empty$"),
    ("text", "is no checkpoint: torch.save has not written it"),
])  # fmt: skip
def test_a_spoilt_file_is_told_by_path_and_reason(tmp_path, how, reason):
    path = damaged(tmp_path / "best.ckpt", how)
    for load in (verify, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(RunError, match=rf"best\.ckpt {reason}"):
            load(path)


def test_a_single_changed_byte_is_found_though_torch_loads_it(tmp_path):
    path = damaged(tmp_path / "best.ckpt", "a byte changed")
    torch.load(path, weights_only=True)
    with pytest.raises(RunError, match=r"is damaged: the check sum of its part .*data/0 is wrong"):
        verify(path)


def test_what_is_no_checkpoint_of_a_run_is_told(tmp_path):
    torch.save({"model": 1}, tmp_path / "x.ckpt")
    with pytest.raises(RunError, match="no checkpoint of a run: it holds no state_dict"):
        verify(tmp_path / "x.ckpt")
    with pytest.raises(RunError, match=r"gone\.ckpt cannot be read: No such file or directory"):
        verify(tmp_path / "gone.ckpt")


class Evil:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return (open, (self.sentinel, "w"))


@pytest.mark.parametrize("asked", [None, True, False])
def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path, asked):
    torch.save({"state_dict": Evil(str(tmp_path / "ran"))}, tmp_path / "evil.ckpt")
    sentence = r"not loaded \(weights_only=True\), for it holds more .*: .*open was not an allowed"
    for load in (verify, lambda p: AtomicCheckpointIO().load_checkpoint(p, weights_only=asked)):
        with pytest.raises(RunError, match=sentence) as error:
            load(tmp_path / "evil.ckpt")
        assert isinstance(error.value.__cause__, pickle.UnpicklingError)
    assert not (tmp_path / "ran").exists()


def test_words_that_lightning_would_act_on_are_only_words(tmp_path):
    words = {"_instantiator": "os.system", "_class_path": f"touch {tmp_path / 'ran'}"}
    torch.save({**content(1), "hyper_parameters": words}, tmp_path / "evil.ckpt")
    kept = AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert kept["hyper_parameters"] == words
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("url", ["http://localhost:9/x.ckpt", "https://localhost:9/x.ckpt"])
def test_nothing_is_fetched(url):
    with pytest.raises(RunError, match="No such file or directory"):
        read(Path(url))
    with pytest.raises(RunError, match="No such file or directory"):
        AtomicCheckpointIO().load_checkpoint(url)


# ------------------------------------------------------------------------ the newest whole one


def in_turn(folder, *files):
    """Checkpoints, oldest first."""
    for age, name in enumerate(files):
        path = save(folder / f"{name}.ckpt", age)
        os.utime(path, (1e9 + age, 1e9 + age))


def cut(path):
    times = path.stat()
    os.truncate(path, times.st_size // 2)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_newest_whole_one_and_why_not_a_newer_one(tmp_path):
    assert newest_whole(tmp_path / "nowhere") == (None, [])
    in_turn(tmp_path, "oldest", "best", "newer", "last")
    assert newest_whole(tmp_path) == (tmp_path / "last.ckpt", [])
    for name in ("oldest", "newer", "last"):
        cut(tmp_path / f"{name}.ckpt")
    whole, broken = newest_whole(tmp_path)
    assert whole == tmp_path / "best.ckpt"
    assert [sentence.partition(":")[0] for sentence in broken] == [
        f"{tmp_path}/last.ckpt is cut short",
        f"{tmp_path}/newer.ckpt is cut short",
    ]
    cut(tmp_path / "best.ckpt")
    assert newest_whole(tmp_path)[0] is None
    assert len(newest_whole(tmp_path)[1]) == 4


def test_a_link_to_nowhere_is_told_not_followed(tmp_path):
    in_turn(tmp_path, "best")
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "gone.ckpt")
    whole, (sentence,) = newest_whole(tmp_path)
    assert whole == tmp_path / "best.ckpt"
    assert sentence == f"{tmp_path}/last.ckpt cannot be read: No such file or directory"


def test_a_broken_best_leads_to_last(tmp_path):
    in_turn(tmp_path, "best", "last")
    assert read(tmp_path / "best.ckpt")["global_step"] == 0
    cut(tmp_path / "best.ckpt")
    way_out = "; last.ckpt is whole: choose --checkpoint last"
    with pytest.raises(RunError, match=f"best.ckpt is cut short: .*{way_out}$"):
        read(tmp_path / "best.ckpt")
    (tmp_path / "last.ckpt").rename(tmp_path / "epoch3.ckpt")
    with pytest.raises(RunError, match=f"choose --checkpoint {tmp_path}/epoch3.ckpt$"):
        read(tmp_path / "last.ckpt")


def test_where_nothing_is_whole_nothing_is_promised(tmp_path):
    in_turn(tmp_path, "best", "last", "mine")
    for path in tmp_path.iterdir():
        cut(path)
    with pytest.raises(RunError, match=r"without its directory$"):
        read(tmp_path / "best.ckpt")
    save(tmp_path / "last.ckpt")
    with pytest.raises(RunError, match=r"without its directory$"):
        read(tmp_path / "mine.ckpt")  # a file of one's own: its neighbours are no cure


# --------------------------------------------------------------------------- with Lightning


class Tiny(lightning.LightningModule):
    """Trains a step an epoch; `tops` are its metrics."""

    def __init__(self, tops=None, size=10):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(size))
        self.tops = tops

    def training_step(self, batch, index):
        return (self.w - 1).square().sum()

    def validation_step(self, batch, index):
        top = self.tops[self.current_epoch] if self.tops else float(self.current_epoch)
        self.log("val/top1", top, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def fit(folder, epochs, task, **options):
    folder.mkdir(exist_ok=True)
    trainer = lightning.Trainer(
        **{"max_epochs": epochs, "accelerator": "cpu", "logger": False, **options},
        default_root_dir=folder,
        callbacks=saves(folder),
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    one = DataLoader([torch.zeros(1)])
    trainer.fit(task, one, one, weights_only=True)
    return trainer


@pytest.mark.parametrize("every", [1, 2])
def test_best_and_last_are_what_they_say(tmp_path, every):
    fit(tmp_path, 4, Tiny([0.1, 0.9, 0.9, 0.5]), check_val_every_n_epoch=every)
    assert names(tmp_path) == ["best.ckpt", "last.ckpt"]
    io = AtomicCheckpointIO()
    assert io.load_checkpoint(tmp_path / "best.ckpt")["epoch"] == 1
    assert io.load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 3
    verify(tmp_path / "best.ckpt")
    verify(tmp_path / "last.ckpt")


def test_nothing_is_ever_removed_before_its_successor_is_there(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(AtomicCheckpointIO, "remove_checkpoint", lambda *_: seen.append("removed"))
    replace = os.replace

    def note(here, there):
        seen.append((Path(there).name, names(tmp_path)))
        replace(here, there)

    monkeypatch.setattr(os, "replace", note)
    fit(tmp_path, 3, Tiny())
    assert [name for name, _ in seen] == ["best.ckpt", "last.ckpt"] * 3
    for _, there in seen[2:]:
        assert {"best.ckpt", "last.ckpt"} < set(there)


def test_lightning_reads_by_it_too(tmp_path):
    task = Tiny()
    trainer = fit(tmp_path, 1, task)
    cut(tmp_path / "best.ckpt")
    with pytest.raises(RunError, match=r"best\.ckpt is cut short"):
        trainer.validate(task, DataLoader([1]), ckpt_path=tmp_path / "best.ckpt", verbose=False)


def test_a_write_that_fails_ends_the_fit_with_the_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"best\.ckpt cannot be written: No space left on device"):
        fit(tmp_path, 2, Tiny())
    assert names(tmp_path) == []


# ------------------------------------------------------------------------------------ kills


def elsewhere():
    """Files for temporary use on another file system, as on many clusters."""
    if Path("/dev/shm").is_dir():
        os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm"


def save_and_die(path, nth):
    """Saves step 2, and is killed before the nth line of our own code that this runs."""
    ours, lines = {module.__file__, files.__file__}, itertools.count(1)

    def trace(frame, event, _):
        if frame.f_code.co_filename not in ours:
            return None
        if event == "line" and next(lines) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        sys.settrace(trace)
        save(path, 2)
        os._exit(0)
    finally:
        os._exit(1)


def kill_at_every_line(path):
    """For each line: the step of what is there after the kill, and how many files beside it."""
    elsewhere()
    found = []
    for nth in itertools.count(1):
        save(path, 1)
        if (child := os.fork()) == 0:
            save_and_die(path, nth)
        _, status = os.waitpid(child, 0)
        found.append((step_of(path), len(names(path.parent)) - 1))
        remove_unfinished(path.parent)
        assert names(path.parent) == [path.name]
        if not os.WIFSIGNALED(status):
            break
    assert status == 0
    return found


def test_killed_at_every_line_of_a_save(tmp_path):
    with ProcessPoolExecutor(1, KILLED) as pool:
        found = pool.submit(kill_at_every_line, tmp_path / "best.ckpt").result()
    steps, unfinished = zip(*found, strict=True)
    assert len(found) > 20
    assert steps == tuple(sorted(steps))  # the old one, and from some line on the new one
    assert set(steps) == {1, 2}
    assert set(unfinished) == {0, 1}
    assert unfinished[0] == unfinished[-1] == 0


def save_on_and_on(folder, started):
    elsewhere()
    started.set()
    for step in itertools.count(1):
        save(folder / "best.ckpt", step, size=4_000_000)
        save(folder / "last.ckpt", step, size=4_000_000)


def fit_on_and_on(folder, started):
    elsewhere()
    started.set()
    fit(folder, -1, Tiny(size=2_000_000))


def kill(work, run, seconds):
    """Kills work so long after its start; whether that left a file unfinished."""
    started = KILLED.Event()
    process = KILLED.Process(target=work, args=(run.checkpoints, started))
    process.start()
    assert started.wait(120)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL  # it had not ended by itself
    there = {name for name in names(run.checkpoints) if name.endswith(".ckpt")}
    assert there == {"best.ckpt", "last.ckpt"}
    for name in there:
        verify(run.checkpoints / name)
    unfinished = set(names(run.checkpoints)) - there
    run.prepare()
    assert set(names(run.checkpoints)) == there
    return bool(unfinished)


@pytest.mark.parametrize(("work", "kills"), [
    (save_on_and_on, 8),
    pytest.param(save_on_and_on, 20, marks=pytest.mark.slow),
    pytest.param(fit_on_and_on, 20, marks=pytest.mark.slow),
])  # fmt: skip
def test_killed_at_random_what_is_there_is_whole(tmp_path, work, kills):
    run, chance = RunFolder(tmp_path / "run"), random.Random(0)
    for name in ("best", "last"):
        save(run.checkpoints / f"{name}.ckpt")
    longest, hits = 0.3 if work is save_on_and_on else 1.5, []
    while len(hits) < kills or sum(hits) < kills // 4:  # so many in the midst of a save
        hits.append(kill(work, run, chance.uniform(0, longest)))
