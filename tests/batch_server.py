"""A server on loopback with OpenAI's files and batches, that misbehaves on demand and counts what it was asked."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fake_server import MODEL, FakeServer, echo
from tests.loopback import LoopbackHandler

Reply = tuple[int, Any, dict[str, str]] | str | None
_FINAL = ("completed", "failed", "expired", "cancelled")


class BatchServer(FakeServer):
    """Answers batches after `n_polls` looks at their state, by `line`, which is a function of the body alone.

    `before(n, method, path)` is called with the number of the request (from 1), and may return a status with its body
    and headers in place of the usual reply, or "reset" to drop the connection; `after` the same, when the request was
    carried out. `line(n, custom_id, body)` gives the status and body of a request in a batch; None leaves it out. `end`
    gives the status that the n-th batch ends with, and how many of its requests are answered. `output` changes the text
    of an output file.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str] = echo, n_polls: int = 1, **settings: Any) -> None:
        super().__init__(answer=answer, **settings)
        self._http.RequestHandlerClass = type("Handler", (_BatchHandler,), {"fake": self})
        self.n_polls = n_polls
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.uploads: list[str] = []
        self.requests: list[str] = []
        self.before: Callable[[int, str, str], Reply] = lambda n, method, path: None
        self.after: Callable[[int, str, str], Reply] = lambda n, method, path: None
        self.line: Callable[[int, str, dict[str, Any]], tuple[int, Any] | None] = self.usual
        self.end: Callable[[int], tuple[str, int | None]] = lambda n: ("completed", None)
        self.errors: Callable[[int], dict[str, Any] | None] = lambda n: None
        self.output: Callable[[str, bytes], bytes] = lambda name, content: content
        self.page = 100

    def usual(self, n: int, custom_id: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The reply that a call gets."""
        assert "stream" not in body and body["model"] == MODEL
        n_chars = sum(len(str(message["content"])) for message in body["messages"])
        return 200, self.completion(self.answer(body), prompt_tokens=max(100, n_chars // 2))

    @property
    def asked(self) -> Counter[str]:
        """How often each body was in a batch that was created and not refused."""
        bodies: Counter[str] = Counter()
        for batch in self.batches.values():
            if batch["status"] != "failed":
                bodies.update(json.dumps(each["body"], sort_keys=True) for each in self.lines_of(batch))
        return bodies

    def lines_of(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def progress(self, batch: dict[str, Any]) -> None:
        """One look at a batch brings it nearer to its end."""
        if batch["status"] in _FINAL:
            return
        batch["looks"] += 1
        total = len(self.lines_of(batch))
        if batch["status"] == "cancelling" or batch["looks"] > self.n_polls:
            number = list(self.batches).index(batch["id"]) + 1
            status, n_answered = self.end(number)
            if batch["status"] == "cancelling":
                status, n_answered = "cancelled", n_answered or 0
            self._finish(batch, status, n_answered)
        else:
            batch["status"] = "validating" if batch["looks"] == 0 else "in_progress"
            batch["request_counts"] = {"total": total, "completed": 0, "failed": 0}

    def _finish(self, batch: dict[str, Any], status: str, n_answered: int | None) -> None:
        number = list(self.batches).index(batch["id"]) + 1
        batch["status"] = status
        if status == "failed":
            batch["errors"] = self.errors(number) or {"data": [{"code": "invalid", "message": "a line is invalid"}]}
            return
        lines = self.lines_of(batch)
        order = list(range(len(lines)))
        random.Random(number).shuffle(order)  # no service keeps the order
        output: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for place, at in enumerate(order):
            line = lines[at]
            if n_answered is not None and place >= n_answered:
                if status == "expired":
                    error = {"code": "batch_expired", "message": "This request could not be executed before the end."}
                    errors.append({"custom_id": line["custom_id"], "response": None, "error": error})
                continue
            replied = self.line(number, line["custom_id"], line["body"])
            if replied is None:
                continue
            response = {"status_code": replied[0], "request_id": f"r{at}", "body": replied[1]}
            said = {"id": f"batch_req_{at}", "custom_id": line["custom_id"], "response": response, "error": None}
            (output if replied[0] == 200 else errors).append(said)
        batch["request_counts"] = {"total": len(lines), "completed": len(output), "failed": len(errors)}
        for name, rows in (("output", output), ("error", errors)):
            if rows:
                file_id = f"file-{name}-{number}"
                content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
                self.files[file_id] = self.output(name, content)
                batch[f"{name}_file_id"] = file_id


class _BatchHandler(LoopbackHandler):
    def do_GET(self) -> None:
        self._handle("GET", b"")

    def do_POST(self) -> None:
        self._handle(
            "POST", self.rfile.read(int(self.headers["Content-Length"] or 0)) if self._has_length else self._all()
        )

    @property
    def _has_length(self) -> bool:
        return self.headers["Content-Length"] is not None

    def _all(self) -> bytes:
        """Read a body in chunks."""
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _handle(self, method: str, content: bytes) -> None:
        fake, path = self.fake, urlsplit(self.path)
        with fake.lock:
            fake.requests.append(f"{method} {path.path}")
            fake.authorizations.append(self.headers["Authorization"])
            n = len(fake.requests)
        if self._told(fake.before(n, method, path.path)):
            return
        with fake.lock:
            status, value = self._reply(method, path.path, parse_qs(path.query), content)
        if not self._told(fake.after(n, method, path.path)):
            self.send(status, value)

    def _told(self, reply: Reply) -> bool:
        if reply is None:
            return False
        if isinstance(reply, str):
            self.close_connection = True
            self.connection.close()
        else:
            self.send(*reply)
        return True

    def _reply(self, method: str, path: str, query: dict[str, list[str]], content: bytes) -> tuple[int, Any]:
        fake = self.fake
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in fake.models]}
        if path == "/v1/chat/completions":
            body = json.loads(content)
            fake.calls.append(body)
            body.pop("stream", None)
            return fake.line(0, "", body) or (500, {})
        if (method, path) == ("POST", "/v1/files"):
            name, lines = self._form(content)
            file_id = f"file-{len(fake.files) + 1}"
            fake.files[file_id] = lines
            fake.uploads.append(name)
            return 200, {"id": file_id, "object": "file", "purpose": "batch", "filename": name}
        if (method, path) == ("POST", "/v1/batches"):
            body = json.loads(content)
            assert body["endpoint"] == "/v1/chat/completions" and body["completion_window"] == "24h"
            batch = {**body, "id": f"batch_{len(fake.batches) + 1}", "status": "validating", "looks": 0, "errors": None}
            fake.batches[batch["id"]] = batch
            return 200, self._shown(batch)
        if path == "/v1/batches":
            return 200, self._page(query)
        if found := re.fullmatch(r"/v1/batches/([^/]+)(/cancel)?", path):
            if (batch := fake.batches.get(found[1])) is None:
                return 404, {"error": {"message": f"No such batch: {found[1]}"}}
            if found[2]:
                batch["status"] = "cancelling" if batch["status"] not in _FINAL else batch["status"]
            else:
                fake.progress(batch)
            return 200, self._shown(batch)
        if found := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            return (200, fake.files[found[1]]) if found[1] in fake.files else (404, {"error": {"message": "no file"}})
        return 404, {"error": {"message": f"no path {path}"}}

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name != "looks"}

    def _page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        newest = list(self.fake.batches.values())[::-1]
        ids = [batch["id"] for batch in newest]
        start = ids.index(query["after"][0]) + 1 if "after" in query else 0
        end = start + min(self.fake.page, int(query["limit"][0]))
        shown = [self._shown(batch) for batch in newest[start:end]]
        return {"object": "list", "data": shown, "has_more": end < len(newest)}

    def _form(self, content: bytes) -> tuple[str, bytes]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {str(part.get_param("name", header="content-disposition")): part for part in _parts(head + content)}
        assert parts["purpose"].get_payload(decode=True) == b"batch"
        return str(parts["file"].get_filename()), parts["file"].get_payload(decode=True)


def _parts(message: bytes) -> Iterator[Any]:
    yield from BytesParser(policy=HTTP).parsebytes(message).iter_parts()


def wait_for_batch(server: BatchServer, timeout_s: float = 60) -> None:
    """Wait until a batch was created."""
    deadline = time.monotonic() + timeout_s
    while not server.batches:
        assert time.monotonic() < deadline
        time.sleep(0.01)
