"""Collect what the report shows: an index that the page needs at once, and packed blocks that it opens on demand.

A page of 20 runs x 2,932 questions holds some hundred megabytes of prompts and answers. So it is in packed blocks,
of three kinds: the scores of one run, the answers of one run, or the prompts of a few questions for all runs. Runs with
the same prompt share it. A prompt is stored as its lines, each once for each block: the notes that runs share are
stored once, whatever the template. A server sends the same, one run or question at a time: `columns_of`, `answers_of`,
`question_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Hit, Judgement, Note, Question, Sample, Score, Usage
from qilin_rag.data import NoteStore
from qilin_rag.pipeline.cost import Tally
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.run_notes import open_data
from qilin_rag.reports import finding
from qilin_rag.reports.cells import ResultTable
from qilin_rag.reports.judged import judgements_of_runs
from qilin_rag.reports.judged_parts import NO_PARTS, JudgedParts, read_judged_parts
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.noise import noise_of
from qilin_rag.reports.overview import STATUSES, directories_of, index_of, metrics_of, table_of
from qilin_rag.reports.packing import pack
from qilin_rag.reports.thumbnails import Album, ImageMode, NoteThumbnails, open_thumbnails, with_counts

QUESTIONS_PER_BLOCK = 32


class Contents(NamedTuple):
    """All data of a page.

    Attributes:
        overview: Its index.
        blocks: The blocks by name.
        album: The images of notes.
    """

    overview: dict[str, Any]
    blocks: dict[str, str]
    album: Album = Album("none")

    def remarks(self) -> list[str]:
        """Return what is to be said of the images of notes."""
        why = dict.fromkeys(table["why_no_images"] for table in self.overview["tables"] if table["why_no_images"])
        return [*why, *self.album.remarks()]


class QuestionInRun(NamedTuple):
    """A run's part in one question.

    Attributes:
        sample: its hits, prompt and answer.
        scores: one for each metric of `metrics_of`; None if the run has no such figure.
        is_cut: whether the server read only a part of the prompt (`Tally.is_cut`).
        judgements: of judges, from `judgements_of`.
        parts: into which judges took the answer apart, from `read_judged_parts`.
    """

    sample: Sample
    scores: Sequence[Score | None]
    is_cut: bool = False
    judgements: Sequence[Judgement] = ()
    parts: JudgedParts = NO_PARTS


class _Sent(NamedTuple):
    """The request of a run for one question: pairs of note and score, and of role and lines."""

    hits: tuple[tuple[int, float | None], ...]
    messages: tuple[tuple[str, tuple[str, ...]], ...]


class _Requests:
    """The requests of all runs; what is equal in several of them is one object in memory."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._requests: dict[_Sent, _Sent] = {}

    def of(self, sample: Sample) -> _Sent:
        """Return the request of a sample."""
        lines = self._lines
        messages = (
            (message["role"], tuple(lines.setdefault(line, line) for line in message["content"].split("\n")))
            for message in sample.messages
        )
        request = _Sent(tuple(_hits(sample.hits)), tuple(messages))
        return self._requests.setdefault(request, request)


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


def collect(paths: Sequence[Path], images: ImageMode | None = None, images_folder: str = "") -> Contents:
    """Collect everything about these runs, in one table for each set of questions, as the leaderboard does.

    Args:
        paths: The run directories.
        images: How the page shows the images of notes; None embeds them if a run sent images.
        images_folder: The name of the folder beside the page for the images that it links to.
    """
    tables, blocks = [], {}
    album = Album(images or "embed", images_folder)
    for number, board in enumerate(leaderboard_of(paths)):
        table, packed = _table(board, directories_of(board, paths), images, album)
        tables.append(table)
        blocks.update({f"t{number}-{name}": block for name, block in packed})
    first = dict(sorted(blocks.items(), key=lambda block: "-columns" not in block[0]))  # what the page opens first
    return Contents({**index_of(tables), "questions_per_block": QUESTIONS_PER_BLOCK}, first, album)


def _table(
    board: ResultTable, directories: Mapping[str, RunDirectory], images: ImageMode | None, album: Album
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the part of the index and the blocks of one set of questions."""
    manifests = {name: directory.read_manifest() for name, directory in directories.items()}
    questions = next(iter(directories.values())).read_questions()
    metrics = metrics_of(board)
    asked: list[list[_Sent]] = []
    requests = _Requests()
    judged = judgements_of_runs(list(directories.values()), {question.id for question in questions})
    blocks = []
    for number, directory in enumerate(directories.values()):
        samples = list(directory.read_samples_of(questions).values())
        scores = scores_of(directory.read_scores(), questions, metrics)
        taken, said = Tally(samples), judged[directory.path]
        parts = read_judged_parts(directory.path, samples)
        told = [
            _told(QuestionInRun(sample, row, taken.is_cut(sample), said.get(name, []), parts.get(name, NO_PARTS)))
            for name, sample, row in zip((question.id for question in questions), samples, scores, strict=True)
        ]
        blocks.append((f"columns{number}", pack(columns_of(samples, scores))))
        blocks.append((f"run{number}", pack(told)))
        asked.append(list(map(requests.of, samples)))
    dataset, why_no_notes = open_data(manifests.values())
    thumbnails, why_no_images = (
        (None, "") if images == "none" else open_thumbnails(dataset, manifests.values(), is_asked=images is not None)
    )
    notes = dataset.notes if dataset else None
    for start in range(0, len(questions), QUESTIONS_PER_BLOCK):
        part = slice(start, start + QUESTIONS_PER_BLOCK)
        content = _part(questions[part], [of_run[part] for of_run in asked], notes)
        if thumbnails:
            _add_images(content, thumbnails, album)
        blocks.append((f"part{start // QUESTIONS_PER_BLOCK}", pack(content)))
    noise = noise_of(directories, manifests, {question.id: question for question in questions})
    return table_of(board, manifests, questions, why_no_notes, noise, why_no_images), blocks


def scores_of(
    scores: Iterable[Score], questions: Sequence[Question], metrics: Sequence[tuple[str, str]]
) -> list[list[Score | None]]:
    """Arrange a run's scores as a row for each question and a column for each metric; None if there is no such score.

    Args:
        scores: of one run.
        questions: in the order of the page.
        metrics: from `metrics_of`.

    Returns:
        The rows; `columns_of` and `QuestionInRun` take them.
    """
    known = {(score.question_id, score.metric, score.signature): score for score in scores}
    return [[known.get((question.id, *metric)) for metric in metrics] for question in questions]


def columns_of(samples: Iterable[Sample], scores: Sequence[Sequence[Score | None]]) -> dict[str, Any]:
    """Return a run's statuses and scores, which the list of questions shows.

    Args:
        samples: one for each question, in the order of the page.
        scores: from `scores_of`.

    Returns:
        `statuses`, a digit for each question: its place in the index's list of statuses; and `scores`, a list for each
        metric with a number or null for each question.
    """
    return {
        "statuses": "".join(str(STATUSES.index(sample.status)) for sample in samples),
        "scores": [[score and _rounded(score.value) for score in column] for column in zip(*scores, strict=True)],
    }


def answers_of(samples: Iterable[Sample]) -> list[str]:
    """Return the texts that a search in the answers of a run looks through, in the order of the page."""
    return [sample.answer for sample in samples]


def question_of(
    question: Question,
    answered: Sequence[QuestionInRun],
    notes: NoteStore | None,
    thumbnails: NoteThumbnails | None = None,
) -> dict[str, Any]:
    """Return everything that the page shows of one question.

    Args:
        question: the question.
        answered: what each chosen run has about it.
        notes: from `open_notes`; None if their texts are not known.
        thumbnails: the images of the notes; None shows none.

    Returns:
        `references`, `reference_notes` (their numbers), `notes` by number (`title`, `text`, `name`, and `images`, an
        empty entry for each), and `runs`, for each chosen one `hits` (pairs of note and score), `messages` (pairs of
        role and text) and `told`.
    """
    shown = _notes_of([question], [hit.note_idx for one in answered for hit in one.sample.hits], notes)
    return {
        "references": question.references,
        "reference_notes": question.reference_notes,
        "notes": with_counts(
            {note.note_idx: {"title": note.title, "text": note.content, "name": name} for note, name in shown.values()},
            thumbnails,
        ),
        "runs": [
            {
                "hits": _hits(one.sample.hits),
                "messages": [[message["role"], message["content"]] for message in one.sample.messages],
                "told": _told(one),
            }
            for one in answered
        ],
    }


def _told(answered: QuestionInRun) -> dict[str, Any]:
    """Return what the block of a run says about one question, without what is usual."""
    sample = answered.sample
    facts = sample.model_dump(
        mode="json",
        exclude={"question_id", "query", "status", "hits", "messages", "raw", "usage", "short_count", "images"},
        exclude_defaults=True,
    )
    if sample.images:
        facts["n_images"] = len(sample.images)
    if sample.raw != sample.answer:
        facts["raw"] = sample.raw
    if sample.usage != Usage():
        facts["usage"] = sample.usage.model_dump(mode="json")
    if answered.is_cut:
        facts["prompt_cut"] = True
    reasons = [score.reason if score else None for score in answered.scores]
    if any(reasons):
        facts["reasons"] = reasons
    if answered.judgements:
        facts["judgements"] = [
            {"judge": judgement.judge, "runs": judgement.runs, "text": judgement.answer or judgement.error or ""}
            for judgement in answered.judgements
        ]
    if parts := answered.parts.as_json():
        facts["parts"] = parts
    return facts


def _part(questions: Sequence[Question], asked: Sequence[Sequence[_Sent]], notes: NoteStore | None) -> dict[str, Any]:
    """Return a block of questions: references, requests and whose they are, notes, and the lines of all texts."""
    lines: dict[str, int] = {}

    def numbered(text: Iterable[str]) -> list[int]:
        return [lines.setdefault(line, len(lines)) for line in text]

    rows = []
    for question, of_question in zip(questions, zip(*asked, strict=True), strict=True):
        distinct = {request: number for number, request in enumerate(dict.fromkeys(of_question))}
        rows.append(
            {
                "references": question.references,
                "reference_notes": question.reference_notes,
                "requests": [
                    {"hits": one.hits, "messages": [[role, numbered(text)] for role, text in one.messages]}
                    for one in distinct
                ],
                "runs": [distinct[request] for request in of_question],
            }
        )
    hits = {note_idx for of_run in asked for one in of_run for note_idx, _ in one.hits}
    shown = {
        note_idx: [note.title, numbered(note.content.split("\n")), *filter(None, [name])]
        for note_idx, (note, name) in _notes_of(questions, hits, notes).items()
    }
    return {"questions": rows, "notes": shown, "lines": list(lines)}


def _add_images(part: dict[str, Any], thumbnails: NoteThumbnails, album: Album) -> None:
    """Add to a block the images of its notes; a question beyond the limits of the album is marked."""
    images: dict[int, list[dict[str, str]]] = {}
    for row in part["questions"]:
        hits = [note_idx for request in row["requests"] for note_idx, _ in request["hits"]]
        if not album.add(images, [*row["reference_notes"], *hits], thumbnails):
            row["images_left_out"] = True
    part["images"] = images


def _notes_of(
    questions: Sequence[Question], hits: Iterable[int], notes: NoteStore | None
) -> dict[int, tuple[Note, str | None]]:
    """Return the notes that these questions refer to and that were hit, with the names that they have in text ids."""
    if notes is None:
        return {}
    wanted = {*hits, *(note_idx for question in questions for note_idx in question.reference_notes)}
    there = sorted(wanted - set(notes.missing(sorted(wanted))))
    names = notes.text_ids(there)
    return {note.note_idx: (note, names.get(note.note_idx)) for note in notes.get(there)}


def _hits(hits: Iterable[Hit]) -> list[tuple[int, float | None]]:
    return [(hit.note_idx, _rounded(hit.score)) for hit in hits]


def _rounded(value: float | None) -> float | None:
    """Round to four decimals, which are shown; more would fill megabytes."""
    return None if value is None else round(value, 4)
