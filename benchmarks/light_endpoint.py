"""An OpenAI-compatible endpoint in a process of its own: a fixed answer after a fixed latency, for some 0.1 ms of CPU.

usage: python benchmarks/light_endpoint.py LATENCY_S [N_CHARACTERS of an answer]
Prints its port, and serves until its standard input ends. `GET /counts` tells what came since the last such request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from typing import Any

MODEL = "fake-model"
ANSWER = "粗研磨咖啡粉80克，加冷水800毫升，搅匀后盖好，放进冰箱冷藏12小时，再用滤纸过滤，三天内喝完。" * 4


class Counts:
    """What came in: calls, how many at once, how many different prompts, and how long it took."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.n_answered = self.n_at_once = self.most_at_once = 0
        self.prompts: set[str] = set()
        self.first_call = self.last_answer = 0.0

    def begin(self, content: bytes) -> None:
        """A call came."""
        self.first_call = self.first_call or time.perf_counter()
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        messages = json.loads(content)["messages"]
        self.prompts.add(json.dumps([[message["role"], message["content"]] for message in messages]))

    def end(self) -> None:
        """It was answered."""
        self.last_answer = time.perf_counter()
        self.n_at_once -= 1
        self.n_answered += 1

    def report(self) -> dict[str, Any]:
        """As JSON; prompts as one hash, so that two harnesses can be seen to ask the same."""
        return {
            "n_answered": self.n_answered,
            "most_at_once": self.most_at_once,
            "n_prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256("\n".join(sorted(self.prompts)).encode()).hexdigest(),
            "span_s": self.last_answer - self.first_call,
        }


def reply(value: Any) -> bytes:
    """A whole HTTP response."""
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


MODELS = reply({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "us"}]})


def chat(answer: str) -> bytes:
    """The answer to every prompt."""
    return reply(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
        }
    )


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests come one after another."""

    latency_s: float
    chat: bytes
    counts = Counts()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is whole."""
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        n_bytes = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if not blank or len(body) < n_bytes:
            return
        self.received = b""
        if head.startswith(b"POST"):
            self.counts.begin(body)
            asyncio.get_running_loop().call_later(self.latency_s, self.answer)
        elif head.startswith(b"GET /counts"):
            self.transport.write(reply(self.counts.report()))
            Connection.counts = Counts()
        else:
            self.transport.write(MODELS)

    def answer(self) -> None:
        """The latency is over."""
        self.transport.write(self.chat)
        self.counts.end()


async def main(latency_s: float, n_characters: int) -> None:
    """Serve until standard input ends."""
    Connection.latency_s = latency_s
    Connection.chat = chat((ANSWER * (n_characters // len(ANSWER) + 1))[:n_characters])
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else len(ANSWER)))
