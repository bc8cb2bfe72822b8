"""A W&B run that can neither end the training it tells of, nor hold it up."""

from __future__ import annotations

import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import wandb

Mode = Literal["online", "offline", "disabled"]
INIT, FINISH = 15.0, 12.0  # seconds W&B may take to start, and to end
FLUSH = 5.0  # seconds between two writings of what is logged to the disk
UPLOAD = 600.0  # seconds a model may take
ARRIVED, ANSWER = 2, 3.0  # seconds between two looks at an upload, and for a sign of life


class Session:
    """A run of W&B's client, guarded.

    Without a key, or with a server that refuses or is not reached, the run is recorded on the disk
    and can be uploaded later. Whatever fails afterwards is told once; of what is logged while a
    server is away the artifacts, so clips and models, are not uploaded later. Nothing is sent that
    the caller has not given: no command line, code, packages, host paths or console output.
    """

    def __init__(self, folder: Path, mode: Mode | None, init: Mapping[str, Any]) -> None:
        self.folder, self.init, self.complete = folder, dict(init), True
        wanted = mode or os.environ.get("WANDB_MODE") or "online"
        # its telemetry holds up the end of the process by 20 s when a server hangs (measured)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.run: Any = None
        if wanted != "disabled":
            self.run = (self._online() if wanted == "online" else None) or self._offline()

    @property
    def offline(self) -> bool:
        """Whether everything stays on the disk."""
        return self.run is None or bool(self.run.offline)

    def _online(self) -> Any:
        try:
            wandb.setup(settings=wandb.Settings(silent=True))
            # a question would wait for ever; with a run of the caller's, the key has been found
            if wandb.run is not None or wandb.login(prompt=False, verify=False):
                run = self._start("online", resume="allow")
                # For each artifact it would sign in, unless that was done before, and ask for the
                # type, which with us never changes: 19 s each where the server has died.
                run._public_api()
                run._assert_can_log_artifact = lambda artifact: None
                print(f"W&B: {run.url}", flush=True)
                return run
            reason = "there is no API key; `wandb login` keeps one"
        except Exception as error:
            reason = first_line(error)
        print(f"W&B cannot be used online: {reason}. This run is recorded offline", flush=True)
        with suppress(Exception):
            wandb.teardown(exit_code=1)  # else the id counts as in use
        return None

    def _offline(self) -> Any:
        try:
            return self._start("offline")
        except Exception as error:
            print(f"W&B cannot be used at all: {first_line(error)}", flush=True)
            return None

    def _start(self, mode: Mode, **more: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            reinit="create_new",  # beside a run that the caller may have
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,  # the command line, which may hold secrets
            x_save_requirements=False,  # may name private package servers
            init_timeout=INIT,
            finish_timeout=FINISH,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH,
        )
        return wandb.init(dir=str(self.folder), mode=mode, settings=settings, **self.init, **more)

    def safely(self, what: str, call: Callable[..., object], *given: Any) -> None:
        """Calls with the run and what is given; an error is told, once, and goes no further."""
        if self.run is None:
            return
        try:
            call(self.run, *given)
        except Exception as error:
            if self.complete:
                print(f"W&B: {what} cannot be logged: {first_line(error)}", flush=True)
            self.complete = False

    def upload(self, artifact: Any, aliases: Sequence[str]) -> None:
        """Logs an artifact; waits up to UPLOAD seconds for it, as long as the server is alive.

        The limit on the end of a run would cut a large one off.
        """
        logged = self.run.log_artifact(artifact, aliases=list(aliases))
        end = time.monotonic() + (0 if self.offline else UPLOAD)
        while time.monotonic() < end and answers(self.run.settings.base_url):
            if _arrived(logged):
                return

    def close(self, code: int) -> None:
        """Ends the run in limited time; says how to upload what is on the disk only."""
        run, offline = self.run, self.offline
        if run is None:
            return
        self.run = None
        if error := _finish(run, code):
            print(f"W&B: the upload is not complete: {first_line(error)}", flush=True)
            self.complete = False
        if offline or not self.complete:
            print(f"W&B: to upload this run: wandb sync {run.settings.sync_dir}", flush=True)


def _finish(run: Any, code: int) -> BaseException | None:
    """Ends a run, and says what went wrong.

    W&B's own limit counts from when its service comes to the end of the run; where that is stuck
    in an upload to a dead server, it never does (measured). Then the service is killed: what it
    has written stays, and it writes every FLUSH seconds.
    """
    errors: list[BaseException] = []

    def limited(call: Callable[[], object], seconds: float) -> bool:
        def guarded() -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        thread.join(seconds)
        return not thread.is_alive()

    if not limited(lambda: run.finish(exit_code=code), FINISH + FLUSH):
        errors.insert(0, TimeoutError("W&B's service does not answer"))
        limited(_kill, FLUSH)
    return errors[0] if errors else None


def _kill() -> None:
    """Ends W&B's service, so that the end of the process does not wait for it."""
    service: Any = wandb.setup()
    service._connection._proc._process.kill()
    with suppress(Exception, SystemExit):  # it misses its service
        wandb.teardown()


def answers(url: str) -> bool:
    """Whether a server says anything at all."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/healthz", timeout=ANSWER).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except OSError as error:
        return isinstance(getattr(error, "reason", error), ssl.SSLError)  # W&B may know it better
    return True


def _arrived(artifact: Any) -> bool:
    """Whether an artifact is uploaded; raises RuntimeError where the server refused it."""
    try:  # artifact.wait() would go on to ask for all that the server knows of it
        done = artifact._save_handle.wait_or(timeout=ARRIVED).response.log_artifact_response
    except TimeoutError:
        return False
    if done.error_message:
        raise RuntimeError(done.error_message)
    return True


def first_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
