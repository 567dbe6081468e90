"""Read the instance-level file of Every Eval Ever (`<uuid>_samples.jsonl`, schema 0.2 or 0.3) as answers.

A question has a record for each figure; its answer is read once. The answer is the terminal value of
`answer_attribution`. What `export --format every-eval-ever` puts into `metadata` is read back. Scores and references
are not read: the answers are scored against the data's references.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from qilin_rag.core.errors import UsageError, explain
from qilin_rag.core.text import clean
from qilin_rag.core.types import Status
from qilin_rag.data.text_files import json_lines, stop
from qilin_rag.pipeline.import_forms.table import CALL, KnownCall

_TOKENS = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cached_tokens": "input_tokens_cache_read",
    "cache_write_tokens": "input_tokens_cache_write",
}


def recognises(path: Path, head: bytes) -> bool:
    """Return whether a file has records of this format, or is the aggregate file beside them."""
    is_record = b'"evaluation_id"' in head and b'"model_id"' in head and b'"sample_id"' in head
    return head.startswith(b"{") and (is_record or _is_aggregate(head))


def _is_aggregate(head: bytes) -> bool:
    return b'"evaluation_id"' in head and b'"source_metadata"' in head and b'"eval_library"' in head


def read(path: Path) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield a row for each question, and one for each further answer to it."""
    with path.open("rb") as file:
        if _is_aggregate(file.read(1 << 16)):
            beside = f"{path.stem}_samples.jsonl"
            raise UsageError(f"{path} has figures and no answers; import the file beside it: {beside}")
    seen = set()
    for number, record in json_lines(path, stop):
        place = f"line {number}"
        try:
            row = _row(record)
        except ValidationError as error:
            raise UsageError(f"{path}, {place}: {explain(error, KnownCall)}") from None
        except (ValueError, OverflowError) as error:
            raise UsageError(f"{path}, {place}: {error}") from None
        key = row["question_id"], row["answer"]
        if key not in seen:
            seen.add(key)
            yield place, row


def _row(record: Mapping[str, Any]) -> dict[Any, Any]:
    asked, metadata = _object(record, "input"), _object(record, "metadata")
    if not isinstance(record.get("sample_id"), str):
        raise ValueError("sample_id must be text")
    outputs = _object(record, "output").get("raw") or []
    raw = outputs[0] if isinstance(outputs, list) and outputs else None
    answer = _answer(record, raw)
    row: dict[Any, Any] = {"question_id": record["sample_id"], "query": asked.get("raw"), "answer": answer}
    if (note_ids := _list(metadata, "note_ids")) is not None:
        row["note_ids"] = note_ids
    row[CALL] = KnownCall(
        status=metadata["status"] if metadata.get("status") in get_args(Status) else None,
        error=_text(record.get("error")),
        raw=_text(raw),
        prompt_notes=_list(metadata, "prompt_note_ids"),
        model=_text(record.get("model_id")),
        finish_reason=_text(metadata.get("finish_reason")),
        marks=_list(metadata, "marks"),
        usage=_usage(_object(record, "token_usage")),
        latency_s=_seconds(_object(record, "performance").get("latency_ms")),
    )
    return row


def _answer(record: Mapping[str, Any], raw: Any) -> Any:
    """Return the last terminal value, or else the whole output, or the last message of the assistant."""
    for item in reversed(_objects(record, "answer_attribution")):
        if item.get("is_terminal") is True and "extracted_value" in item:
            return item["extracted_value"]
    spoken = [each.get("content") for each in _objects(record, "messages") if each.get("role") == "assistant"]
    return raw if raw is not None else spoken[-1] if spoken else None


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict | None):
        raise ValueError(f"{name} must be an object")
    return value or {}


def _objects(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = record.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"{name} must be a list of objects")
    return value


def _text(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) else None


def _list(metadata: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return a list that is written as JSON; other tools may write something else under this name."""
    try:
        value = json.loads(metadata[name])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _usage(tokens: Mapping[str, Any]) -> dict[str, Any] | None:
    found = {ours: tokens[theirs] for ours, theirs in _TOKENS.items() if tokens.get(theirs) is not None}
    return found or None


def _seconds(milliseconds: Any) -> float | None:
    is_number = isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool)
    return round(milliseconds / 1000, 6) if is_number and milliseconds >= 0 else None
