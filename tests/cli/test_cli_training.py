"""`fit` and `test` from end to end, on small data."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from makers import zoo_folder
from typer.testing import CliRunner
from videos import moving_frames, write_video

from actionkit.cli import app
from actionkit.errors import RunError

SMALL = [
    "data.dataset.train_scenes=2",
    "data.dataset.val_scenes=1",
    "data.dataset.size=32",
    "data.train.per_sample.0.size=32",
    "data.workers=0",
    "data.batch=6",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    output = invoke("fit", "two_stream", *SMALL, "--run", folder)
    return folder, output


def test_fit_leaves_a_run_folder_that_tells_all(run):
    folder, output = run
    results = json.loads((folder / "results.json").read_text())["fit"]
    assert results["split"] == "val"
    assert results["videos"] == 9
    assert results["coverage"] == 1.0
    assert set(results["streams"]) == {"rgb", "flow"}
    assert set(results["metrics"]) == {"top1", "top5", "mean_class_accuracy"}
    assert results["checkpoint"] == "checkpoints/best.ckpt"
    assert {"actionkit", "torch", "lightning"} <= set(results["versions"])
    assert "fused" in output
    assert f"{results['metrics']['top1']:.3f}" in output
    with open(folder / "predictions-val.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert list(rows[0])[:3] == ["id", "target", "red_rise"]
    scores = np.array([[float(v) for v in list(row.values())[2:]] for row in rows])
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)  # probabilities
    hits = (scores.argmax(1) == [int(row["target"]) for row in rows]).mean()
    assert hits == pytest.approx(results["metrics"]["top1"])
    with open(folder / "metrics.csv") as file:
        columns = csv.DictReader(file).fieldnames
    assert {"train/loss", "val/top1", "val/rgb/top1", "val/loss", "step"} <= set(columns)


def test_checkpoint_is_plain_and_holds_the_recipe(run):
    folder, _ = run
    for name in ("best", "last"):
        content = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["recipe"]["recipe"]["data"]["batch"] == 6
        assert any(
            key.startswith("network.streams.rgb.backbone.0") for key in content["state_dict"]
        )


def test_test_gives_the_numbers_of_fit(run):
    folder, _ = run
    invoke("test", folder, "--split", "val")
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["metrics"] == results["fit"]["metrics"]
    assert results["test"]["streams"] == results["fit"]["streams"]
    invoke("test", folder, "--split", "train", "--checkpoint", "last")
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["videos"] == 18
    assert results["fit"]["videos"] == 9  # the other command's are kept


def test_the_resolved_recipe_repeats_the_run_bit_by_bit(run, tmp_path):
    folder, _ = run
    invoke("fit", folder / "recipe.yaml", "--run", tmp_path / "again", "data.workers=2")
    first, again = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (folder, tmp_path / "again")
    )
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_folder_that_holds_a_run_is_not_overwritten(run):
    folder, _ = run
    before = (folder / "results.json").read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        invoke("fit", "two_stream", *SMALL, "--run", folder)
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_a_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match="trainer: No supported gpu backend"):
        invoke("fit", "two_stream", *SMALL, "trainer.accelerator=gpu", "--run", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_another_seed_gives_another_network(run, tmp_path):
    folder, _ = run
    invoke("fit", "two_stream", *SMALL, "seed=1", "--run", tmp_path / "other")
    first, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (folder, tmp_path / "other")
    )
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_weights_and_freeze_take_a_stream_from_a_run(run, tmp_path):
    folder, _ = run
    prefix = "network.streams.rgb.backbone.0"
    weights = f"{folder / 'checkpoints' / 'best.ckpt'}#{prefix}"
    change = f"model.streams.rgb.backbone.weights={weights}"
    frozen = "model.streams.rgb.backbone.freeze=true"
    output = invoke("fit", "two_stream", *SMALL, change, frozen, "--run", tmp_path / "next")
    assert "tensors taken from" in output
    state = torch.load(tmp_path / "next/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    source = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    kept = [key for key in state if key.startswith(prefix)]
    assert kept
    assert all(torch.equal(state[key], source[key]) for key in kept)  # batch norm statistics too
    flow = [key for key in state if key.startswith("network.streams.flow.backbone.0")]
    assert not all(torch.equal(state[key], source[key]) for key in flow)


def small_folder(root, clips=3):
    for split, count in (("train", clips), ("val", 2)):
        for name in ("calm", "wild"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                frames = moving_frames(24, 48, 64)
                write_video(
                    root / split / name / f"{i}.mp4", frames if name == "calm" else frames[::-1]
                )


ON_FOLDER = [
    "data.dataset.use=folder",
    "data.train.per_sample.0.size=32",
    "data.batch=4",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
]


@pytest.mark.parametrize(
    ("reader", "workers"),
    [
        ("pyav", 2),
        pytest.param("pyav", 0, marks=pytest.mark.slow),
        pytest.param("decord", 2, marks=pytest.mark.slow),
    ],
)
def test_the_whole_zoo_is_named_once_survived_and_counted(tmp_path, reader, workers, capfd):
    if reader == "decord":
        pytest.importorskip("decord")
    root, folder = tmp_path / "videos", tmp_path / "run"
    kinds = zoo_folder(root)
    change = [f"data.dataset.root={root}", f"data.workers={workers}", f"data.reader={reader}"]
    more = ["data.max_bad=1", "trainer.max_epochs=3"]
    output = invoke("fit", "two_stream", *ON_FOLDER, *change, *more, "--run", folder)
    output += capfd.readouterr().out
    listed = [json.loads(line) for line in (folder / "bad_clips.jsonl").read_text().splitlines()]
    results = json.loads((folder / "results.json").read_text())["fit"]
    for split in ("train", "val"):
        named = [os.path.basename(entry["path"]) for entry in listed if entry["split"] == split]
        assert len(named) == len(set(named))
        refused = set(named) - set(kinds.bad)
        assert refused <= (set(kinds.odd) if reader == "decord" else set())
        if split == "val":  # in training, what flips bits may have been drawn where they are sound
            assert set(named) >= set(kinds.bad)
        for entry in listed:
            assert entry["reason"]
            assert output.count(f"{entry['path']} ({reader}): ") == 1
    missing = [os.path.basename(entry["path"]) for entry in results["missing"]]
    assert sorted(missing) == sorted(n for n in named)
    videos = len(kinds.good) + len(kinds.odd) + len(kinds.bad)
    assert results["videos"] == videos - len(missing)
    assert results["coverage"] == pytest.approx(1 - len(missing) / videos)
    said = f"{results['videos']} of {videos} videos ({len(missing)} unreadable, coverage "
    assert said in output
    assert said in invoke("test", folder)


@pytest.mark.parametrize("look", [True, False])
def test_too_many_bad_files_end_a_run_with_exit_code_4(tmp_path, look):
    root, folder = tmp_path / "videos", tmp_path / "run"
    small_folder(root)
    for name in ("calm", "wild"):
        (root / "train" / name / "empty.mp4").write_bytes(b"")
    change = [f"data.dataset.root={root}", "data.workers=0", "data.max_bad=0.2"]
    command = [sys.executable, "-m", "actionkit.cli", "fit", "two_stream", *ON_FOLDER, *change]
    command += ["--run", str(folder), *([] if look else ["--no-look", "trainer.max_epochs=50"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert "2 of 8 clips of 'train' cannot be read, and data.max_bad allows a share of 0.2" in (
        done.stderr
    )
    assert f"{root}/train/calm/empty.mp4 (pyav): the file is empty" in done.stderr
    assert len((folder / "bad_clips.jsonl").read_text().splitlines()) == 2
    if look:
        assert os.listdir(folder) == ["bad_clips.jsonl"]


def test_a_folder_that_cannot_be_written_is_refused_before_data_are_read(tmp_path):
    (tmp_path / "file").touch()
    empty = tmp_path / "videos"
    small_folder(empty, clips=1)
    for path in empty.rglob("*.mp4"):
        path.write_bytes(b"")  # which would be said first, if it were looked at
    with pytest.raises(RunError, match="file/run/checkpoints cannot be written"):
        invoke("fit", "two_stream", *ON_FOLDER, f"data.dataset.root={empty}",
               "--run", tmp_path / "file/run")  # fmt: skip


@pytest.mark.parametrize(("split", "sentence"), [
    ("train", "no clip of a whole batch could be read"),
    ("val", "no video of the split 'val' could be read"),
])  # fmt: skip
def test_nothing_readable_ends_with_a_sentence(tmp_path, split, sentence):
    root = tmp_path / "videos"
    small_folder(root, clips=1)
    for path in (root / split).rglob("*.mp4"):
        path.write_bytes(b"")
    change = [f"data.dataset.root={root}", "data.max_bad=1", "--run", tmp_path / "run"]
    with pytest.raises(RunError, match=f"{sentence}(.|\n)*is empty"):
        invoke("fit", "two_stream", *ON_FOLDER, *change)


@pytest.mark.slow  # test_cli_ranks.py has two processes by default
def test_two_processes_train_one_run(run, tmp_path):
    folder = tmp_path / "two"
    devices = ["trainer.devices=2", "trainer.strategy=ddp"]
    command = [sys.executable, "-m", "actionkit.cli", "fit", "two_stream", *SMALL, *devices]
    done = subprocess.run([*command, "--run", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text())["fit"]
    assert results["videos"] == 9
    assert done.stdout.count("val: 9 of 9 videos") == 1
    assert done.stdout.count("clips to train") == 1


def test_real_clips_train_and_test(real_data, tmp_path):
    root = tmp_path / "videos"
    for name in ("ucf101", "kinetics"):
        (root / name).mkdir(parents=True)
        for path in (real_data / "real_clips" / name).rglob("*.*"):
            if path.suffix in (".avi", ".mp4"):
                shutil.copy(path, root / name)
    folder = tmp_path / "run"
    change = [f"data.dataset.root={root}", "data.workers=0"]
    invoke("fit", "two_stream", *ON_FOLDER, *change, "--run", folder)
    invoke("test", folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["fit"]["coverage"] == results["test"]["coverage"] == 1.0
    assert results["test"]["videos"] >= 2


def test_secrets_of_the_environment_stay_out_of_the_run(tmp_path, monkeypatch):
    root = tmp_path / "canary-5e1f"
    small_folder(root, clips=1)
    monkeypatch.setenv("CANARY", str(root))
    folder = tmp_path / "run"
    invoke("fit", "two_stream", *ON_FOLDER, "data.dataset.root=${oc.env:CANARY}", "--run", folder)
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["data"]["dataset"]["root"] == (
        "${oc.env:CANARY}"
    )
    for path in folder.rglob("*"):
        assert not path.is_file() or b"canary-5e1f" not in path.read_bytes(), path


def test_an_evil_checkpoint_is_refused_and_not_run(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "sentinel"), "w"))

    folder, _ = run
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    result = CliRunner().invoke(
        app, ["test", str(folder), "--checkpoint", str(tmp_path / "evil.ckpt")]
    )
    assert result.exit_code != 0
    assert "weights_only" in str(result.exception)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fused_knows_all_and_each_stream_a_third(tmp_path, seed):
    invoke("fit", "two_stream", f"seed={seed}", "--run", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())["fit"]
    assert results["metrics"]["top1"] >= 0.98
    assert all(metrics["top1"] <= 0.45 for metrics in results["streams"].values())


def test_control_c_ends_the_run_and_its_workers(cache, tmp_path):
    endless = [*SMALL, "trainer.max_epochs=10000", "data.workers=2", "--run", str(tmp_path / "r")]
    process = subprocess.Popen(
        [sys.executable, "-m", "actionkit.cli", "fit", "two_stream", *endless],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    checkpoint = tmp_path / "r" / "checkpoints" / "last.ckpt"
    try:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing of it lives
            os.killpg(process.pid, signal.SIGKILL)
