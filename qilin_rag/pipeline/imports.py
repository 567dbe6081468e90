"""Turn the answers of another system into a run: scored, compared, judged and reported like any other.

What only that system knows (LLM, prompt, tokens, seconds, and the notes it found unless they come with the answers) is
unknown in the run, never 0 and never a default. All questions of the data are in it: one without an answer is `failed`.
What of the answers does not fit the data is counted, said, and kept in the manifest.
"""

from __future__ import annotations

import logging
import platform
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.directories import find_directory
from qilin_rag.core.environment import git_commit, installed_packages, now
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.text import clean, counted, printable, query_key
from qilin_rag.core.trec import trec_id
from qilin_rag.core.types import Hit, Question, QuestionDefects, Sample
from qilin_rag.data import Dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.pipeline.cost import cost_of
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.identity import FINGERPRINT_VERSION, earlier_manifest
from qilin_rag.pipeline.import_record import UNKNOWN, ImportRecord, ImportRemark, ImportSettings
from qilin_rag.pipeline.import_rows import AnswerRow, Rows, read_rows
from qilin_rag.pipeline.note_names import write_note_names
from qilin_rag.pipeline.run import say_left_out
from qilin_rag.pipeline.run_directory import MANIFEST, SAMPLES, Manifest, RunDirectory
from qilin_rag.pipeline.score_lists import sample_of
from qilin_rag.pipeline.scoring import check_names, load_models, score_directory, scorers_for, usable_scorers
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared

logger = logging.getLogger(__name__)
VERSION = 1
"""The version of the conversion; raise it when the same file comes to mean other samples."""
_LONGEST_NAME = 60
_SHOWN_CHARS = 40


class _Remarks:
    """Counts what does not fit the data, by what it is, with the first of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, what: str, first: str, n: int = 1) -> None:
        """Count `n` more; `what` stands after their number."""
        if n:
            self._counts[what] += n
            self._first.setdefault(what, clean(first))

    def all(self) -> list[ImportRemark]:
        """Return what was counted, in order of appearance."""
        return [ImportRemark(n=n, what=what, first=self._first[what]) for what, n in self._counts.items()]


class _Ready(NamedTuple):
    """An import of which everything was checked before something is written."""

    config: RunConfig
    dataset: Dataset
    questions: list[Question]
    defects: QuestionDefects
    left_out: dict[str, str]


def import_answers(
    answers: str | Path | Iterable[Mapping[str, Any]] | Any,
    *,
    name: str,
    data: str | Path | None = None,
    runs_dir: str | Path = "runs",
    metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    selection: str | None = None,
    references: str | None = None,
    settings: Sequence[str] = (),
    limit: int | None = None,
    seed: int | None = None,
) -> Run:
    """Make a run of the answers that another system gave to the questions of a data set.

    The same answers under the same name find their run again, and score it again.

    Args:
        answers: The path of a file (JSONL, JSON, CSV, TSV, or answers of the TREC RAG track), a list of mappings, or
            a DataFrame. A row has `question_id` or `query`, `answer`, and if they are known `note_ids`, best first, and
            `citations`, the ids of the notes that the answer cites. `docs/how-to/score-answers-you-have.md` has further
            names.
        name: What the system is called in tables.
        data: `sample`, `sample-images`, a folder, or `hub:OWNER/NAME`. Default: $QILIN_RAG_DATA, else `sample`.
        runs_dir: The folder of runs.
        metrics: As of a run. Default: rouge_l, and bertscore if its model is there.
        selection: Which answers of the data make a question. Default: engaged.
        references: Whether the answers to the same query are references as well (`query`). Default: own.
        settings: Settings of metrics, as `metrics.rouge_l.tokens=word`.
        limit: The number of questions, those that a run with this limit and seed asks; answers to others are left out.
            Default: all.
        seed: The seed for drawing them, and of the intervals. Default: 0.

    Returns:
        The run: its directory, manifest (`imported.remarks`: what did not fit the data), and summary.

    Raises:
        UsageError: The answers can't be read, none of them is to a question of the data, or a metric can't be used.

    Example:
        >>> import qilin_rag as qr
        >>> from qilin_rag.data import load_dataset
        >>> rows = [{"question_id": each.id, "answer": each.references[0]} for each in load_dataset("sample").questions]
        >>> qr.import_answers(rows, name="our-product", metrics="rouge_l").metrics["rouge_l"].value
        1.0
    """
    _check_name(name)
    if other := next((setting for setting in settings if not setting.startswith("metrics.")), None):
        raise UsageError(f"settings {other!r}: an import only takes metrics.NAME.KEY=VALUE")
    rows = read_rows(answers)
    named: dict[str, Any] = {"answers": selection, "references": references, "limit": limit, "seed": seed}
    named |= {"metrics": metrics, "runs_dir": Path(runs_dir)}
    ready = _prepare({"data": None if data is None else str(data), **named}, settings)
    config, dataset, questions = ready.config, ready.dataset, ready.questions
    remarks = _Remarks()
    of_questions = _match(rows, dataset.askable, dataset.label, remarks)
    of_questions = {question.id: of_questions[question.id] for question in questions if question.id in of_questions}
    samples = _samples(questions, of_questions, dataset, remarks)
    record = ImportRecord(name=name, sha256=rows.sha256, source=rows.source, rows=len(rows.rows), remarks=remarks.all())
    if rows.unread:
        logger.info("not read: %s", ", ".join(f"{column:.40}" for column in rows.unread))
    for remark in record.remarks:
        logger.warning("%s", remark)
    manifest = _manifest(ready, samples, record)
    names = (dataset.name, "imported", name)
    directory = RunDirectory(find_directory(config.runs_dir, names, manifest.identity, MANIFEST))
    with directory.locked():
        earlier = _earlier(directory, manifest)
        if earlier is None:
            directory.write_manifest(manifest)  # incomplete, until all is scored
            directory.write_questions(questions)
            write_text(directory.path / SAMPLES, "".join(f"{sample.model_dump_json()}\n" for sample in samples))
            write_note_names(directory.path, dataset.notes, questions, samples)
        its_scorers = scorers_for(manifest, config.metrics.values())
        summary = score_directory(directory, its_scorers, config.seed).summary
        if earlier is None:
            done = {"state": "complete", "updated": now(), "cost": cost_of(summary, None)}
            manifest = manifest.model_copy(update=done)
            directory.write_manifest(manifest)
    say_left_out(ready.left_out, directory.path)
    return Run(directory, earlier or manifest, summary)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME or printable(clean(name)) != name or not name.isprintable():
        raise UsageError(
            f"name {ascii(name)[:_SHOWN_CHARS]}: give the system a name of 1 to {_LONGEST_NAME} characters that can "
            "be printed"
        )


def _prepare(flags: Mapping[str, Any], settings: Sequence[str]) -> _Ready:
    """Resolve the configuration, open the data, and load what scoring needs."""
    config = resolve_run(flags, settings, with_prompt=False)
    check_names(config.metrics.values())
    shared = Shared()
    dataset = shared.dataset(config)
    questions = select_questions(dataset.askable, config.limit, config.seed)
    defects = shared.count_defects(config, questions)
    load_models(config.metrics.values())
    more, left_out = usable_scorers(config.optional_metrics)
    config = config.model_copy(update={"metrics": config.metrics | more, "optional_metrics": []})
    return _Ready(config, dataset, questions, defects, left_out)


def _match(rows: Rows, questions: Sequence[Question], label: str, remarks: _Remarks) -> dict[str, AnswerRow]:
    """Match answers and questions by id, or by query if a row has no id."""
    by_id = {trec_id(question.id): question for question in questions}
    by_id |= {question.id: question for question in questions}
    found: dict[str, AnswerRow] = {}
    of_query: dict[str, list[AnswerRow]] = defaultdict(list)
    asked = {query_key(question.query) for question in questions}
    n_known, unlike = 0, []
    for row in rows.rows:
        if row.question_id is None:
            of_query[query_key(row.query or "")].append(row)
            continue
        question = by_id.get(row.question_id) or by_id.get(_bare(row.question_id))
        if row.call and _is_of_another(row, question, asked):
            of_query[query_key(row.query or "")].append(row)
            continue
        if question is None:
            remarks.add("answers to questions that the data does not have", _named(row))
            continue
        n_known += 1
        if row.query is not None and query_key(row.query) != query_key(question.query):
            unlike.append(row)
            remarks.add("answers that come with another query than the question of their id", _named(row))
        _assign(found, question, row, remarks)
    _match_queries(of_query, questions, found, remarks)
    of_all = counted(len(rows.rows), "answer")
    if not found:
        raise UsageError(
            f"none of {of_all} is to a question of data {label!r}; the first: {_named(rows.rows[0])}; name the data of "
            "these answers"
        )
    if unlike and len(unlike) == n_known:
        raise UsageError(
            f"of {of_all}, all with a known id come with another query than data {label!r} has for it; the first: "
            f"{_named(unlike[0])}; name the data of these answers, or leave the queries out"
        )
    return found


def _is_of_another(row: AnswerRow, question: Question | None, asked: Collection[str]) -> bool:
    """Return whether the id is that of a tool: it names no question, or one with another query than the data has."""
    key = query_key(row.query or "")
    return key in asked and (question is None or query_key(question.query) != key)


def _match_queries(
    rows: Mapping[str, list[AnswerRow]], questions: Sequence[Question], found: dict[str, AnswerRow], remarks: _Remarks
) -> None:
    """Assign the answers to each query: the k-th to the k-th question that asks it.

    Questions left over get the first, since the system was asked the same.
    """
    asking: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        asking[query_key(question.query)].append(question)
    for key, given in rows.items():
        asked = asking.get(key, [])
        for place, question in enumerate(asked):
            _assign(found, question, given[place if place < len(given) else 0], remarks)
        for row in given[len(asked) :]:
            remarks.add(_TWICE if asked else "answers to queries that the data does not have", _named(row))
        for question in asked[len(given) :]:
            remarks.add("questions that share the answer to their query with another one", repr(question.id))


_TWICE = "further answers to a question, of which the first counts"


def _assign(found: dict[str, AnswerRow], question: Question, row: AnswerRow, remarks: _Remarks) -> None:
    if question.id in found:
        remarks.add(_TWICE, _named(row))
    else:
        found[question.id] = row


def _bare(question_id: str) -> str:
    """Strip from an id what tables add to it: white space, and the .0 of a column with missing values."""
    bare = question_id.strip()
    return bare.removesuffix(".0") if bare.removesuffix(".0").isdecimal() else bare


def _named(row: AnswerRow) -> str:
    """Name a row for people: its question and its place."""
    asked = row.query if row.question_id is None else row.question_id
    return f"{(asked or '')[:_SHOWN_CHARS]!r} ({row.place})"


def _samples(
    questions: Sequence[Question], rows: Mapping[str, AnswerRow], dataset: Dataset, remarks: _Remarks
) -> list[Sample]:
    """Make a sample for each question, in their order."""
    named = {note for row in rows.values() for note in (*(row.notes or ()), *(row.numbered or ()))}
    missing = set(dataset.notes.missing(sorted(named)))
    samples = []
    for question in questions:
        if (row := rows.get(question.id)) is None:
            remarks.add("questions without an answer, which count as failed", repr(question.id))
            samples.append(sample_of(question, None, "no answer was imported"))
            continue
        call = row.call.fields(row.answer or "") if row.call else {}
        sample = sample_of(question, row.answer or "", "", **{"raw": row.raw or "", **_of_notes(row, missing), **call})
        if not sample.is_answered and "status" not in call:
            remarks.add("empty answers", _named(row))
        lost = [note for note in row.notes or () if note in missing]
        remarks.add("notes that the data does not have", f"{lost[0]} of {_named(row)}" if lost else "", len(lost))
        n_again = len(row.notes or ()) - len(set(row.notes or ()))
        remarks.add("notes named again for a question, of which the better rank counts", _named(row), n_again)
        remarks.add("citations with a number above 99, which no marker can have", _named(row), row.n_citations_lost)
        samples.append(sample)
    return samples


def _of_notes(row: AnswerRow, missing: set[int]) -> dict[str, Any]:
    """Return the fields of a sample about notes. If the scores of hits are unknown, n notes score n, n - 1, ..., 1."""
    if row.notes is None:
        return {"prompt_notes": row.numbered}
    distinct = list(dict.fromkeys(row.notes))
    there = [note for note in distinct if note not in missing]
    scores = _known_scores(row)
    hits = [
        Hit(note_idx=note, score=scores.get(note, float(len(there) - place)), rank=place + 1)
        for place, note in enumerate(there)
    ]
    return {
        "hits": hits,
        "notes_given": len(hits),
        "notes_missing": len(distinct) - len(there),
        "prompt_notes": row.numbered,
    }


def _known_scores(row: AnswerRow) -> dict[int, float]:
    """Return the score of each note, if the file has them and they fall with the ranks."""
    notes, scores = row.notes or [], (row.call and row.call.note_scores) or []
    falls = all(high >= low for high, low in pairwise(scores))
    return dict(zip(notes, scores, strict=True)) if len(set(notes)) == len(scores) == len(notes) and falls else {}


def _manifest(ready: _Ready, samples: Sequence[Sample], record: ImportRecord) -> Manifest:
    """Make the manifest of an import that begins now."""
    config, dataset, questions, defects, *_ = ready
    most_notes = max(len(sample.hits) + sample.notes_missing for sample in samples)
    system = {"kind": "import", "name": record.name, "version": VERSION, "sha256": record.sha256}
    identity = {
        "fingerprint_version": FINGERPRINT_VERSION,
        "data": dataset.sha256,
        "retriever": system,
        "llm": system,
        "top_k": most_notes or None,
    }
    if len(questions) < len(dataset.askable):
        identity["questions"] = hash_questions(questions)
    settings = ImportSettings(
        data=config.data,
        answers=config.answers,
        references=config.references,
        llm_label=record.name,
        top_k=most_notes or None,
        metrics={name: scorer.named().settings for name, scorer in config.metrics.items()},
        seed=config.seed,
        limit=config.limit,
    )
    return Manifest(
        state="incomplete",
        fingerprint=fingerprint(identity),
        identity=identity,
        config=settings.model_dump(mode="json"),
        data={"label": dataset.label, "sha256": dataset.sha256, "n_notes": len(dataset.notes)},
        data_defects=defects,
        prompt={"name": UNKNOWN},
        question_set_sha256=hash_questions(questions),
        n_questions=len(questions),
        seed=config.seed,
        labels={
            "data": dataset.label,
            "retriever": UNKNOWN,
            "llm": f"{record.name} (imported)",
            "prompt": UNKNOWN,
        },
        packages=installed_packages(),
        python=platform.python_version(),
        git_commit=git_commit(),
        server={},
        started=now(),
        updated=now(),
        generation_s=None,
        times=None,
        imported=record,
    )


def _earlier(directory: RunDirectory, manifest: Manifest) -> Manifest | None:
    """Return the manifest of a complete earlier import of the same answers; None if there is none."""
    earlier = earlier_manifest(directory, manifest.identity)
    if earlier is None or earlier.state != "complete":
        return None
    try:
        directory.read_samples_of(directory.read_questions())
    except UsageError:
        return None
    return earlier
