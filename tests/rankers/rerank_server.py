"""A rerank server on loopback, in any of the forms, that misbehaves on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.loopback import LoopbackHandler, LoopbackServer

Score = Callable[[str, Sequence[str]], Sequence[float]]


def by_length(query: str, texts: Sequence[str]) -> list[float]:
    """The more characters a text shares with the query, and the shorter it is, the better."""
    return [len(set(query) & set(text)) / (1 + len(text)) for text in texts]


class RerankServer(LoopbackServer):
    """`fault(n, rows)` gives other rows, a status with a body, or "hang"; None for nothing. `takes` are its forms."""

    def __init__(self, takes: Sequence[str] = ("cohere", "tei", "score"), score: Score = by_length) -> None:
        super().__init__(_Handler)
        self.takes, self.score = takes, score
        self.fault: Callable[[int, list[dict[str, Any]]], Any] = lambda n, rows: None
        self.billed: Callable[[int], dict[str, Any]] = lambda n_texts: {}  # what a reply says of tokens and searches
        self.calls: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs that were asked for, those of probes left out."""
        asked = [(body.get("query", body.get("text_1")), _texts(body)) for body in self.calls]
        return [(str(query), text) for query, texts in asked for text in texts if "水温在九十二度" not in texts[0]]


def _texts(body: dict[str, Any]) -> list[str]:
    return body.get("documents") or body.get("texts") or body.get("text_2") or []


class _Handler(LoopbackHandler):
    def do_POST(self) -> None:
        body, fake = self.read_json(), self.fake
        form = "tei" if "texts" in body else "score" if "text_1" in body else "cohere"
        if form not in fake.takes:
            self.send(422, {"detail": [{"loc": ["body", "documents"], "msg": "Field required", "type": "missing"}]})
            return
        with fake.lock:
            fake.calls.append(body)
            fake.keys.append(self.headers["Authorization"])
            n = len(fake.calls)
        name = "relevance_score" if form == "cohere" else "score"
        scores = fake.score(body.get("query", body.get("text_1")), _texts(body))
        rows = [{"index": place, name: score} for place, score in enumerate(scores)]
        rows.sort(key=lambda row: -row[name])
        fault = fake.fault(n, rows)
        if fault == "hang":
            time.sleep(1.5)
        elif isinstance(fault, tuple):
            self.send(*fault)
            return
        elif fault is not None:
            rows = fault
        beside = fake.billed(len(rows))
        self.send(200, rows if form == "tei" else {"results" if form == "cohere" else "data": rows, **beside})
