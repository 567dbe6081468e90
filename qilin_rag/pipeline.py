"""The main job: retrieve -> prompt -> generate -> score, into a run directory that can be resumed at any point."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import random
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.answering import Progress, Retrieved, System, answer, pending_questions, retrieve, third_party
from qilin_rag.config import RunConfig, cache_dir
from qilin_rag.cost import Clock, calls_s, cost_of
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.errors import FailedSamplesError, UsageError
from qilin_rag.llms import LLM, FatalLLMError
from qilin_rag.llms.cache import ResponseCache
from qilin_rag.llms.servers import engine_of, serving
from qilin_rag.prompts import load_prompt
from qilin_rag.registry import LLMS, RETRIEVERS
from qilin_rag.retrievers import IndexedRetriever, Retriever
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.retrieval import Retrieval
from qilin_rag.scoring import build_scorers, prepare, score_directory, summarise_metric, usable_scorers
from qilin_rag.store import Manifest, RunDirectory, write_text
from qilin_rag.text import slug
from qilin_rag.trec import format_trec
from qilin_rag.types import MetricSummary, Question, Summary, Times

logger = logging.getLogger(__name__)

FINGERPRINT_VERSION = 1
RECORDED_PACKAGES = (
    "qilin-rag",
    "bm25s",
    "ir-measures",
    "langchain",
    "langchain-core",
    "numpy",
    "openai",
    "rapidfuzz",
    "rjieba",
    "torch",
    "transformers",
)


class Run(NamedTuple):
    """A finished run: where it is, and its figures."""

    directory: RunDirectory
    manifest: Manifest
    summary: Summary


class Index(NamedTuple):
    """An index that was written: the folder, how many notes it is of, and its size on disk."""

    path: Path
    n_notes: int
    n_bytes: int


def run(config: RunConfig, progress: Progress | None = None) -> Run:
    """Do one run, or what is left of it: questions that already have an answer on disk are not asked again.

    All configuration is checked, and the server asked whether it is there, before the first expensive step.
    Questions that failed are counted in the summary; `check_failures` says whether they are too many.
    """
    clock = Clock()
    scorers = build_scorers(config.metrics)
    prompt = load_prompt(config.prompt)
    retriever = RETRIEVERS.create(config.retriever.name, config.retriever.settings)
    llm = LLMS.create(config.llm.name, config.llm.settings)
    for scorer in scorers:
        if isinstance(scorer, Retrieval) and scorer.k > config.top_k and not retriever.ignores_k:
            logger.warning("figures at %d are of the %d notes that --top-k gives", scorer.k, config.top_k)
    server, unreachable = _check(llm, config)
    dataset = load_dataset(config.data, config.answers, config.references)
    questions = select_questions(dataset.questions, config)
    config, scorers, left_out = _complete_metrics(config, scorers)
    cache = ResponseCache(cache_dir() / "responses.sqlite", ask_again=config.fresh) if config.cache else None
    system = System(
        retriever, dataset.notes, prompt, llm, config.top_k, config.missing_notes, config.concurrency, cache
    )
    identity = _identity(dataset, system, config)
    directory = RunDirectory(config.runs_dir / _name(config, dataset, _fingerprint(identity)))
    with directory.locked(), clock.kept_by(directory):
        earlier = _earlier_manifest(directory, identity)
        manifest = _manifest(config, dataset, system, questions, identity, server)
        finished = {} if config.fresh else directory.read_samples()[0]
        pending = pending_questions(questions, finished)
        if pending and unreachable:
            raise unreachable
        with clock.stage("retrieval"):
            found = retrieve(retriever, dataset.notes, pending, config.top_k, config.missing_notes) if pending else []
        manifest = _continued(manifest, earlier, is_asking=bool(pending))
        times = Times() if earlier is None or config.fresh else earlier.times
        is_done = earlier is not None and earlier.state == "complete" and not pending  # scoring again takes no time
        begun = times if is_done else clock.begin(times, asks=bool(pending))
        manifest = manifest.model_copy(update={"times": begun})
        is_serving = config.serve and bool(pending)
        log = directory.path / "server.log"
        with serving(llm, config.llm_label, log) if is_serving else nullcontext(llm) as live:
            if is_serving:
                manifest = manifest.model_copy(update={"server": live.check()})
            if earlier is None or pending or earlier.question_set_sha256 != manifest.question_set_sha256:
                directory.write_manifest(manifest)  # incomplete, until all is scored
                clock.is_on_record = not is_done
                if config.fresh and (aside := directory.set_aside_samples()):
                    logger.info("the earlier samples are kept in %s", aside)
                directory.write_questions(questions)
            if pending:
                jobs = list(zip(pending, found, strict=True))
                with clock.stage("generation"):
                    _answer_pending(system._replace(llm=live), questions, jobs, directory, progress)
        finished, lines = directory.read_samples()
        with clock.stage("scoring"):
            summary = score_directory(directory, finished, lines, scorers, config.seed)
        cost = cost_of(summary, llm.price)
        took = {"generation_s": calls_s(lines), "times": times if is_done else clock.end(), "cost": cost}
        manifest = manifest.model_copy(update={"state": "complete", "updated": _now(), **took})
        directory.write_manifest(manifest)
    _say_left_out(left_out, directory)
    return Run(directory, manifest, summary)


def _answer_pending(
    system: System,
    questions: Sequence[Question],
    pending: Sequence[tuple[Question, Retrieved]],
    directory: RunDirectory,
    progress: Progress | None,
) -> None:
    """Answer what is left of these questions; scores of what is asked again are forgotten first."""
    n_done = len(questions) - len(pending)
    if n_done:
        logger.info("%d of %d questions are already answered in %s", n_done, len(questions), directory.path)
    directory.discard_scores({question.id for question, _ in pending})
    if progress:
        progress.start("answering", len(questions), n_done)
    answer(system, pending, directory, progress)


def check_failures(finished: Run, fail_on_error: float) -> None:
    """FailedSamplesError if more questions failed than allowed: a share of all below 1, else a number."""
    failed, total = finished.summary.counts["failed"], finished.summary.counts["questions"]
    if failed > (fail_on_error * total if fail_on_error < 1 else fail_on_error):
        raise FailedSamplesError(
            f"{failed} of {total} questions failed (--fail-on-error {fail_on_error:g}); the same command asks those "
            f"again; the reasons: qilin-rag show {finished.directory.path}"
        )


def score_run(path: Path, metrics: Mapping[str, Mapping[str, Any]], optional_metrics: Sequence[str] = ()) -> Run:
    """Score a finished run with these metrics from what it has on disk; no LLM is called.

    `optional_metrics` are left out where they can't be used as things stand. Scores by other metrics stay as they are.
    """
    scorers = build_scorers(metrics)
    directory = RunDirectory(path)
    directory.read_manifest()
    with directory.locked():
        manifest = directory.read_manifest()
        if manifest.state != "complete":
            raise UsageError(f"{path} is {manifest.state}; finish it with the command that began it, then score")
        more, left_out = usable_scorers(optional_metrics)
        finished, lines = directory.read_samples()
        scored = score_directory(directory, finished, lines, [*scorers, *more.values()], manifest.seed)
    _say_left_out(left_out, directory)
    return Run(directory, manifest, scored)


def retrieve_only(config: RunConfig, out: Path) -> dict[str, MetricSummary]:
    """The first stage alone: write the hits of the run's questions to a TREC file, and sum up how good they are."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out {str(out)!r} must be a file in a folder that is there")
    retriever = RETRIEVERS.create(config.retriever.name, config.retriever.settings)
    dataset = load_dataset(config.data, config.answers, config.references)
    questions = select_questions(dataset.questions, config)
    found = retrieve(retriever, dataset.notes, questions, config.top_k, config.missing_notes)
    rankings = [hits for hits, _ in found]
    tag = _retriever_label(config, retriever)
    write_text(out, format_trec(zip((question.id for question in questions), rankings, strict=True), tag))
    figures: dict[str, MetricSummary] = {}
    for k in sorted({min(5, config.top_k), config.top_k}):
        scorer = Retrieval(k=k)
        scores = scorer.score_hits(rankings, questions)
        for metric, signature in scorer.signatures().items():
            signed = [score.model_copy(update={"signature": signature}) for score in scores if score.metric == metric]
            figures[metric] = summarise_metric(signed, config.seed)
    return figures


def build_index(config: RunConfig, out: Path) -> Index:
    """Index the run's notes for its retriever into the folder `out`, which `--set retriever.index=` then names."""
    retriever = RETRIEVERS.create(config.retriever.name, config.retriever.settings)
    if not isinstance(retriever, IndexedRetriever):
        raise UsageError(f"retriever {config.retriever.name} has no index to build; bm25 and biencoder have one")
    notes = load_dataset(config.data).notes
    with third_party(f"retriever {retriever.class_path()}"):
        retriever.write_index(notes, out)
    return Index(out, len(notes), sum(path.stat().st_size for path in out.iterdir()))


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


def _complete_metrics(config: RunConfig, scorers: Sequence[Scorer]) -> tuple[RunConfig, list[Scorer], dict[str, str]]:
    """Make the scorers ready, and decide on the optional metrics: the manifest names those that are scored.

    Last come the metrics that are left out, and why.
    """
    prepare(scorers)
    more, left_out = usable_scorers(config.optional_metrics)
    metrics = config.metrics | {name: {} for name in more}
    return config.model_copy(update={"metrics": metrics, "optional_metrics": []}), [*scorers, *more.values()], left_out


def _say_left_out(left_out: Mapping[str, str], directory: RunDirectory) -> None:
    for metric, why in left_out.items():
        again = f"qilin-rag score {directory.path} --metrics {metric}"
        logger.info("%s is left out: %s; to add it later: %s", metric, why, again)


def _named_questions(questions: Iterable[Question], path: Path) -> list[Question]:
    try:
        wanted = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--ids {path} can't be read: {error}") from error
    by_id = {question.id: question for question in questions}
    unknown = [question_id for question_id in wanted if question_id not in by_id]
    if unknown:
        raise UsageError(f"--ids {path}: no question {unknown[0]!r} ({len(unknown)} of {len(wanted)} ids are unknown)")
    if not wanted:
        raise UsageError(f"--ids {path} names no question")
    return [by_id[question_id] for question_id in dict.fromkeys(wanted)]


def _check(llm: LLM, config: RunConfig) -> tuple[dict[str, Any], FatalLLMError | None]:
    """What the server says of itself, before the data is read.

    Its absence matters only where questions are left to ask: it is raised at once, unless a run of this name may
    turn out to be finished.
    """
    try:
        with third_party(f"llm {llm.class_path()}"):
            if config.serve:  # the server itself comes last, when all else is known to be right
                engine_of(llm, config.llm_label).installed_version()
                return {}, None
            return llm.check(), None
    except FatalLLMError as error:
        names = f"*-{slug(config.llm_label)}-{slug(Path(config.prompt).stem)}-*/samples.jsonl"
        if next(config.runs_dir.glob(names), None) is None:
            raise
        return {}, error


def _identity(dataset: Dataset, system: System, config: RunConfig) -> dict[str, Any]:
    """All that can change an answer; its hash is the fingerprint under which a run is found again."""
    engine = {"engine": engine_of(system.llm, config.llm_label).identity()} if config.serve else {}
    return {
        "fingerprint_version": FINGERPRINT_VERSION,
        "data": dataset.sha256,
        "retriever": system.retriever.identity(),
        "top_k": None if system.retriever.ignores_k else system.top_k,
        "missing_notes": system.missing_notes,
        "prompt": system.prompt.sha256,
        "llm": system.llm.identity(),
        **engine,
    }


def run_directory(config: RunConfig, dataset: Dataset, system: System) -> RunDirectory:
    """Where the run of this configuration is kept."""
    return RunDirectory(config.runs_dir / _name(config, dataset, _fingerprint(_identity(dataset, system, config))))


def _fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _name(config: RunConfig, dataset: Dataset, fingerprint: str) -> str:
    names = (dataset.name, RETRIEVERS.short_name(config.retriever.name), config.llm_label, Path(config.prompt).stem)
    return "-".join([*map(slug, names), fingerprint[:8]])


def _earlier_manifest(directory: RunDirectory, identity: dict[str, Any]) -> Manifest | None:
    """The manifest of the run that this one goes on with."""
    if not (directory.path / "manifest.json").exists():
        return None
    earlier = directory.read_manifest()
    if earlier.identity != identity:
        raise UsageError(f"{directory.path} belongs to another configuration; write elsewhere with --runs-dir")
    return earlier


def _continued(manifest: Manifest, earlier: Manifest | None, is_asking: bool) -> Manifest:
    """The manifest with what stays of the earlier one: when it began, and where its answers come from."""
    if earlier is None:
        return manifest
    kept = ["started"] if is_asking else ["started", "packages", "python", "git_commit", "server"]
    return manifest.model_copy(update={name: getattr(earlier, name) for name in kept})


def _manifest(
    config: RunConfig,
    dataset: Dataset,
    system: System,
    questions: Sequence[Question],
    identity: dict[str, Any],
    server: dict[str, Any],
) -> Manifest:
    effective = {
        "retriever": {"name": config.retriever.name, "settings": system.retriever.model_dump(mode="json")},
        "llm": {"name": config.llm.name, "settings": system.llm.model_dump(mode="json")},
    }
    return Manifest(
        state="incomplete",
        fingerprint=_fingerprint(identity),
        identity=identity,
        config=config.model_dump(mode="json") | effective,
        data={"label": dataset.label, "sha256": dataset.sha256, "n_notes": len(dataset.notes)},
        prompt={"name": system.prompt.name, "version": system.prompt.version, "sha256": system.prompt.sha256},
        question_set_sha256=hash_questions(questions),
        n_questions=len(questions),
        seed=config.seed,
        labels={
            "data": dataset.label,
            "retriever": _retriever_label(config, system.retriever),
            "llm": _describe(config.llm_label, system.llm.changed(config.llm_preset)),
            "prompt": system.prompt.name,
        },
        packages={name: found for name in RECORDED_PACKAGES if (found := _installed(name))},
        python=platform.python_version(),
        git_commit=_git_commit(),
        server=server,
        started=_now(),
        updated=_now(),
    )


def _retriever_label(config: RunConfig, retriever: Retriever) -> str:
    return _describe(config.retriever.name, retriever.changed(RETRIEVERS.implied(config.retriever.name)))


def _describe(name: str, changes: Mapping[str, Any]) -> str:
    """A component's name, with the settings that tell it apart from what the name alone means."""
    return " ".join([name, *(f"{key}={value}" for key, value in changes.items())])


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
