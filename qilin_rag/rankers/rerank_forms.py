"""Read and write the forms of rerank servers: Cohere's (Jina, vLLM, llama.cpp), TEI's, and vLLM's scores.

All answer with a score for each text by its place; only the names of the fields differ.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from qilin_rag.core.types import read_count

FormName = Literal["cohere", "tei", "score"]


class ReplyError(ValueError):
    """A reply that is not one finite score for each text."""


class Billed(NamedTuple):
    """The tokens and searches that a server charges a request for; None if it does not say."""

    tokens: int | None
    searches: int | None


def forms_of(address: str) -> list[FormName]:
    """Return the forms that a server may have at an address, the likelier first; none if the path is another.

    >>> forms_of("http://127.0.0.1:8000/v1/rerank"), forms_of("http://127.0.0.1:8000/rerank")
    (['cohere'], ['tei', 'cohere'])
    """
    path = urlsplit(address).path.rstrip("/")
    if path.endswith("/score"):
        return ["score"]
    if path == "/rerank":  # TEI's, but vLLM and llama.cpp have it, too
        return ["tei", "cohere"]
    return ["cohere"] if path.endswith(("/rerank", "/reranking")) else []


def request_body(form: FormName, model: str | None, query: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the body of a request for the scores of all texts."""
    texts = [text or " " for text in texts]  # some servers refuse an empty one
    named = {} if model is None else {"model": model}
    if form == "tei":
        return {"query": query, "texts": texts, "raw_scores": False, "truncate": True}
    if form == "score":
        return {**named, "text_1": query, "text_2": texts}
    return {**named, "query": query, "documents": texts, "top_n": len(texts), "return_documents": False}


def read_scores(reply: Any, n_texts: int) -> list[float]:
    """Return the score of each text, in the order of the texts.

    Args:
        reply: The JSON of a reply; its bytes if they are not JSON.
        n_texts: The number of texts.

    Raises:
        ReplyError: if the reply is not JSON of a known form, or not one finite score for each text.
    """
    if isinstance(reply, bytes):
        raise ReplyError("it is not JSON")
    rows = next((reply[key] for key in ("results", "data") if key in reply), None) if _is_object(reply) else reply
    if not isinstance(rows, list) or not all(map(_is_object, rows)):
        raise ReplyError("it has no list of scores (results, data)")
    scores: list[float | None] = [None] * n_texts
    for row in rows:
        place, score = row.get("index"), row.get("relevance_score", row.get("score"))
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < n_texts:
            raise ReplyError(f"the index {reprlib.repr(place)} is that of no text, of {n_texts}")
        if scores[place] is not None:
            raise ReplyError(f"the index {place} comes twice")
        if not isinstance(score, int | float) or isinstance(score, bool) or not _is_finite(score):
            raise ReplyError(f"the score of index {place} is {reprlib.repr(score)}, not a finite number")
        scores[place] = float(score)
    found = [score for score in scores if score is not None]
    if len(found) < n_texts:
        raise ReplyError(f"it has {len(found)} scores for {n_texts} texts")
    return found


def read_billed(reply: Any) -> Billed:
    """Return what a server says it charges for: `usage` (Jina, Voyage, vLLM), `meta.billed_units` (Cohere).

    Example:
        >>> read_billed({"results": [], "meta": {"billed_units": {"search_units": 2}}})
        Billed(tokens=None, searches=2)
    """
    usage, meta = (_object(_object(reply).get(name)) for name in ("usage", "meta"))
    billed = _object(meta.get("billed_units"))
    counts = (usage.get("total_tokens"), usage.get("prompt_tokens"), billed.get("input_tokens"))
    tokens = next((n for n in map(read_count, counts) if n is not None), None)
    return Billed(tokens, read_count(billed.get("search_units")))


def _is_finite(number: float) -> bool:
    """Return whether a number of JSON, in which integers have any length, is a finite float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _object(value: Any) -> Mapping[str, Any]:
    return value if _is_object(value) else {}


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)
