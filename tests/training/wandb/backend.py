"""A W&B server on the loopback: just enough for the real client to finish online runs.

`python backend.py` serves in a process of its own, prints its address, and may be killed.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = dict[str, Any]
Fail = Callable[[str], "tuple[int, str] | None"]  # operation -> HTTP status and message
ME = {
    **dict.fromkeys(("entity", "username", "name"), "me"),
    "id": "1",
    "email": "me@x",
    "flags": "{}",
    "admin": False,
    "teams": {"edges": []},
    "apiKeys": {"edges": []},
}


class Backend(ThreadingHTTPServer):
    """What it was told is in its attributes; `unknown` holds requests it has no answer for."""

    daemon_threads, block_on_close = True, False

    def __init__(self, fail: Fail = lambda operation: None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fail = fail
        self.operations: list[tuple[str, Answer]] = []
        self.runs: dict[str, Answer] = {}
        self.stream: defaultdict[str, list[Answer]] = defaultdict(list)
        self.files: dict[str, bytes] = {}
        self.artifacts: dict[str, Answer] = {}
        self.unknown: list[Any] = []
        self.received: list[bytes] = []  # all but the header that the client signs in with
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def history(self, run: str) -> list[Answer]:
        """Every row of a run, in the order of arrival."""
        chunks = (chunk.get("files") or {} for chunk in self.stream[run])
        lines = (c.get("wandb-history.jsonl", {}).get("content", []) for c in chunks)
        return [json.loads(line) for content in lines for line in content]

    # ------------------------------------------------------------------------- operations

    def answer(self, operation: str, variables: Answer) -> Answer | None:
        method = getattr(self, f"on_{operation}", None)
        return method(variables, variables.get("input") or variables) if method else None

    def on_Viewer(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"viewer": ME}

    def on_ServerFeaturesQuery(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def on_ServerInfo(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"viewer": ME, "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"},
                                             "latestLocalVersionInfo": None}}  # fmt: skip

    def on_OrganizationCoreWeaveOrganizationID(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"entity": {"organization": {"coreWeaveOrganizationId": ""}}}

    def on_RunResumeStatus(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        run = self.runs.get(v["name"])
        rows = self.history(v["name"])
        bucket = run and {
            **run,
            "historyLineCount": len(rows),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": run.get("summaryMetrics") or "{}",
            "wandbConfig": '{"t":1}',
            "tags": [],
        }
        return {"model": {"id": "p", "name": v["project"], "bucket": bucket,
                          "entity": {"id": "e", "name": "me"}}}  # fmt: skip

    def on_UpsertBucket(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        name = v.get("name") or v["id"]
        new = name not in self.runs
        identity = base64.b64encode(name.encode()).decode()
        run = self.runs.setdefault(name, {"id": identity, "name": name})
        run.update({k: x for k, x in v.items() if x is not None and k not in ("id", "name")})
        project = {"id": "p", "name": v.get("project") or "p"}
        bucket = {"id": identity, "name": name, "displayName": v.get("displayName") or name,
                  "description": "", "config": run.get("config") or "{}", "sweepName": None,
                  "historyLineCount": len(self.history(name)),
                  "project": {**project, "entity": {"id": "e", "name": "me"}}}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_RunStoppedStatus(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def on_CreateRunFiles(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        names = v.get("files", [])
        files = [{"name": n, "uploadUrl": f"{self.url}/storage/{v['run']}/{n}"} for n in names]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def on_ArtifactType(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"project": {"artifact": None}}

    def on_CreateArtifact(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        kind = i["artifactTypeName"]
        name = i.get("artifactCollectionName") or i.get("sequenceName") or "?"
        identity = base64.b64encode(f"{kind}:{name}:{i['digest']}".encode()).decode()
        known = self.artifacts.setdefault(
            identity, {"type": kind, "name": name, "aliases": [], "state": "PENDING",
                       "metadata": i.get("metadata")})  # fmt: skip
        known["aliases"] += [a["alias"] for a in i.get("aliases") or []]
        sequence = {"id": "s", "latestArtifact": None}
        found = {"id": identity, "state": known["state"], "artifactSequence": sequence}
        return {"createArtifact": {"artifact": found}}

    def on_CreateArtifactManifest(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"createArtifactManifest": {"artifactManifest": self._manifest(i)}}

    def on_UpdateArtifactManifest(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(i)}}

    def _manifest(self, i: Answer) -> Answer:
        name, url = "wandb_manifest.json", f"{self.url}/storage/manifest/{i.get('artifactID')}"
        file = {"id": "f", "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}
        return {"id": "m", "file": file}

    def on_CreateArtifactFiles(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        nodes = []
        for number, file in enumerate(i["artifactFiles"]):
            name, owner = file["name"], file["artifactID"]
            url = f"{self.url}/storage/artifact/{owner}/{name}"
            nodes.append({"id": f"f{number}", "name": name, "displayName": name, "uploadUrl": url,
                          "storagePath": f"x/{name}", "uploadHeaders": [],
                          "uploadMultipartUrls": None, "artifact": {"id": owner}})  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_CommitArtifact(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        self.artifacts[i["artifactID"]]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": i["artifactID"], "digest": "d"}}}

    def on_UseArtifact(self, v: Answer, i: Answer) -> Answer:  # noqa: N802
        self.artifacts[i["artifactID"]]["used"] = True
        return {"useArtifact": {"artifact": {
            "id": i["artifactID"], "digest": "d", "description": "", "state": "COMMITTED",
            "createdAt": "2026-01-01T00:00:00", "labels": [], "metadata": "{}"}}}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """GraphQL, the stream of rows, and storage of files."""

    protocol_version = "HTTP/1.1"
    server: Backend

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._body()
        if self.path in ("/healthz", "/ready"):
            return self._send({"ok": True})
        self.server.unknown.append(f"GET {self.path}")
        return self._send({}, 404)

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/storage/")] = self._body()
        self._send({})

    def do_POST(self) -> None:
        body, backend = self._body(), self.server
        if found := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            with backend.lock:
                backend.stream[found[1]].append(json.loads(body))
            return self._send({"limits": {}})
        if not self.path.startswith("/graphql"):
            backend.unknown.append(f"POST {self.path}")
            return self._send({}, 404)
        return self._graphql(json.loads(body))

    def _graphql(self, asked: Answer) -> None:
        backend, variables = self.server, asked.get("variables") or {}
        named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        operation = asked.get("operationName") or (named[1] if named else "?")
        with backend.lock:
            backend.operations.append((operation, variables))
            if refused := backend.fail(operation):
                return self._send({"errors": [{"message": refused[1]}]}, refused[0])
            data = backend.answer(operation, variables)
            if data is None:
                backend.unknown.append((operation, asked["query"][:1500], variables))
        return self._send({"data": data or {}})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = [f"{k}: {v}" for k, v in self.headers.items() if k.lower() != "authorization"]
        self.server.received.append("\n".join([self.requestline, *headers]).encode() + body)
        return body

    def _send(self, answer: Answer, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(fail: Fail = lambda operation: None) -> Iterator[Backend]:
    """A backend in a thread of this process."""
    backend = Backend(fail)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    try:
        yield backend
    finally:
        backend.shutdown()
        backend.server_close()


if __name__ == "__main__":
    alone = Backend()
    print(alone.url, flush=True)
    alone.serve_forever()
