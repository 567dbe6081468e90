"""Read the sample files of lm-eval: `samples_TASK_TIME.jsonl`, with a line for each document and filter.

The question is taken from the columns of `doc`. Of several filters' answers to a document the first counts. The name of
the model is in the file of results beside it, `results_TIME.json`, if that is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_json
from qilin_rag.core.text import clean
from qilin_rag.core.types import Message
from qilin_rag.data.text_files import json_lines, stop
from qilin_rag.pipeline.import_forms.foreign import call_of, id_list, own_call, texts_of
from qilin_rag.pipeline.import_forms.table import CALL

_LINE = re.compile(rb'\{"doc_id": ?\d+, ?"doc": ?')
_RESULTS = re.compile(rb'\{\s*"results"\s*:\s*\{')
_COLUMNS = ("question_id", "search_idx", "qid", "topic_id", "id", "query", "question", "topic")


def recognises(path: Path, head: bytes) -> bool:
    """Return whether a file holds samples, or results, which are refused with the name of what to give."""
    return _LINE.match(head) is not None or _RESULTS.match(head) is not None


def read(path: Path) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the answers in the order of the lines."""
    with path.open("rb") as file:
        if _RESULTS.match(file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()):
            raise UsageError(f"{path} has results of lm-eval without answers; give the samples_*.jsonl beside it")
    model = _model_beside(path)
    for number, line in json_lines(path, stop):
        place = f"line {number}"
        try:
            yield place, _row(line, model)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise UsageError(f"{path}, {place}: qilin_rag.call: {at}: {first['msg']}") from None
        except ValueError as error:
            raise UsageError(f"{path}, {place}: {error}") from None


def _row(line: Mapping[str, Any], model: str | None) -> dict[Any, Any]:
    doc = line.get("doc")
    if not isinstance(doc, dict):
        raise ValueError("doc must be an object with question_id or query")
    answer = _text(line.get("filtered_resps"), "filtered_resps")
    own = line.get("qilin_rag")
    known = own if isinstance(own, dict) else {}
    row: dict[Any, Any] = {name: doc[name] for name in _COLUMNS if isinstance(doc.get(name), str | int)}
    if not row:
        columns = ", ".join(f"{name!s:.40}" for name in [*doc][:12]) or "nothing"
        raise ValueError(f"doc has no {' or '.join(_COLUMNS)}; it has {columns}")
    notes = known if own else doc
    row |= {
        "answer": answer,
        "note_ids": id_list(notes.get("note_ids")),
        "citations": id_list(notes.get("citations")),
    }
    raw = _text(line.get("resps"), "resps") if line.get("resps") else answer
    told = {
        "model": None if own else model,
        "raw": raw if raw != answer else None,
        "messages": _messages(line.get("arguments")),
    }
    own_notes = {name: known.get(name) for name in ("prompt_notes", "note_scores")}
    return row | {CALL: call_of({**told, **own_call(known.get("call")), **own_notes})}


def _text(responses: Any, name: str) -> str:
    """Return the first text in lists of responses."""
    found = responses
    while isinstance(found, list) and len(found) > 0 and isinstance(found[0], list | str):
        is_scores = len(found) == 2 and isinstance(found[0], str) and found[1] in ("True", "False")
        if is_scores:
            break
        found = found[0]
    if not isinstance(found, str):
        raise ValueError(f"{name} has no generated text; tasks that choose among answers are not read")
    return clean(found)


def _messages(arguments: Any) -> list[Message] | None:
    """Return the prompt of the first request, which is a chat as JSON or a text."""
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    prompt = first.get("arg_0") if isinstance(first, dict) else None
    if isinstance(prompt, list) and len(prompt) == 1:  # lm-eval's JsonChatStr
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        return None
    if prompt.startswith("["):
        try:
            if messages := texts_of(json.loads(prompt)):
                return messages
        except (RecursionError, ValueError):
            pass
    return [{"role": "user", "content": clean(prompt)}]


def _model_beside(path: Path) -> str | None:
    """Return the name of the model from the results of the same time; None if they are not there."""
    time = path.stem.rpartition("_")[2]
    try:
        model = read_json(path.with_name(f"results_{time}.json")).get("model_name")
    except UsageError:
        return None
    return clean(model) if isinstance(model, str) and model else None
