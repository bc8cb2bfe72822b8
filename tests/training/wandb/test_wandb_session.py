"""What may fail, and what is then said."""

import http.server
import socket
import threading
from types import SimpleNamespace

import pytest
import wandb
from client import client

from actionkit.training.wandb import session
from actionkit.training.wandb.logger import WandB


class FakeRun:
    """A run whose calls go as told."""

    def __init__(self, finish=lambda exit_code: None, url="http://nowhere", offline=False):
        self.finish, self.offline = finish, offline
        self.settings = SimpleNamespace(sync_dir="the/folder", base_url=url)
        self.handle = None

    def log_artifact(self, artifact, aliases):
        self.logged = artifact, aliases
        return SimpleNamespace(_save_handle=self.handle)


def guarded(run, tmp_path):
    made = session.Session(tmp_path, "disabled", {})
    made.run = run
    return made


def test_disabled_writes_nothing_and_asks_nobody(tmp_path):
    logger = WandB(tmp_path, mode="disabled")
    logger.begin({})
    logger.log_metrics({"a": 1.0}, step=0)
    logger.close()
    assert [p.name for p in (tmp_path / "wandb").iterdir()] == ["run_id.txt"]


def test_the_first_failure_is_told_and_none_goes_further(tmp_path, capsys):
    def fail(run, text):
        raise OSError(f"{text}\nsecond line")

    made = guarded(FakeRun(), tmp_path)
    made.safely("numbers", fail, "no room")
    made.safely("charts", fail, "still none")
    assert capsys.readouterr().out == "W&B: numbers cannot be logged: OSError: no room\n"
    made.close(0)
    assert capsys.readouterr().out == "W&B: to upload this run: wandb sync the/folder\n"


def test_a_complete_upload_says_nothing(tmp_path, capsys):
    codes = []
    made = guarded(FakeRun(lambda exit_code: codes.append(exit_code)), tmp_path)
    made.close(3)
    made.close(4)
    assert codes == [3]
    assert capsys.readouterr().out == ""


def test_an_end_that_fails_is_a_sentence(tmp_path, capsys):
    def finish(exit_code):
        raise TimeoutError("Timed out finishing run.")

    guarded(FakeRun(finish), tmp_path).close(0)
    said = "W&B: the upload is not complete: TimeoutError: Timed out finishing run.\n"
    assert capsys.readouterr().out.startswith(f"{said}W&B: to upload this run: wandb sync")


def test_a_service_that_is_stuck_is_ended(tmp_path, capsys, monkeypatch):
    stuck, killed = threading.Event(), []
    monkeypatch.setattr(session, "FINISH", 0.1)
    monkeypatch.setattr(session, "FLUSH", 0.1)
    monkeypatch.setattr(session, "_kill", lambda: killed.append(True))
    guarded(FakeRun(lambda exit_code: stuck.wait(60)), tmp_path).close(0)
    stuck.set()
    assert killed == [True]
    said = "W&B: the upload is not complete: TimeoutError: W&B's service does not answer\n"
    assert capsys.readouterr().out.startswith(said)


def test_a_killed_service_leaves_the_client_usable(tmp_path):
    for number in range(2):
        with client(tmp_path):
            logger = WandB(tmp_path / str(number), mode="offline")
            logger.log_metrics({"a": 1.0}, step=number)
            session._kill()
        assert len(list(tmp_path.glob(f"{number}/wandb/offline-run-*"))) == 1


@pytest.mark.parametrize("status", [200, 404, 500])
def test_any_answer_is_a_sign_of_life(status):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert session.answers(f"http://127.0.0.1:{server.server_port}/")


def test_refusal_and_silence_are_none(monkeypatch):
    monkeypatch.setattr(session, "ANSWER", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert not session.answers(url)  # bound, not listening
        silent.listen()
        assert not session.answers(url)


@pytest.mark.parametrize(("alive", "looks"), [(True, 3), (False, 0)])
def test_an_upload_is_waited_for_as_long_as_the_server_lives(tmp_path, monkeypatch, alive, looks):
    waits = []

    def wait_or(timeout):
        waits.append(timeout)
        if len(waits) < 3:
            raise TimeoutError
        done = SimpleNamespace(error_message="")
        return SimpleNamespace(response=SimpleNamespace(log_artifact_response=done))

    monkeypatch.setattr(session, "answers", lambda url: alive)
    run = FakeRun()
    run.handle = SimpleNamespace(wait_or=wait_or)
    guarded(run, tmp_path).upload("model", ["best"])
    assert run.logged == ("model", ["best"])
    assert len(waits) == looks


@pytest.mark.parametrize("option", ["clips", "watch"])
def test_numbers_below_zero_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"takes {option} of 0 or more, but gets -1; 0 means none"):
        WandB(tmp_path, **{option: -1})


def test_a_sweep_s_run_id_is_taken_and_a_folder_s_own_wins(tmp_path, monkeypatch):
    with client(tmp_path / "home"):
        monkeypatch.setenv("WANDB_RUN_ID", "swept")
        first = WandB(tmp_path / "run", mode="disabled")
        assert first.version == ""
        first.begin({})
        assert first.version == "swept"
        monkeypatch.setenv("WANDB_RUN_ID", "other")
        again = WandB(tmp_path / "run", mode="disabled")
        again.begin({})
        assert again.version == "swept"


def test_nothing_is_made_before_the_run_begins(tmp_path):
    WandB(tmp_path / "run", mode="offline").experiment.log({"a": 1})  # a dummy takes all
    assert not (tmp_path / "run").exists()


def test_a_run_of_the_caller_s_is_left_alone(tmp_path):
    with client(tmp_path / "home"):
        own = wandb.init(mode="offline", dir=tmp_path)
        logger = WandB(tmp_path / "run")
        logger.log_metrics({"a": 1.0}, step=0)
        assert logger.experiment.id == logger.version != own.id
        logger.close()
        assert wandb.run is own
        own.finish()
