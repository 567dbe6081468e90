"""The main job: retrieve -> prompt -> generate -> score, into a run directory that can be resumed at any point."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import platform
import random
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qilin_rag.config import RunConfig
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.errors import FailedSamplesError, QilinError, UsageError
from qilin_rag.llms import LLM, LLMError
from qilin_rag.prompts import Prompt, PromptTooLongError, load_prompt
from qilin_rag.registry import LLMS, RETRIEVERS, SCORERS
from qilin_rag.retrievers import Retriever
from qilin_rag.scorers import Scorer
from qilin_rag.store import Manifest, RunDirectory
from qilin_rag.summary import summarise
from qilin_rag.text import clean, slug
from qilin_rag.types import Hit, Question, Sample, Score, Status, Summary

logger = logging.getLogger(__name__)

FINGERPRINT_VERSION = 1
RETRIEVAL_SCORER = "retrieval"
RECORDED_PACKAGES = ("qilin-rag", "bm25s", "ir-measures", "numpy", "openai", "rapidfuzz", "rjieba")


class Progress(Protocol):
    """Told how far a stage is; the command line draws a bar of it."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins."""
        ...

    def advance(self, failed: bool = False) -> None:
        """One more is done."""
        ...


class Silent:
    """Progress nobody watches."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Nothing."""

    def advance(self, failed: bool = False) -> None:
        """Nothing."""


class Run(NamedTuple):
    """A finished run: where it is, and its figures."""

    directory: RunDirectory
    manifest: Manifest
    summary: Summary


class _Parts(NamedTuple):
    """What a configuration stands for, built and checked."""

    dataset: Dataset
    retriever: Retriever
    prompt: Prompt
    llm: LLM
    scorers: list[Scorer]
    questions: list[Question]


def run(config: RunConfig, progress: Progress | None = None) -> Run:
    """Do one run, or what is left of it: questions that already have an answer on disk are not asked again.

    All configuration is checked, and the server asked whether it is there, before the first expensive step.
    Questions that failed are counted in the summary; `check_failures` says whether they are too many.
    """
    progress = progress or Silent()
    parts = _build(config)
    identity = _identity(config, parts)
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    server = parts.llm.check()
    directory = RunDirectory(_path(config, parts.dataset, fingerprint))
    with directory.locked():
        if config.fresh and (aside := directory.set_aside_samples()):
            logger.info("the earlier samples are kept in %s", aside)
        directory.write_questions(parts.questions)
        manifest = _manifest(config, parts, identity, fingerprint, server, directory)
        directory.write_manifest(manifest)
        try:
            _answer_pending(config, parts, directory, progress)
        finally:
            _, lines = directory.read_samples()
            manifest = manifest.model_copy(
                update={
                    "state": "incomplete",
                    "updated": _now(),
                    "generation_s": round(sum(line.latency_s for line in lines), 3),
                }
            )
            directory.write_manifest(manifest)
        summary = _score(directory, parts.scorers, config.seed)
        manifest = manifest.model_copy(update={"state": "complete"})
        directory.write_manifest(manifest)
    return Run(directory, manifest, summary)


def check_failures(finished: Run, fail_on_error: float) -> None:
    """FailedSamplesError if more questions failed than allowed: a share of all below 1, else a number."""
    failed, total = finished.summary.counts["failed"], finished.summary.counts["questions"]
    allowed = math.floor(fail_on_error * total) if fail_on_error < 1 else int(fail_on_error)
    if failed > allowed:
        raise FailedSamplesError(
            f"{failed} of {total} questions failed (allowed: {allowed}); the same command asks those again; "
            f"the reasons: qilin-rag show {finished.directory.path}"
        )


def score_run(path: Path, metrics: Mapping[str, Mapping[str, Any]], seed: int = 0) -> Run:
    """Score a finished run with these metrics (and the retrieval figures) from what it has on disk; no model is called.

    Scores of other metrics stay as they are.
    """
    directory = RunDirectory(path)
    manifest = directory.read_manifest()
    if manifest.state != "complete":
        raise UsageError(f"{path} is {manifest.state}; finish it with the command that began it, then score")
    with directory.locked():
        return Run(directory, manifest, _score(directory, build_scorers(metrics), seed))


def build_scorers(metrics: Mapping[str, Mapping[str, Any]]) -> list[Scorer]:
    """The named scorers, and the retrieval figures, which come with every run."""
    return [SCORERS.create(name, settings) for name, settings in {RETRIEVAL_SCORER: {}, **metrics}.items()]


def select_questions(questions: Sequence[Question], config: RunConfig) -> list[Question]:
    """The questions of a run: those named in `ids`, then the first `limit` of a seeded permutation.

    A larger limit takes the same questions and more, so it extends a run.
    """
    chosen = list(questions)
    if config.ids is not None:
        chosen = _named_questions(chosen, config.ids)
    if config.limit is not None:
        random.Random(config.seed).shuffle(chosen)
        chosen = chosen[: config.limit]
    return chosen


def _named_questions(questions: Iterable[Question], path: Path) -> list[Question]:
    try:
        wanted = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--ids {path} can't be read: {error}") from error
    by_id = {question.id: question for question in questions}
    unknown = [question_id for question_id in wanted if question_id not in by_id]
    if unknown:
        raise UsageError(f"--ids {path}: no question {unknown[0]!r} ({len(unknown)} of {len(wanted)} ids are unknown)")
    if not wanted:
        raise UsageError(f"--ids {path} names no question")
    return [by_id[question_id] for question_id in dict.fromkeys(wanted)]


def _build(config: RunConfig) -> _Parts:
    scorers = build_scorers(config.metrics)
    prompt = load_prompt(config.prompt)
    retriever = RETRIEVERS.create(config.retriever.name, config.retriever.settings)
    llm = LLMS.create(config.llm.name, config.llm.settings)
    dataset = load_dataset(config.data)
    return _Parts(dataset, retriever, prompt, llm, scorers, select_questions(dataset.questions, config))


def _identity(config: RunConfig, parts: _Parts) -> dict[str, Any]:
    """All that can change an answer; its hash is the fingerprint under which a run is found again."""
    return {
        "fingerprint_version": FINGERPRINT_VERSION,
        "data": parts.dataset.sha256,
        "retriever": parts.retriever.identity(),
        "top_k": config.top_k,
        "prompt": parts.prompt.sha256,
        "llm": parts.llm.identity(),
    }


def _path(config: RunConfig, dataset: Dataset, fingerprint: str) -> Path:
    names = (dataset.name, config.retriever.name, config.llm_label, Path(config.prompt).stem)
    return config.runs_dir / "-".join([*map(slug, names), fingerprint[:8]])


def _manifest(
    config: RunConfig,
    parts: _Parts,
    identity: dict[str, Any],
    fingerprint: str,
    server: dict[str, Any],
    directory: RunDirectory,
) -> Manifest:
    started = _now()
    if (directory.path / "manifest.json").exists():
        earlier = directory.read_manifest()
        if earlier.fingerprint != fingerprint:
            raise UsageError(f"{directory.path} belongs to another configuration ({earlier.fingerprint[:16]})")
        started = earlier.started
    effective = {
        "retriever": {"name": config.retriever.name, "settings": parts.retriever.model_dump(mode="json")},
        "llm": {"name": config.llm.name, "settings": parts.llm.model_dump(mode="json")},
    }
    details = _describe(parts.retriever.changed())
    return Manifest(
        state="running",
        fingerprint=fingerprint,
        identity=identity,
        config=config.model_dump(mode="json") | effective,
        data={"label": parts.dataset.label, "sha256": parts.dataset.sha256, "n_notes": len(parts.dataset.notes)},
        prompt={"name": parts.prompt.name, "version": parts.prompt.version, "sha256": parts.prompt.sha256},
        question_set_sha256=hash_questions(parts.questions),
        n_questions=len(parts.questions),
        labels={
            "data": parts.dataset.label,
            "retriever": f"{config.retriever.name} {details}".strip(),
            "llm": config.llm_label,
            "prompt": parts.prompt.name,
        },
        packages={name: found for name in RECORDED_PACKAGES if (found := _installed(name))},
        python=platform.python_version(),
        git_commit=_git_commit(),
        server=server,
        started=started,
        updated=_now(),
    )


def _describe(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this program runs from; None for an installed package."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _answer_pending(config: RunConfig, parts: _Parts, directory: RunDirectory, progress: Progress) -> None:
    """Retrieve for and answer every question that has no finished line yet."""
    finished, _ = directory.read_samples()
    pending = [
        question
        for question in parts.questions
        if question.id not in finished or finished[question.id].status == "failed"
    ]
    n_done = len(parts.questions) - len(pending)
    if n_done:
        logger.info("%d of %d questions are already answered in %s", n_done, len(parts.questions), directory.path)
    if not pending:
        return
    directory.discard_scores()  # they don't speak of what is answered now
    hits = parts.retriever.search(pending, parts.dataset.notes, config.top_k)
    progress.start("answering", len(parts.questions), n_done)
    with directory.samples_writer() as writer:

        def finish(sample: Sample) -> None:
            writer.write(sample)
            progress.advance(failed=sample.status == "failed")

        asyncio.run(_answer_all(parts, list(zip(pending, hits, strict=True)), config.concurrency, finish))


async def _answer_all(parts: _Parts, jobs: Sequence[tuple[Question, list[Hit]]], concurrency: int, finish: Any) -> None:
    """Answer all jobs, `concurrency` at a time; each sample is handed on the moment it is done."""
    queue = iter(jobs)

    async def worker() -> None:
        for question, hits in queue:
            finish(await _answer(parts, question, hits))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(jobs))):
                group.create_task(worker())
    except* QilinError as errors:
        raise _first(errors) from None
    except* OSError as errors:
        raise _first(errors) from None
    finally:
        await parts.llm.close()


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def _answer(parts: _Parts, question: Question, hits: list[Hit]) -> Sample:
    """One question through prompt and LLM; what can't be answered becomes a failed sample with the reason."""
    sample: dict[str, Any] = {
        "question_id": question.id,
        "query": question.query,
        "hits": hits,
        "notes_given": len(hits),
        "notes_used": 0,
        "messages": [],
        "answer": "",
        "raw": "",
    }
    notes = parts.dataset.notes.get([hit.note_idx for hit in hits])
    try:
        prompt = parts.prompt.render(question.query, notes, parts.llm.prompt_budget)
        sample |= {"messages": prompt.messages, "notes_used": len(prompt.notes)}
        completion = await parts.llm.generate(prompt)
    except (LLMError, PromptTooLongError) as error:
        return Sample(**sample, status="failed", error=clean(str(error)))
    except QilinError:
        raise
    except Exception as error:  # an LLM of the user's own may raise anything; it costs this question only
        logger.debug("question %s", question.id, exc_info=True)
        return Sample(**sample, status="failed", error=clean(f"{type(error).__name__}: {error}"))
    statuses: dict[str, Status] = {"length": "truncated", "content_filter": "filtered"}
    return Sample(
        **sample
        | {
            "answer": clean(completion.text),
            "raw": clean(completion.raw),
            "finish_reason": completion.finish_reason,
            "usage": completion.usage,
            "latency_s": completion.latency_s,
        },
        status=statuses.get(completion.finish_reason, "ok"),
    )


def _score(directory: RunDirectory, scorers: Sequence[Scorer], seed: int) -> Summary:
    """Score the samples of a run's questions, and write run.trec, scores.jsonl and summary.json."""
    questions = directory.read_questions()
    by_id, lines = directory.read_samples()
    unanswered = [question.id for question in questions if question.id not in by_id]
    if unanswered:
        raise UsageError(f"{directory.path}: {len(unanswered)} questions have no sample yet; run it again to go on")
    samples = [by_id[question.id] for question in questions]
    scores: list[Score] = []
    signatures: dict[str, str] = {}
    for scorer in scorers:
        signatures |= scorer.signatures()
        scores += scorer.score(samples, questions)
    kept, kept_signatures = _kept_scores(directory, questions, signatures)
    scores = kept + scores
    summary = summarise(samples, lines, scores, kept_signatures | signatures, seed)
    directory.write_trec_run(samples, tag=directory.path.name)
    directory.write_scores(scores)
    directory.write_summary(summary)
    return summary


def _kept_scores(
    directory: RunDirectory, questions: Sequence[Question], rescored: Mapping[str, str]
) -> tuple[list[Score], dict[str, str]]:
    """Earlier scores of other metrics that cover all of the run's questions, and those metrics' signatures."""
    earlier = directory.earlier_signatures()
    wanted = {question.id for question in questions}
    scores = [score for score in directory.read_scores() if score.question_id in wanted]
    counts = Counter(score.metric for score in scores)
    kept = {
        metric: signature
        for metric, signature in earlier.items()
        if metric not in rescored and counts[metric] == len(questions)
    }
    return [score for score in scores if score.metric in kept], kept
