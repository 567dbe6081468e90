"""Collect what the report shows: an index that the page needs at once, and packed blocks that it opens on demand.

A page of 20 runs x 2,932 questions holds some hundred megabytes of prompts and answers. So a block is gzip in base64,
in one of two kinds: the answers of one run, or the parts of the prompts of a few questions for all runs. A prompt is
stored as its lines, each once for each block: the notes that runs share are stored once, whatever the template.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qilin_rag import __version__
from qilin_rag.core.citation_markers import BETWEEN_MARKERS, MARKER, RANGE, WIDEST_RANGE, WRAPPER
from qilin_rag.core.environment import now
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.text import EMPHASIS, LOOKS_ALIKE, clean
from qilin_rag.core.types import Hit, Judgement, Message, Question, Sample, Status, Usage
from qilin_rag.data import NoteStore, load_dataset
from qilin_rag.pipeline.cost import Tally
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.reports import finding
from qilin_rag.reports.cells import Block, Cell, ResultTable, Spending
from qilin_rag.reports.formats import is_best, marks, marks_of
from qilin_rag.reports.judged import judgements_of_runs
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.side_tables import judged_by, judged_rows
from qilin_rag.scorers.retrieval import is_about_hits
from qilin_rag.scorers.summary import MARKS

STATUSES = get_args(Status)
QUESTIONS_PER_BLOCK = 32


class Contents(NamedTuple):
    """All data of a page: the overview, its index, and the blocks by name."""

    overview: dict[str, Any]
    blocks: dict[str, str]


class _Sent(NamedTuple):
    """The request of a run for one question."""

    hits: list[Hit]
    messages: list[tuple[str, list[str]]]


def find_runs(runs: Iterable[Path], runs_dirs: Sequence[Path]) -> list[Path]:
    """Return the named runs, which must be complete, and those in these folders, without duplicates."""
    found = []
    for path in runs:
        RunDirectory(path).read_complete()
        found.append(path)
    for folder in runs_dirs:
        if not (inside := finding.find_runs([folder]) if folder.is_dir() else []):
            raise UsageError(f"{folder} is not a folder of runs; begin with: qilin-rag run")
        found += inside
    return list({path.resolve(): path for path in found}.values())


def collect(paths: Sequence[Path]) -> Contents:
    """Collect everything about these runs, in one table for each set of questions, as the leaderboard does."""
    named = {path.name: path for path in paths} | {str(path): path for path in paths}  # the names of the leaderboard
    tables, blocks = [], {}
    for number, board in enumerate(leaderboard_of(paths)):
        directories = {spending.run: RunDirectory(named[spending.run]) for spending in board.spending}
        table, packed = _table(board, directories)
        tables.append(table)
        blocks.update({f"t{number}-{name}": block for name, block in packed})
    index = {
        "version": __version__,
        "made": now(),
        "statuses": STATUSES,
        "doubts": MARKS,
        "markup": {
            "emphasis": EMPHASIS.pattern,
            "markers": [MARKER, WRAPPER, WRAPPER, BETWEEN_MARKERS],
            "range": RANGE,
            "widestRange": WIDEST_RANGE,
            "alike": LOOKS_ALIKE,
        },
        "questions_per_block": QUESTIONS_PER_BLOCK,
        "tables": tables,
    }
    return Contents(index, blocks)


def _table(board: ResultTable, directories: Mapping[str, RunDirectory]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the part of the index and the blocks of one set of questions."""
    manifests = {name: directory.read_manifest() for name, directory in directories.items()}
    questions = next(iter(directories.values())).read_questions()
    metrics = [metric for block in board.blocks for metric in _metrics_of(block)]
    asked: list[list[_Sent]] = []
    lines: dict[str, str] = {}
    figures = _figures(board, directories)
    judged = judgements_of_runs(list(directories.values()), {question.id for question in questions})
    runs, blocks = [], []
    for spending in _as_on_the_board(board):
        directory = directories[spending.run]
        ordered = list(directory.read_samples_of(questions).values())
        scores = {(score.question_id, score.metric, score.signature): score for score in directory.read_scores()}
        columns = [[scores.get((question.id, *metric)) for question in questions] for metric in metrics]
        runs.append(
            {
                **spending.model_dump(mode="json"),
                "prompt": manifests[spending.run].labels["prompt"],
                "figures": figures[spending.run],
                "statuses": "".join(str(STATUSES.index(sample.status)) for sample in ordered),
                "scores": [[score and _rounded(score.value) for score in column] for column in columns],
            }
        )
        reasons = [[score.reason if score else None for score in row] for row in zip(*columns, strict=True)]
        taken = Tally(ordered)
        told = [
            _told(sample, why, taken.is_cut(sample), judged[directory.path].get(sample.question_id, []))
            for sample, why in zip(ordered, reasons or [[]] * len(ordered), strict=True)
        ]
        blocks.append((f"run{len(asked)}", _packed(told)))
        asked.append(
            [_Sent(sample.hits, [_shared(message, lines) for message in sample.messages]) for sample in ordered]
        )
    notes, why_no_notes = _open_notes(manifests.values())
    for start in range(0, len(questions), QUESTIONS_PER_BLOCK):
        part = slice(start, start + QUESTIONS_PER_BLOCK)
        content = _part(questions[part], [of_run[part] for of_run in asked], notes)
        blocks.append((f"part{start // QUESTIONS_PER_BLOCK}", _packed(content)))
    table = {
        "data": board.data,
        "metrics": [
            {"name": name, "signature": signature, "of_hits": is_about_hits(signature)} for name, signature in metrics
        ],
        "retrieval": [
            {"retriever": row, "figures": list(map(_shown, cells))}
            for block in board.blocks
            if block.signatures
            for row, cells in zip(block.rows, block.cells, strict=True)
        ],
        "judged": [{"by": judged_by(each), "rows": judged_rows(each)} for each in board.judged],
        "legend": marks(board.model_copy(update={"judged": []})),
        "runs": runs,
        "notes": board.notes,
        "why_no_notes": why_no_notes,
        "ids": [question.id for question in questions],
        "queries": [question.query for question in questions],
    }
    return table, blocks


def _as_on_the_board(board: ResultTable) -> list[Spending]:
    """Return what each run used, in the order of the leaderboard's rows and columns."""
    order = [
        run for block in board.blocks for row in block.cells for cell in row if cell for run in (cell.run, *cell.also)
    ]
    places = {run: place for place, run in enumerate(dict.fromkeys(order))}
    return sorted(board.spending, key=lambda spending: places.get(spending.run, len(places)))


def _metrics_of(block: Block) -> list[tuple[str, str]]:
    """Return the metrics of a block with their signatures."""
    if block.signatures:
        return list(zip(block.columns, block.signatures, strict=True))
    return [(block.metric, block.signature)]


def _figures(board: ResultTable, names: Iterable[str]) -> dict[str, list[dict[str, Any] | None]]:
    """Return each run's figures by metric, as on the leaderboard.

    A run in several rows has the marks of a row only if they are the same in all.
    """
    found: dict[str, list[Cell | None]] = {name: [] for name in names}
    for block in board.blocks:
        of_run: dict[tuple[str, int], Cell] = {}
        for row in block.cells:
            for place, cell in enumerate(row):
                if cell is None:
                    continue
                for run in (cell.run, *cell.also):
                    if run is None:
                        continue
                    at = (run, place if block.signatures else 0)
                    same = of_run.get(at, cell)
                    is_one = marks_of(same) == marks_of(cell)
                    of_run[at] = cell if is_one else cell.model_copy(update={"in_row": None, "over_none": None})
        for name, cells in found.items():
            cells += [of_run.get((name, place)) for place in range(len(_metrics_of(block)))]
    return {name: list(map(_shown, cells)) for name, cells in found.items()}


def _shown(cell: Cell | None) -> dict[str, Any] | None:
    """Return a figure with its marks, in the form of the page."""
    if cell is None:
        return None
    figures = cell.model_dump(mode="json", exclude={"run", "also"}, exclude_defaults=True)
    return {"value": cell.value, "n": cell.n, **figures, "marks": marks_of(cell), "is_best": is_best(cell)}


def _told(
    sample: Sample, reasons: Sequence[str | None], is_cut: bool, judgements: Sequence[Judgement]
) -> dict[str, Any]:
    """Return what the block of a run says about one question, without what is usual."""
    facts = sample.model_dump(
        mode="json",
        exclude={"question_id", "query", "status", "hits", "messages", "raw", "usage", "short_count"},
        exclude_defaults=True,
    )
    if sample.raw != sample.answer:
        facts["raw"] = sample.raw
    if sample.usage != Usage():
        facts["usage"] = sample.usage.model_dump(mode="json")
    if is_cut:
        facts["prompt_cut"] = True
    if any(reasons):
        facts["reasons"] = reasons
    if judgements:
        facts["judgements"] = [
            {"judge": judgement.judge, "runs": judgement.runs, "text": judgement.answer or judgement.error or ""}
            for judgement in judgements
        ]
    return facts


def _shared(message: Message, lines: dict[str, str]) -> tuple[str, list[str]]:
    """Return role and lines of a message; equal lines of all runs share one string in memory."""
    return message["role"], [lines.setdefault(line, line) for line in message["content"].split("\n")]


def _open_notes(manifests: Iterable[Manifest]) -> tuple[NoteStore | None, str]:
    """Open the notes that these runs are about, if their data still exists unchanged; else return why not."""
    why = ""
    seen = []
    for manifest in manifests:
        data, answers, references = (manifest.config[name] for name in ("data", "answers", "references"))
        if (data, answers, references) in seen:
            continue
        seen.append((data, answers, references))
        try:
            dataset = load_dataset(data, answers, references, fetch=False)
            if dataset.sha256 == manifest.data["sha256"]:
                return dataset.notes, ""
            why = f"data {data!r} has changed since the run"
        except QilinError as error:
            why = " ".join(str(error).split())
    return None, why


def _part(questions: Sequence[Question], asked: Sequence[Sequence[_Sent]], notes: NoteStore | None) -> dict[str, Any]:
    """Return a block of questions: references, each run's hits and messages, notes, and the lines of all texts."""
    lines: dict[str, int] = {}

    def numbered(text: Iterable[str]) -> list[int]:
        return [lines.setdefault(line, len(lines)) for line in text]

    rows = [
        {
            "references": question.references,
            "reference_notes": question.reference_notes,
            "runs": [
                {
                    "hits": [[hit.note_idx, _rounded(hit.score)] for hit in one.hits],
                    "messages": [[role, numbered(text)] for role, text in one.messages],
                }
                for one in of_question
            ],
        }
        for question, of_question in zip(questions, zip(*asked, strict=True), strict=True)
    ]
    shown: dict[int, list[Any]] = {}
    if notes is not None:
        wanted = {hit.note_idx for of_run in asked for one in of_run for hit in one.hits}
        wanted.update(note_idx for question in questions for note_idx in question.reference_notes)
        there = sorted(wanted - set(notes.missing(sorted(wanted))))
        names = notes.text_ids(there)
        shown = {
            note.note_idx: [note.title, numbered(note.content.split("\n")), *filter(None, [names.get(note.note_idx)])]
            for note in notes.get(there)
        }
    return {"questions": rows, "notes": shown, "lines": list(lines)}


def _rounded(value: float | None) -> float | None:
    """Round to four decimals, which are shown; more would fill megabytes."""
    return None if value is None else round(value, 4)


def _packed(content: object) -> str:
    text = clean(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
