"""Read the answers of another system: from JSONL, JSON, CSV, TSV and TREC RAG files, mappings, or a DataFrame.

Nothing in them is executed or fetched. An answer that can't be read raises an error that says its place; an answer that
does not fit the data is left to `imports`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded
from qilin_rag.core.text import cited_numbers, clean, strip_markup
from qilin_rag.core.text_encodings import hint
from qilin_rag.data.cells import identifier, parse_repr
from qilin_rag.data.note_ids import shown, text_id_number
from qilin_rag.data.text_files import CsvFile, json_lines, stop
from qilin_rag.pipeline.import_forms.table import CALL, KnownCall, form_of

MOST_BYTES = 2**30
"""The largest file that is read."""
HIGHEST_NUMBER = 99
"""The highest number that a citation marker can have."""
_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("question_id", "search_idx", "qid", "topic_id", "narrative_id", "id"),
    "query": ("query", "question", "topic", "narrative"),
    "answer": ("answer", "response", "prediction"),
    "notes": ("note_ids", "notes", "note_idx_list"),
    "citations": ("citations", "cited"),
}
"""The columns that are read, each under several names; of two names the first counts."""
_TREC_FIELDS = frozenset({"metadata", "references", "run_id", "team_id", "type", "title", "response_length"})
_END_OF_SENTENCE = re.compile(r"[。！？!?；;…]$")
_BETWEEN_IDS = re.compile(r"[\s,;|]+")
_MOST_NAMES = 12


class AnswerRow(NamedTuple):
    """An answer: `place` is where it stands, `raw` the text as it came, `answer` the same with markers of citations.

    `notes` are those that were found, best first. `numbered` are those that markers count, from 1. None: not known.
    `call` is what a file of another tool tells about the call.
    """

    place: str
    question_id: str | None
    query: str | None
    answer: str | None
    raw: str | None
    notes: list[int] | None = None
    numbered: list[int] | None = None
    n_citations_lost: int = 0
    call: KnownCall | None = None


class Rows(NamedTuple):
    """All answers, the name of their file, and the columns that were not read."""

    rows: list[AnswerRow]
    source: str | None
    unread: list[str]

    @property
    def sha256(self) -> str:
        """Hash of the answers, whatever form of file they came in."""
        digest = hashlib.sha256()
        for row in self.rows:
            content: list[Any] = [row.question_id, row.query, row.answer, row.raw, row.notes, row.numbered]
            if row.call:
                content.append(row.call.model_dump(mode="json", exclude_defaults=True))
            digest.update(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()


def read_rows(answers: Any) -> Rows:
    """Read answers from a path, mappings, or a DataFrame (pandas, polars).

    Raises:
        UsageError: They can't be read, or lack a column; with the place of the first defect.
    """
    is_file = isinstance(answers, str | Path)
    path = expanded(answers) if is_file else None
    found: Iterable[tuple[str, Mapping[Any, Any]]] = _of_file(path) if path else _in_memory(answers)
    where = str(path) if path else "answers"
    rows, names = [], dict[str, None]()
    for place, raw in found:
        call = raw.get(CALL)
        values = {str(name): plain(value) for name, value in raw.items() if name is not CALL}
        is_trec = isinstance(values.get("answer"), list)
        if is_trec and isinstance(values.get("metadata"), dict):
            values = {**values["metadata"], **values}
        names |= dict.fromkeys(name for name in values if not (is_trec and name in _TREC_FIELDS))
        try:
            row = _trec_row(place, values) if is_trec else _row(place, values)
            rows.append(row._replace(call=call) if isinstance(call, KnownCall) else row)
        except ValueError as error:
            _check_columns(where, names)
            raise UsageError(f"{where}, {place}: {error}") from None
    if not rows:
        raise UsageError(f"{where} holds no answer")
    _check_columns(where, names)
    read = {next((name for name in of if name in names), "") for of in _NAMES.values()}
    return Rows(rows, clean(path.name) if path else None, [name for name in names if name not in read])


def _check_columns(where: str, names: Iterable[str]) -> None:
    """Raise a UsageError if a required column is there under none of its names."""
    there = list(names)
    for known in (_NAMES["answer"], _NAMES["id"] + _NAMES["query"]):
        if not set(known) & set(there):
            has = ", ".join(f"{name!r:.40}" for name in there[:_MOST_NAMES]) or "none"
            raise UsageError(f"{where} has no column {' or '.join(known)}; it has {has}")


def plain(value: Any) -> Any:
    """Return a value of numpy or pandas as Python data; None if it is missing (NaN, NA, NaT).

    >>> plain(float("nan")), plain("a")
    (None, 'a')
    """
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if not isinstance(value, str | list | dict) and callable(getattr(value, "tolist", None)):
        value = value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


def _in_memory(answers: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the mappings, or the rows of a DataFrame, which is recognised by its methods."""
    if callable(to_dicts := getattr(answers, "to_dicts", None)):
        answers = to_dicts()
    elif callable(to_dict := getattr(answers, "to_dict", None)) and hasattr(answers, "columns"):
        answers = to_dict(orient="records")
    if isinstance(answers, Mapping | bytes) or not isinstance(answers, Iterable):
        raise UsageError(f"answers must be a path, a list of mappings or a DataFrame, not {type(answers).__name__}")
    for number, row in enumerate(answers):
        if not isinstance(row, Mapping):
            raise UsageError(f"answers[{number}] must be a mapping with question_id or query, and answer")
        yield f"row {number}", row


def _of_file(path: Path) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Read the rows of a file; its first bytes tell its form."""
    with _reading(path):
        if not path.is_file():  # opening a pipe would wait for ever
            raise UsageError(f"{path} {'is not a plain file' if path.exists() else 'does not exist'}")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(f"{path} has {size / 2**30:.1f} GiB; at most {MOST_BYTES >> 30} GiB are read")
        with path.open("rb") as file:
            head = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        if read := form_of(path, head):
            yield from read(path)
        elif head.startswith(b"["):
            yield from _json_rows(path)
        elif head.startswith(b"{"):
            for number, row in json_lines(path, stop):
                yield f"line {number}", row
        else:
            first_line = head.partition(b"\n")[0]
            is_tabs = path.suffix.lower() in (".tsv", ".tab") or (b"\t" in first_line and b"," not in first_line)
            table = CsvFile(path, "\t" if is_tabs else ",", strict=True)
            if problem := table.problem():
                raise UsageError(f"{path}: {problem}")
            for number, cells in table.rows(stop):
                yield f"row {number}", _from_cells(cells)


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (RecursionError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise UsageError(f"{path}: not valid JSON: {error}") from None
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, item {number}: expected a JSON object")
        yield f"item {number}", row


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise UsageError(f"{path} can't be read: not UTF-8 text{hint(path)}") from None
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _from_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """Parse the cells of a row: lists in brackets as JSON or numpy print them, or ids with separators."""
    row: dict[str, Any] = dict(cells)
    for kind in ("notes", "citations"):
        for name in _NAMES[kind]:
            if name in row:
                row[name] = _list_of(row[name].strip())
    return row


def _list_of(cell: str) -> Any:
    if not cell:
        return None
    if not cell.startswith(("[", "array(")):
        return _BETWEEN_IDS.split(cell)
    try:
        return parse_repr(cell)
    except (ValueError, SyntaxError):
        return cell  # which is not a list, and is refused as such


def _first(values: Mapping[str, Any], kind: str) -> tuple[str, Any]:
    """Return the value under the first of these names that the row has, and that name."""
    return next(((name, values[name]) for name in _NAMES[kind] if name in values), (_NAMES[kind][0], None))


def _text(values: Mapping[str, Any], kind: str) -> str | None:
    name, value = _first(values, kind)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {shown(value)}")
    return clean(value)


def _question(values: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the id and the query of a row; it must have one of them."""
    name, value = _first(values, "id")
    try:
        question_id = identifier(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    question_id = question_id if question_id and question_id.strip() else None
    query = _text(values, "query")
    query = query if query and query.strip() else None
    if question_id is None and query is None:
        raise ValueError("neither a question id nor a query")
    return question_id, query


def _note_list(values: Mapping[str, Any], kind: str) -> list[int] | None:
    name, value = _first(values, kind)
    return None if value is None else _numbers(name, value)


def _numbers(name: str, value: Any) -> list[int]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list of note ids, not {shown(value)}")
    return [_note_number(f"{name}[{place}]", item) for place, item in enumerate(value)]


def _note_number(name: str, value: Any) -> int:
    """Return the number of a note by its id, which may be text."""
    number = text_id_number(value) if isinstance(value, str) else plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise ValueError(f"{name} must be the id of a note, not {shown(value)}")
    return number


def _row(place: str, values: Mapping[str, Any]) -> AnswerRow:
    question_id, query = _question(values)
    raw, notes, cited = _text(values, "answer"), _note_list(values, "notes"), _note_list(values, "citations")
    numbered = cited if notes is None else notes
    answer, n_lost = raw, 0
    if raw and cited and not cited_numbers(raw):
        numbered = list(dict.fromkeys([*(notes or []), *cited]))
        numbers = [numbered.index(note) + 1 for note in dict.fromkeys(cited)]
        answer, n_lost = raw + _markers(numbers), _n_beyond(numbers)
    return AnswerRow(place, question_id, query, answer, raw, notes, numbered, n_lost)


def _trec_row(place: str, values: Mapping[str, Any]) -> AnswerRow:
    """Parse a line of the TREC RAG track: sentences with the places of their citations in `references`, from 0."""
    question_id, query = _question(values)
    references = values.get("references")
    notes = None if references is None else _numbers("references", references)
    sentences = [_sentence(number, item, references or []) for number, item in enumerate(values["answer"])]
    raw, answer = _joined(sentences)
    n_lost = sum(_n_beyond(numbers) for _, numbers in sentences)
    return AnswerRow(place, question_id, query, answer, raw, notes, notes, n_lost)


def _sentence(number: int, item: Any, references: Sequence[Any]) -> tuple[str, list[int]]:
    """Return a sentence without markers, and the numbers that it cites: from 1, each once."""
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise ValueError(f"answer[{number}] must be an object with text and citations, not {shown(item)}")
    text, citations = clean(item["text"]), item.get("citations") or []
    if not isinstance(citations, list | dict):
        raise ValueError(f"answer[{number}] citations must be a list, not {shown(citations)}")
    numbers = []
    for citation in citations:
        is_place = isinstance(citation, int) and not isinstance(citation, bool) and 0 <= citation < len(references)
        if not is_place and citation not in references:
            raise ValueError(f"answer[{number}] cites {shown(citation)}, which is not a place in references")
        numbers.append(1 + (citation if is_place else references.index(citation)))
    return (strip_markup(text) if cited_numbers(text) else text).strip(), list(dict.fromkeys(numbers))


def _n_beyond(numbers: Iterable[int]) -> int:
    return sum(number > HIGHEST_NUMBER for number in numbers)


def _markers(numbers: Iterable[int]) -> str:
    return "".join(f"[{number}]" for number in numbers if number <= HIGHEST_NUMBER)


def _joined(sentences: Sequence[tuple[str, list[int]]]) -> tuple[str, str]:
    """Join sentences into a text, and into one with a marker after each citation.

    A line break keeps two sentences apart that would run together, or any two if a marker could not be read otherwise.
    """
    texts = [text for text, _ in sentences]
    breaks = ["\n" if _run_together(*pair) else "" for pair in pairwise(texts)]
    expected = [number for _, numbers in sentences for number in numbers if number <= HIGHEST_NUMBER]
    raw = marked = ""
    for between in (breaks, ["\n"] * len(breaks)):
        ends = [*between, ""]
        raw = "".join(f"{text}{end}" for text, end in zip(texts, ends, strict=False))
        marked = "".join(f"{text}{_markers(of)}{end}" for (text, of), end in zip(sentences, ends, strict=False))
        if cited_numbers(marked) == expected:
            break
    return raw, marked


def _run_together(before: str, after: str) -> bool:
    """Return whether two sentences run together, for a reader or a tokenizer, without something between them."""
    return not _END_OF_SENTENCE.search(before) or (before[-1:].isascii() and after[:1].isascii())
