"""The real client against a server on the loopback: runs, resumed runs, and a server that fails."""

import subprocess
import sys
import time
from pathlib import Path

import offline
import pytest
from backend import serving
from client import KEY, client, small_fit
from small_fit import CLIPS, fit

from actionkit.training.wandb import session


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def server():
    """A server in a process of its own: its address, and the process."""
    script = Path(__file__).with_name("backend.py")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip(), process
    process.kill()
    process.wait()


def steps(rows):
    return [row["trainer/global_step"] for row in rows if "train/loss" in row]


def test_a_run_is_uploaded_whole_and_resumed_without_gaps(videos, tmp_path, capsys):
    folder = tmp_path / "run"
    with serving() as backend:
        with client(tmp_path, backend.url):
            identity = fit(folder, videos).version
        assert steps(backend.history(identity)) == list(range(6))
        with client(tmp_path, backend.url):
            fit(folder, videos, epochs=3, resume=True)
        assert backend.unknown == []
        rows = backend.history(identity)
        assert steps(rows) == list(range(9))
        assert [row["_step"] for row in rows] == list(range(len(rows)))
        assert list(backend.runs) == [identity]
        assert {a["state"] for a in backend.artifacts.values()} == {"COMMITTED"}
        aliases = {x for a in backend.artifacts.values() for x in a["aliases"]}
        assert {"best", "last"} <= aliases
        used = [a for a in backend.artifacts.values() if a.get("used")]
        assert [a["type"] for a in used] == ["dataset"]
        stored = [name for name in backend.files if name.startswith("artifact/")]
        assert sum(name.endswith("model.ckpt") for name in stored) >= 2
        assert sum(name.endswith(".mp4") for name in stored) >= 2
    output = capsys.readouterr().out
    assert f"{backend.url}/me/actionkit/runs/{identity}" in output
    assert "wandb sync" not in output


def test_a_server_that_refuses_leaves_the_run_on_the_disk(videos, tmp_path, capsys):
    def refuse(operation):
        return (403, "permission denied") if operation == "UpsertBucket" else None

    with serving(refuse) as backend, client(tmp_path, backend.url):
        identity = fit(tmp_path / "run", videos).version
    output = capsys.readouterr().out
    assert "W&B cannot be used online: CommError: " in output
    assert "permission denied" in output
    assert "recorded offline" in output
    folder = offline.folders(tmp_path / "run")[-1]
    assert f"wandb sync {folder}" in output
    recorded = offline.read(folder)
    assert recorded.run.run_id == identity
    assert steps(recorded.history) == list(range(6))


def test_without_a_key_nobody_is_asked_for_one(videos, tmp_path, capsys, monkeypatch):
    with serving() as backend, client(tmp_path, backend.url):
        monkeypatch.delenv("WANDB_API_KEY")
        fit(tmp_path / "run", videos, epochs=1)
        assert backend.runs == {}
    output = capsys.readouterr().out
    assert "there is no API key; `wandb login` keeps one. This run is recorded offline" in output
    assert "wandb sync" in output


def test_a_server_that_dies_meanwhile_costs_nothing_but_the_upload(
    videos, tmp_path, capsys, monkeypatch, server
):
    monkeypatch.setattr(session, "FINISH", 2.0)
    url, process = server
    with client(tmp_path, url):
        fit(tmp_path / "run", videos, kill=process.pid)
    output = capsys.readouterr().out
    (folder,) = offline.folders(tmp_path / "run")
    assert "W&B: the upload is not complete: TimeoutError" in output
    assert f"wandb sync {folder}" in output
    assert steps(offline.read(folder).history) == list(range(6))
    assert len(list(folder.glob("files/media/table/val/*.json"))) == 3 * 3 + 1  # all charts


@pytest.mark.slow
@pytest.mark.parametrize("start", [True, False])
def test_a_dead_server_holds_no_process_up(videos, tmp_path, server, start):
    url, process = server
    if not start:
        process.kill()
        process.wait()
    options = {"kill": process.pid} if start else {}
    done = small_fit(tmp_path, url, folder=tmp_path / "run", videos=videos, **options)
    ended = time.time()
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("trained at ")]
    assert ended - float(line.split()[-1]) < 30
    assert f"wandb sync {offline.folders(tmp_path / 'run')[-1]}" in done.stdout


def test_what_is_uploaded_later_is_the_same(videos, tmp_path):
    with client(tmp_path):
        identity = fit(tmp_path / "run", videos, epochs=1).version
    (folder,) = offline.folders(tmp_path / "run")
    mine = offline.read(folder).history
    with serving() as backend, client(tmp_path, backend.url):
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        theirs = backend.history(identity)
    kept = [{k: v for k, v in row.items() if k.startswith("train/")} for row in theirs]
    assert steps(mine) == [0, 1, 2]
    assert kept == [{k: v for k, v in row.items() if k.startswith("train/")} for row in mine]
    assert sum(a["type"] == "dataset" for a in backend.artifacts.values()) == 1


def test_secrets_reach_neither_disk_nor_screen_nor_server(videos, tmp_path, monkeypatch):
    canary = "canary-5e1f"
    monkeypatch.setenv("CANARY", canary)
    folder = tmp_path / "run"
    with serving() as backend:
        told = {"folder": folder, "videos": videos}
        done = small_fit(tmp_path / "home", backend.url, f"--token={canary}", **told)
        assert done.returncode == 0, done.stderr
        assert steps(backend.history(next(iter(backend.runs)))) == list(range(6))
        sent = backend.received
    kept = {p: p.read_bytes() for d in (folder, tmp_path / "home") for p in d.rglob("*")
            if p.is_file()}  # fmt: skip
    assert any(path.suffix == ".wandb" for path in kept)
    shown = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    requests = {f"request {number}": body for number, body in enumerate(sent)}
    assert len(requests) > CLIPS
    for place, content in {**kept, **shown, **requests}.items():
        assert canary.encode() not in content, place
        assert KEY.encode() not in content, place
