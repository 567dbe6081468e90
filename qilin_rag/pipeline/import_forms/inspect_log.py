"""Read the logs of inspect_ai: `.eval` files, which are zip files of JSON, and `.json` ones, in the versions 1 and 2.

Of a sample are read its id, input, answer and how the call ended; from its metadata, if they are there,
`question_id`, `query`, `note_ids` and `citations`. The metadata of a log that `export` wrote says more. Only what is
the same in all versions is read, so that neither events nor scores matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import clean, is_blank
from qilin_rag.core.types import Status
from qilin_rag.core.zip_members import ZipMembers
from qilin_rag.pipeline.import_forms.foreign import call_of, id_list, one_line_query, own_call, texts_of
from qilin_rag.pipeline.import_forms.table import CALL

_VERSIONS = (1, 2)
_JSON_LOG = re.compile(rb'\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:\s*"\w+"\s*,\s*"eval"\s*:')
_MOST_JSON = 256 << 20
_SAMPLE = re.compile(r"samples/(.*)_epoch_(\d{1,9})\.json", re.DOTALL)
_ATTACHED = "attachment://"
_ENDS = {"stop": "stop", "max_tokens": "length", "length": "length", "model_length": "length"}
Row = tuple[str, Mapping[Any, Any]]


def recognises(path: Path, head: bytes) -> bool:
    """Return whether a file is a zip file or a JSON log."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or _JSON_LOG.match(head) is not None


def read(path: Path) -> Iterator[Row]:
    """Yield the answers: the first epoch of all samples, then the others."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    yield from _read_zip(path) if is_zip else _read_json(path)


def _read_zip(path: Path) -> Iterator[Row]:
    with ZipMembers(path) as log:
        begin = next((name for name in ("header.json", "_journal/start.json") if name in log.names), None)
        if begin is None:
            raise UsageError(f"{path} is a zip file, but not a log of inspect_ai: it has no header.json")
        header = _checked(path, log.read_json(begin))
        places = _places(header)
        found = [(each, name) for name in log.names if (each := _SAMPLE.fullmatch(name))]
        for _, name in sorted(found, key=lambda each: (int(each[0][2]), places.get(each[0][1], len(places)))):
            yield _row(path, name, log.read_json(name), header)


def _places(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the place of each sample by its id, as the header has them in order."""
    ids = _mapping(_mapping(header.get("eval")).get("dataset")).get("sample_ids")
    return {str(sample_id): place for place, sample_id in enumerate(ids)} if isinstance(ids, list) else {}


def _read_json(path: Path) -> Iterator[Row]:
    if (size := path.stat().st_size) > _MOST_JSON:
        more = f"{size >> 20} MiB, and at most {_MOST_JSON >> 20} MiB are read"
        raise UsageError(f"{path} is a JSON log of {more}; inspect log convert --to eval makes a smaller one")
    try:
        log = json.loads(path.read_bytes())
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from None
    header, samples = _checked(path, log), log.get("samples") or []
    if not isinstance(samples, list):
        raise UsageError(f"{path}: samples must be a list")
    places = _places(header)

    def order(number: int) -> tuple[int, int]:
        sample = _mapping(samples[number])
        epoch = sample.get("epoch")
        return epoch if isinstance(epoch, int) else 1, places.get(str(sample.get("id")), len(places))

    for number in sorted(range(len(samples)), key=order):
        yield _row(path, f"sample {number}", samples[number], header)


def _checked(path: Path, header: Any) -> dict[str, Any]:
    """Return the header of a log if its version is known."""
    version = header.get("version") if isinstance(header, dict) else None
    if not isinstance(header, dict) or version not in _VERSIONS:
        raise UsageError(f"{path}: version {version!r:.20} of inspect_ai's logs; 1 and 2 are read")
    return header


def _row(path: Path, place: str, sample: Any, header: Mapping[str, Any]) -> Row:
    if not isinstance(sample, dict) or not isinstance(sample.get("output"), dict | None):
        raise UsageError(f"{path}, {place[:100]}: not a sample of inspect_ai")
    try:
        return place, _Sample(sample, header).row()
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}, {place[:100]}: metadata.call: {at}: {first['msg']}") from None


class _Sample:
    """One sample of a log."""

    def __init__(self, sample: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        self._sample = sample
        self._output = _mapping(sample.get("output"))
        self._metadata = _mapping(sample.get("metadata"))
        self._attached = _mapping(sample.get("attachments"))
        spec = _mapping(header.get("eval"))
        self._asked = spec.get("model")
        self._is_ours = "qilin_rag" in _mapping(spec.get("metadata"))

    def row(self) -> dict[Any, Any]:
        """Return the row of this sample."""
        metadata, answer = self._metadata, self._answer()
        question_id, query = metadata.get("question_id"), metadata.get("query")
        row: dict[Any, Any] = {
            "question_id": question_id if isinstance(question_id, str | int) else self._sample.get("id"),
            "query": query if isinstance(query, str) else one_line_query(self._input()),
            "answer": answer,
            "note_ids": id_list(metadata.get("note_ids")),
            "citations": id_list(metadata.get("citations")),
        }
        messages = texts_of(self._sample.get("messages"), self._text)
        if messages and messages[-1]["role"] == "assistant":
            messages.pop()
        known = {
            "messages": messages or None,
            "model": self._output.get("model") or (None if self._is_ours else self._asked),
            "latency_s": self._output.get("time"),
        }
        told = self._own_call() if self._is_ours else self._foreign_call(answer)
        return row | {CALL: call_of({**known, **told})}

    def _own_call(self) -> dict[str, Any]:
        """Return what `export` wrote about the call."""
        own = {name: self._metadata.get(name) for name in ("prompt_notes", "note_scores")}
        return own | own_call(self._metadata.get("call"))

    def _foreign_call(self, answer: str) -> dict[str, Any]:
        """Return how the call of another tool's log ended."""
        choices = self._output.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
        reason, error = choice.get("stop_reason"), self._sample.get("error")
        status: Status | None = None
        if error is not None and is_blank(answer):
            status = "failed"
        elif reason == "content_filter":
            status = "filtered"
        elif _ENDS.get(str(reason)) == "length":
            status = "truncated"
        said = _mapping(error).get("message") if status == "failed" else None
        usage = _mapping(_mapping(self._sample.get("model_usage")).get(str(self._asked)))
        return {
            "status": status,
            "error": " ".join(said.split())[:500] if isinstance(said, str) else None,
            "finish_reason": _ENDS.get(str(reason), None if reason in (None, "unknown") else str(reason)),
            "usage": _tokens(usage or _mapping(self._output.get("usage"))),
        }

    def _answer(self) -> str:
        completion = self._output.get("completion")
        if isinstance(completion, str) and completion:
            return self._text(completion)
        choices = self._output.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
        found = texts_of([{"role": "assistant", **_mapping(choice.get("message"))}], self._text)
        return found[0]["content"] if found else ""

    def _input(self) -> str:
        """Return the input, or the last message of the user in it."""
        given = self._sample.get("input")
        if isinstance(given, str):
            return self._text(given)
        asked = [message["content"] for message in texts_of(given, self._text) if message["role"] == "user"]
        return asked[-1] if asked else ""

    def _text(self, text: str) -> str:
        """Return a text, which may be kept apart from its place."""
        if text.startswith(_ATTACHED):
            found = self._attached.get(text.removeprefix(_ATTACHED))
            text = found if isinstance(found, str) else text
        return clean(text)


def _tokens(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tokens of a call: those of a cache are tokens of the prompt as well. Zeros are those of no count."""
    names = ("input_tokens", "input_tokens_cache_read", "input_tokens_cache_write")
    given = [n for name in names if isinstance(n := usage.get(name), int)]
    if not any(given):
        return None
    return {
        "prompt_tokens": sum(given),
        "completion_tokens": usage.get("output_tokens"),
        "cached_tokens": usage.get(names[1]),
        "cache_write_tokens": usage.get(names[2]),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
