"""Turn a question with its answer and scores into a sample of an inspect_ai log, and into its short form for lists."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from qilin_rag.core.types import Message, Question, Sample, Score, Usage
from qilin_rag.reports.exports.json_lines import as_json, without_addresses
from qilin_rag.reports.exports.run_content import RunContent, about_call, about_notes, seconds_of

_STOP_REASONS = {
    "stop": "stop",
    "length": "max_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
_ROLES = {"system": "system", "developer": "system", "assistant": "assistant"}
_LONGEST_ID = 200
_UNSAFE = re.compile(r"[^\w.~-]")
_MOST_INPUT, _MOST_TEXT, _MOST_METADATA = 5120, 1024, 1024


def samples_of(content: RunContent) -> Iterator[dict[str, Any]]:
    """Yield the samples of the log: the first answers, then repeats as further epochs, which have no scores."""
    for question, sample, scores in content.samples():
        yield _sample(content, question, sample, 1, scores)
    for epoch, question, sample in content.repeats():
        yield _sample(content, question, sample, epoch, {})


def _sample(
    content: RunContent, question: Question, sample: Sample, epoch: int, scores: dict[str, Score]
) -> dict[str, Any]:
    sample_id = safe_id(question.id)
    sent = [_message(message) for message in sample.messages]
    reply = _reply(sample)
    usage = model_usage(content.llm, sample.usage)
    unscored = {name: score.reason or "no value" for name, score in scores.items() if score.value is None}
    metadata = {
        "question_id": question.id,
        "query": question.query,
        "reference_notes": question.reference_notes,
        **about_notes(sample),
        "call": about_call(sample),
        **({"unscored": unscored} if unscored else {}),
    }
    found: dict[str, Any] = {
        "id": sample_id,
        "epoch": epoch,
        "input": sent or question.query,
        "target": question.references,
        "messages": [*sent, *([reply] if reply else [])],
        "output": _output(sample, reply),
        "scores": {name: _score(score, sample) for name, score in scores.items() if score.value is not None},
        "metadata": metadata,
        "model_usage": usage,
        "uuid": _unique(content, sample_id, epoch),
    }
    if sample.status == "failed":
        found["error"] = {"message": metadata["call"].get("error", "no reply"), "traceback": "", "traceback_ansi": ""}
    return found


def safe_id(question_id: str) -> str:
    """Return an id that can be a part of a file's name; different ids stay different.

    >>> safe_id("12"), safe_id("../a b")
    ('12', '..%2Fa%20b')
    """
    found = _UNSAFE.sub(lambda char: quote(char[0], safe="", errors="replace"), question_id) or "%"
    if len(found) <= _LONGEST_ID:
        return found
    digest = hashlib.sha256(question_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{found[:_LONGEST_ID]}~{digest[:16]}"


def _unique(content: RunContent, sample_id: str, epoch: int) -> str:
    whole = f"{content.manifest.fingerprint}/{sample_id}/{epoch}"
    return hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:22]


def _message(message: Message) -> dict[str, Any]:
    return {"content": message["content"], "source": "input", "role": _ROLES.get(message["role"], "user")}


def _reply(sample: Sample) -> dict[str, Any] | None:
    """Return the answer as a message; None if nothing came."""
    if sample.status == "failed" and not sample.answer:
        return None
    model = {"model": sample.model} if sample.model else {}
    return {"content": sample.answer, "source": "generate", "role": "assistant", **model}


def _output(sample: Sample, reply: dict[str, Any] | None) -> dict[str, Any]:
    reason = _STOP_REASONS.get(sample.finish_reason or "", "unknown")
    output: dict[str, Any] = {
        "model": sample.model or "",
        "choices": [{"message": reply, "stop_reason": reason}] if reply else [],
        "completion": sample.answer,
    }
    if usage := usage_of(sample.usage):
        output["usage"] = usage
    if (seconds := seconds_of(sample)) is not None:
        output["time"] = seconds
    if sample.status == "filtered" and sample.error:
        output["error"] = without_addresses(sample.error)
    return output


def _score(score: Score, sample: Sample) -> dict[str, Any]:
    remark = {"explanation": score.reason} if score.reason else {}
    return {"value": score.value, "answer": sample.answer, **remark, "history": []}


def reduced(content: RunContent, metric: str) -> dict[str, Any]:
    """Return the scores by one metric; the first epoch alone has scores, so there is nothing to average."""
    column = content.column(metric)
    samples = [
        {"value": score.value, "history": [], "sample_id": safe_id(score.question_id)}
        for score in column
        if score.value is not None
    ]
    return {"scorer": metric, "samples": samples}


def short_form(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the line of a sample in lists, with long texts cut as inspect_ai does (`log/_util.py`)."""
    given = sample["input"]
    shown = _cut(given) if isinstance(given, str) else [each | {"content": _cut(each["content"])} for each in given]
    summary: dict[str, Any] = {
        "id": sample["id"],
        "epoch": sample["epoch"],
        "input": shown,
        "target": [_cut(each) for each in sample["target"]],
        "metadata": {name: _thin(value) for name, value in sample["metadata"].items()},
        "scores": {name: {key: _thin(value) for key, value in of.items()} for name, of in sample["scores"].items()},
        "model_usage": sample["model_usage"],
        "uuid": sample["uuid"],
        "completed": True,
        "message_count": len(sample["messages"]),
    }
    if "error" in sample:
        summary["error"] = sample["error"]["message"]
    return summary


@lru_cache(maxsize=16)  # each score of a sample has its answer
def _shorten(text: str) -> str:
    """Return a text on one line, cut as `textwrap.shorten` does, which takes long for one that needs no cut."""
    line = " ".join(text[: 8 * _MOST_TEXT].split())
    return line if len(line) <= _MOST_TEXT else textwrap.shorten(line, width=_MOST_TEXT, placeholder="...")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_INPUT else f"{text[:_MOST_INPUT]}...\n(content truncated)"


def _thin(value: Any) -> Any:
    if isinstance(value, str):
        return _shorten(value)
    if isinstance(value, dict | list) and len(as_json(value, indent=2)) > _MOST_METADATA:
        return "Key removed from summary (> 1k)"
    return value


def model_usage(model: str, usage: Usage) -> dict[str, Any]:
    """Return the tokens of a model as inspect_ai counts them; empty if they are not known."""
    found = usage_of(usage)
    return {model: found} if found else {}


def usage_of(usage: Usage) -> dict[str, int] | None:
    """Return tokens as inspect_ai counts them: those of its cache are not among the tokens of the input."""
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    cached = {
        "input_tokens_cache_write": usage.cache_write_tokens,
        "input_tokens_cache_read": usage.cached_tokens,
    }
    known = {name: n for name, n in cached.items() if n is not None}
    return {
        "input_tokens": max(0, usage.prompt_tokens - sum(known.values())),
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        **known,
    }
