"""A server of embeddings on loopback, whose vectors count characters, and which misbehaves on demand."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.loopback import LoopbackHandler, LoopbackServer

MODEL = "tiny-e5-zh"
DIMENSION = 48
Items = list[dict[str, Any]]


def vector(text: str, seed: int = 0, dimension: int = DIMENSION) -> list[float]:
    """Return a vector that counts the characters of a text by a hash; other seeds are other models."""
    counts = np.zeros(dimension)
    for char in text:
        counts[zlib.crc32(f"{seed}{char}".encode()) % dimension] += 1
    return [float(count) for count in np.sqrt(counts) + 0.01]


class EmbeddingServer(LoopbackServer):
    """Answers `/v1/embeddings` and TEI's `/embed`.

    `seed` is the model that answers. `refuse(n, texts)` gives a status, a body and headers in place of the n-th answer
    (from 1); `change(n, items)` changes the items of an answer; `longest` is the most characters of a text, `reads` the
    most that count as tokens; `latency_s` is spent on each answer.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.seed, self.dimension, self.latency_s = 0, DIMENSION, 0.0
        self.longest = self.reads = 10**9
        self.refuse: Callable[[int, list[str]], tuple[int, Any, dict[str, str]] | None] = lambda n, texts: None
        self.change: Callable[[int, Items], Any] = lambda n, items: items
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answered: list[str] = []
        self.counts_tokens = True
        self.n_at_once = self.most_at_once = 0
        self.url = f"{self.root}/v1"


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": MODEL}]}) if self.path == "/v1/models" else self._send(404, {"error": "no"})

    def do_POST(self) -> None:
        body, served = self.read_json(), self.fake
        is_tei = self.path == "/embed"
        texts = body["inputs"] if is_tei else body["input"]
        with served.lock:
            served.bodies.append(body)
            served.keys.append(self.headers["Authorization"])
            n = len(served.bodies)
            served.n_at_once += 1
            served.most_at_once = max(served.most_at_once, served.n_at_once)
        try:
            time.sleep(served.latency_s)
            self._answer(n, texts, is_tei)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with served.lock:
                served.n_at_once -= 1

    def _answer(self, n: int, texts: list[str], is_tei: bool) -> None:
        served = self.fake
        if (refusal := served.refuse(n, texts)) is not None:
            self._send(*refusal)
        elif any(len(text) > served.longest for text in texts):
            self._send(400, {"error": {"message": "input exceeds the maximum context length of the model"}})
        else:
            vectors = [vector(text, served.seed, served.dimension) for text in texts]
            items = [{"index": i, "embedding": row} for i, row in enumerate(vectors)]
            content = vectors if is_tei else {"data": served.change(n, items), "model": MODEL}
            if served.counts_tokens and isinstance(content, dict):
                n_tokens = sum(min(len(text), served.reads) for text in texts)
                content["usage"] = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
            self._send(200, content)
            with served.lock:
                served.answered.extend(texts)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        if status == 0:  # dies
            self.close_connection = True
            return
        self.send(status, content, headers)


def as_base64(items: Items) -> Items:
    """Return the same vectors in base64, as OpenAI's own client asks for them."""
    return [
        item | {"embedding": base64.b64encode(np.array(item["embedding"], "<f4").tobytes()).decode()} for item in items
    ]
