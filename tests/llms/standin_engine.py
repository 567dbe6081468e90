"""Stands in for a Python that has vLLM: takes its command lines, answers as it does, and misbehaves on demand.

$STANDIN holds what goes wrong: `slow S` (ready after S seconds), `dies` (at start), `dies after N` (calls, or replies
in the file of a batch), `deaf` (ignores SIGTERM), `loud` (prints a lot), `missing` (has no vLLM). $STANDIN_PIDS is the
file its processes' ids go to.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULT = os.environ.get("STANDIN", "").split()
SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    name = ""
    n_calls = 0

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self.send(None)
            case "/version":
                self.send({"version": "1.2.3"})
            case "/v1/models":
                self.send({"object": "list", "data": [{"id": self.name, "object": "model", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.n_calls += 1
        if FAULT[:2] == ["dies", "after"] and Handler.n_calls > int(FAULT[2]):
            print("RuntimeError: CUDA error: an illegal memory access was encountered", flush=True)
            os._exit(9)
        time.sleep(float(os.environ.get("STANDIN_LATENCY_S", "0")))
        self.send(answer(body, self.name))

    def send(self, value: dict[str, Any] | None) -> None:
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def answer(body: dict[str, Any], name: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"关于“{body['messages'][-1]['content'][-20:]}”的回答"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": name, "choices": [choice], "usage": usage}


def run_batch(requests: Path, replies: Path, name: str) -> None:
    """Answer a file of requests, as vLLM's run_batch.py does: all replies are written at the end."""
    lines = []
    for line in requests.read_text().splitlines():
        request = json.loads(line)
        assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
        given = {"id": "vllm-1", "custom_id": request["custom_id"]}
        response: dict[str, Any] = {"status_code": 200, "request_id": "vllm-batch-1", "body": None}
        if request["body"]["model"] != name:
            error = {"message": f"The model `{request['body']['model']}` does not exist.", "code": 404}
            lines.append({**given, "response": response | {"status_code": 404}, "error": {"error": error}})
        elif "太长" in request["body"]["messages"][-1]["content"]:
            error = {"message": "This model's maximum context length is 4096 tokens.", "code": 400}
            lines.append({**given, "response": response | {"status_code": 400}, "error": {"error": error}})
        else:
            lines.append({**given, "response": response | {"body": answer(request["body"], name)}, "error": None})
    print(f"Running batch: 100% Completed | {len(lines)}/{len(lines)} [00:01<00:00, 27.31req/s]", flush=True)
    written = "".join(f"{json.dumps(line)}\n" for line in lines)
    if FAULT[:2] == ["dies", "after"]:
        n_chars = sum(len(json.dumps(line)) + 1 for line in lines[: int(FAULT[2])])
        replies.write_text(written[: n_chars + 30])
        os.kill(os.getpid(), signal.SIGKILL)
    replies.write_text(written)


def main() -> None:
    if sys.argv[1] == "-c":
        sys.exit(print("1.2.3") if FAULT != ["missing"] else 3)
    assert sys.argv[1] == "-m"
    parser = argparse.ArgumentParser()
    for flag in ("--host", "--served-model-name", "--model"):
        parser.add_argument(flag)
    parser.add_argument("--port", type=int)
    for flag in ("-i", "-o"):
        parser.add_argument(flag, type=Path)
    given, others = parser.parse_known_args(sys.argv[3:])
    print("others", others, "key", os.environ.get("OPENAI_API_KEY"), flush=True)
    worker = subprocess.Popen([sys.executable, "-I", "-c", SLEEPER])  # what an engine leaves behind when it is killed
    with Path(os.environ["STANDIN_PIDS"]).open("a") as file:
        file.write(f"{os.getpid()}\n{worker.pid}\n")
    match FAULT:
        case ["dies"]:
            print("ValueError: the model needs 140 GiB\nTraceback ...\nRuntimeError: engine core failed", flush=True)
            sys.exit(1)
        case ["slow", seconds]:
            time.sleep(float(seconds))
        case ["deaf"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case ["loud"]:
            for number in range(200_000):
                print(f"line {number}: loading, loading, loading")
    if sys.argv[2] == "vllm.entrypoints.openai.run_batch":
        run_batch(given.i, given.o, given.served_model_name)
        worker.kill()
        return
    assert sys.argv[2] == "vllm.entrypoints.openai.api_server"
    Handler.name = given.served_model_name
    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
