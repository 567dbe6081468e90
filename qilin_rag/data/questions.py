"""Questions from the table dqa: which answers count, and which answers are references."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted, is_blank, normalise, query_key
from qilin_rag.core.types import AnswerSelection, Question, ReferenceSelection
from qilin_rag.data.encodings import Batch, read_batches
from qilin_rag.data.schema import FEEDBACK, TABLES
from qilin_rag.data.text_files import Defect, stop

FLAGS: Mapping[AnswerSelection, tuple[str, ...]] = {
    "engaged": FEEDBACK,
    "liked": ("is_like_clk",),
    "content": ("is_content_clk",),
    "citation": ("is_onebox_trace_clk",),
    "experience": ("is_experience_clk",),
    "shown": (),
}
"""The feedback flags, one of which must be set; with an empty list, any answer that was shown counts."""

NO_ANSWER = ("", "-1")
"""The value of dqa_output if no answer was shown."""

RECORDED = {"bm25_results": "bm25", "dpr_results": "dpr"}
"""The name of each column of recorded results."""
_META = ("query_from_type", "session_idx", "user_idx", *FEEDBACK)
_COLUMNS = ("search_idx", "query", "dqa_output", "answers", "ref_note_idx_list", *RECORDED, *_META, "extra")


def read_questions(
    encoding: str, files: Sequence[Path], answers: AnswerSelection = "engaged", references: ReferenceSelection = "own"
) -> tuple[Question, ...]:
    """Return the rows whose answer users favoured, as questions.

    With `references="query"`, every such answer to the same query (normalised) is a reference, the row's own first.

    Raises:
        UsageError: if a row has a defect; the error names the first one.
    """
    questions: list[Question] = []
    places: dict[str, str] = {}
    n_rows = 0
    for path in files:
        for batch in read_batches(encoding, path, TABLES["dqa"], _COLUMNS):
            n_rows += len(batch.rows)
            for row, place in _selected(batch, answers):
                question = _question(row, path, place)
                if question.id in places:
                    stop(Defect(path, place, "search_idx", f"{question.id} is already on {places[question.id]}"))
                places[question.id] = place
                questions.append(question)
    if not questions:
        raise UsageError(
            f"{files[0]}: none of the {counted(n_rows, 'row')} has an answer for answers={answers} (--answers); "
            f"others: {', '.join(name for name in FLAGS if name != answers)}"
            if n_rows
            else f"{files[0]} holds no question"
        )
    return tuple(_share_references(questions) if references == "query" else questions)


def _selected(batch: Batch, answers: AnswerSelection) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows whose answer counts, as Python data with `answers` filled in, with their places."""
    columns = {
        name: batch.rows.column(name).to_pylist()
        for name in ("dqa_output", "answers")
        if name in batch.rows.schema.names
    }
    flags = [name for name in FLAGS[answers] if name in batch.rows.schema.names]
    has_feedback = bool(flags) or not FLAGS[answers]
    for i in range(len(batch.rows)):
        own_answers, output = (columns[name][i] if name in columns else None for name in ("answers", "dqa_output"))
        if own_answers is None and output is None and "dqa_output" not in columns:
            stop(Defect(batch.path, batch.place(i), "", "key 'answers' is missing"))
        if own_answers is None and (output or "").strip() in NO_ANSWER:
            continue
        if not has_feedback and (own_answers is None or answers != "engaged"):
            needed = " or ".join(FLAGS[answers])
            raise UsageError(
                f"{batch.path}: answers={answers} needs {needed}, which it lacks; try answers=shown (--answers shown)"
            )
        if flags and not any(batch.rows.column(name)[i].as_py() == 1 for name in flags):
            continue
        row = batch.rows.slice(i, 1).to_pylist()[0]
        yield row | {"answers": [output] if own_answers is None else own_answers}, batch.place(i)


def _question(row: dict[str, Any], path: Path, place: str) -> Question:
    def defect(column: str, problem: str) -> None:
        stop(Defect(path, place, column, problem))

    for name in ("search_idx", "query"):
        if row[name] is None:
            defect(name, "is missing")
    answers = row["answers"]
    if not answers or not all(answer and not is_blank(answer) for answer in answers):
        defect("answers", "must be a list of at least one text that is not empty")
    notes = row.get("ref_note_idx_list") or []
    if None in notes:
        defect("ref_note_idx_list", "holds a missing value")
    recorded = {}
    for column, name in RECORDED.items():
        if (pairs := row.get(column)) is not None:
            if problem := pairs_problem(pairs):
                defect(column, problem)
            recorded[name] = [(int(note_idx), score) for note_idx, score in pairs]
    extra = json.loads(row.get("extra") or "{}")
    return Question(
        id=row["search_idx"],
        query=row["query"],
        references=answers,
        reference_notes=list(dict.fromkeys(notes)),
        recorded=recorded,
        meta={name: row[name] for name in _META if row.get(name) is not None} | extra,
    )


def pairs_problem(pairs: Sequence[Sequence[float | None] | None]) -> str | None:
    """Return what is wrong with recorded results; empty if each is a note_idx and a score."""
    for i, pair in enumerate(pairs):
        if pair is None or len(pair) != 2 or None in pair:
            return f"[{i}] must be a pair of note_idx and score, not {pair}"
        if pair[0] is None or pair[0] < 0 or not float(pair[0]).is_integer():
            return f"[{i}] must begin with a whole number from 0, not {pair[0]}"
    return None


def _share_references(questions: Sequence[Question]) -> list[Question]:
    """Return each question with the answers to the same query as references.

    Its own answers come first; answers that read the same occur once.
    """
    by_query: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        by_query[query_key(question.query)] += question.references

    def shared(question: Question) -> list[str]:
        first_by_text: dict[str, str] = {}
        for reference in [*question.references, *by_query[query_key(question.query)]]:
            first_by_text.setdefault(normalise(reference), reference)
        return list(first_by_text.values())

    return [question.model_copy(update={"references": shared(question)}) for question in questions]
