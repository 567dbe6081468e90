"""An LLM on loopback that orders the notes of a listwise prompt by a score that only it knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.fake_server import FakeServer

Score = Callable[[str, str], float]


def window_of(body: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the query and the notes of the first request about a window, without quotation marks."""
    [text] = [message["content"] for message in body["messages"] if message["role"] == "user"][:1]
    query, *notes = re.split(r"^## .*\n", text, flags=re.MULTILINE)[1:-1]
    return _unquoted(query), [_unquoted(note) for note in notes]


def _unquoted(text: str) -> str:
    return "\n".join(line.removeprefix("> ") for line in text.strip().splitlines())


def as_ranking(numbers: Sequence[int]) -> str:
    return " > ".join(f"[{number}]" for number in numbers)


class PerfectComparer(FakeServer):
    """Orders every window by `score`, the highest first; `spoil(n, ranking)` may change the n-th reply."""

    def __init__(self, score: Score) -> None:
        super().__init__(answer=self._answer)
        self.score = score
        self.spoil: Callable[[int, str], str] = lambda n, ranking: ranking
        self.asked: list[tuple[str, list[str]]] = []

    def _answer(self, body: dict[str, Any]) -> str:
        query, notes = window_of(body)
        with self.lock:
            self.asked.append((query, notes))
            n = len(self.asked)
        order = sorted(range(len(notes)), key=lambda place: -self.score(query, notes[place]))
        return self.spoil(n, as_ranking([place + 1 for place in order]))


def slow_sliding_windows(scores: Sequence[float], window: int, step: int) -> tuple[list[int], int]:
    """Order notes by the procedure of the paper, written down step by step.

    Returns:
        The places of the notes in their new order, and the number of windows.
    """
    order = list(range(len(scores)))
    n_windows, end = 0, len(order)
    while True:  # the window at the end, then each `step` notes nearer to the front, until one begins there
        start = end - window
        if start < 0:
            start = 0
        inside = order[start:end]
        inside.sort(key=lambda place: scores[place], reverse=True)
        for offset, place in enumerate(inside):
            order[start + offset] = place
        n_windows += len(inside) > 1  # nobody is asked for the order of one note
        if start == 0:
            return order, n_windows
        end = end - step
