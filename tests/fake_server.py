"""An OpenAI-compatible server on loopback that misbehaves on demand."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from tests.loopback import LoopbackHandler, LoopbackServer

Fault = str | None
MODEL = "fake-model"


def echo(body: dict[str, Any]) -> str:
    """The default answer: a function of the last message alone."""
    return f"关于“{body['messages'][-1]['content'][-40:]}”的回答"


class FakeServer(LoopbackServer):
    """`fault(n, body)` says what goes wrong with the n-th chat call (from 1), None for nothing.

    Faults: an HTTP status such as "500", "429 2" (with Retry-After: 2), "reset", "hang", "broken json", "not json",
    "empty choices", "null content", "reasoning FIELD", "ended REASON", "length", "filtered", "filtered 400",
    "overflow", "trickle" (a byte now and then), "no model" (404), "no model 400", "other model NAME" (answers),
    "no usage", "usage N" (prompt tokens counted). `reply` gives a whole answer of 200 in place of the usual one,
    `refuse` a status with its body (text as it is, anything else as JSON) and headers.
    """

    def __init__(
        self,
        latency_s: float = 0.0,
        fault: Callable[[int, dict[str, Any]], Fault] = lambda n, body: None,
        answer: Callable[[dict[str, Any]], str] = echo,
    ) -> None:
        super().__init__(_Handler)
        self.latency_s, self.fault, self.answer = latency_s, fault, answer
        self.reply: Callable[[int, dict[str, Any]], dict[str, Any] | None] = lambda n, body: None
        self.refuse: Callable[[int, dict[str, Any]], tuple[int, Any, dict[str, str]] | None] = lambda n, body: None
        self.calls: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.models = [MODEL]
        self.details: dict[str, Any] = {}  # of each of them
        self.models_status, self.models_words = 200, "no"
        self.n_at_once = self.most_at_once = 0
        self.url = f"{self.root}/v1"

    def completion(self, text: str | None, finish_reason: str = "stop", prompt_tokens: int = 100) -> dict[str, Any]:
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [
                {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": 10,
                "total_tokens": prompt_tokens + 10,
            },
        }


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.fake.models_status != 200:
            self._send(
                self.fake.models_status,
                {"error": {"message": f"{self.fake.models_words}: {self.headers['Authorization']}"}},
            )
        elif self.path == "/v1/models":
            data = [{"id": name, "object": "model", **self.fake.details} for name in self.fake.models]
            self._send(200, {"object": "list", "data": data})
        else:
            self._send(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        body, fake = self.read_json(), self.fake
        with fake.lock:
            fake.calls.append(body)
            fake.authorizations.append(self.headers["Authorization"])
            n = len(fake.calls)
            fake.n_at_once += 1
            fake.most_at_once = max(fake.most_at_once, fake.n_at_once)
        try:
            time.sleep(fake.latency_s)
            if (refusal := fake.refuse(n, body)) is not None:
                self._refuse(*refusal)
            elif (reply := fake.reply(n, body)) is not None:
                self._send(200, reply)
            else:
                self._answer(fake.fault(n, body), body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with fake.lock:
                fake.n_at_once -= 1

    def _answer(self, fault: Fault, body: dict[str, Any]) -> None:
        n_chars = sum(len(message["content"]) for message in body["messages"])
        good = self.fake.completion(self.fake.answer(body), prompt_tokens=max(100, n_chars // 2))
        match fault.split() if fault else []:
            case []:
                self._send(200, good)
            case ["reset"]:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            case ["hang"]:
                self.fake.stopping.wait(30)
                self.close_connection = True
            case ["cut"]:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "5000")
                self.end_headers()
                self.wfile.write(b'{"choices": [{"mess')
                self.close_connection = True
            case ["trickle"]:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "5000")
                self.end_headers()
                while not self.fake.stopping.wait(0.02):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                self.close_connection = True
            case ["no", "model", *status]:
                error = {"message": f"The model {body['model']} does not exist", "code": "model_not_found"}
                self._send(int(status[0]) if status else 404, {"error": error})
            case ["other", "model", name]:
                self._send(200, good | {"model": name})
            case ["no", "usage"]:
                self._send(200, good | {"usage": None})
            case ["usage", n]:
                self._send(200, self.fake.completion("答", prompt_tokens=int(n)))
            case ["goodbye"]:
                self._send(200, good)
                self.close_connection = True
            case ["broken", "json"]:
                self._send_raw(200, b'{"choices": [{"mess', "application/json")
            case ["not", "json"]:
                self._send_raw(200, b"<html>hello</html>", "text/html")
            case ["empty", "choices"]:
                self._send(200, good | {"choices": []})
            case ["null", "content"]:
                self._send(200, self.fake.completion(None))
            case ["reasoning", field]:
                good["choices"][0]["message"][field] = "想一想"
                self._send(200, good)
            case ["length"]:
                self._send(200, self.fake.completion("只写到一", "length"))
            case ["filtered"]:
                self._send(200, self.fake.completion(None, "content_filter"))
            case ["filtered", "400"]:
                self._send(400, {"error": {"message": "the prompt was refused", "code": "content_filter"}})
            case ["overflow"]:
                error = {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}
                self._send(400, {"error": error})
            case ["ended", reason]:
                self._send(200, self.fake.completion("答", reason))
            case [status, *wait]:
                headers = {"Retry-After": wait[0]} if wait else {}
                key = str(self.headers["Authorization"]).removeprefix("Bearer ")
                self._send(int(status), {"error": {"message": f"status {status} for key {key}"}}, headers)

    def _refuse(self, status: int, body: Any, headers: dict[str, str]) -> None:
        is_page = isinstance(body, str) and body.startswith("<")
        kind = "text/html" if is_page else "text/plain" if isinstance(body, str) else "application/json"
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        self._send_raw(status, text.encode(), kind, headers)

    def _send(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send_raw(status, json.dumps(value, ensure_ascii=False).encode(), "application/json", headers)

    def _send_raw(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send(status, content, {"Content-Type": kind, **(headers or {})})
