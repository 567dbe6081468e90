"""The main job: retrieve -> prompt -> generate -> score, into a run directory that can be resumed at any point."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qilin_rag.config.run import RunConfig
from qilin_rag.core.cache import cache_dir, limit_bytes
from qilin_rag.core.environment import now
from qilin_rag.core.errors import FailedSamplesError, UsageError
from qilin_rag.core.files import check_out, write_text
from qilin_rag.core.progress import stage
from qilin_rag.core.registry import LLMS
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.tables import FIGURE_COLUMNS, as_frame, as_html, figure_cells
from qilin_rag.core.text import counted, slug
from qilin_rag.core.third_party import third_party
from qilin_rag.core.trec import format_trec
from qilin_rag.core.types import MetricSummary, Sample, Score, Summary, Times
from qilin_rag.data import load_dataset
from qilin_rag.llms import LLM, FatalLLMError
from qilin_rag.llms.cache import ResponseCache
from qilin_rag.llms.serving.server import engine_of, serving
from qilin_rag.pipeline.answering import Job, Retrieved, System, answer, calls_left, pending_questions
from qilin_rag.pipeline.asking import is_too_many, most_frequent_reason
from qilin_rag.pipeline.clock import Clock
from qilin_rag.pipeline.cost import calls_s, cost_of
from qilin_rag.pipeline.identity import (
    changed_note_settings,
    continued,
    earlier_manifest,
    new_manifest,
    retriever_label,
    run_directory,
    run_identity,
)
from qilin_rag.pipeline.note_names import write_note_names
from qilin_rag.pipeline.run_directory import REPEATS, Manifest, RunDirectory
from qilin_rag.pipeline.scoring import build_scorers, foresee, prepare, score_directory, scorers_for, usable_scorers
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared
from qilin_rag.prompts.answer import NoteForm, load_prompt
from qilin_rag.retrievers import IndexedRetriever
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.retrieval import Retrieval
from qilin_rag.scorers.summary import summarise_metrics

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A finished run: where it is, and its figures.

    `directory` reads its files, `manifest` says how it was made, and `summary` has its figures and what became of its
    questions.

    Example:
        >>> import qilin_rag as qr
        >>> finished = qr.run(metrics="rouge_l", limit=20)
        >>> finished.metrics["rouge_l"].n, finished.path.is_dir(), len(finished.to_frame())
        (20, True, 20)
    """

    directory: RunDirectory
    manifest: Manifest
    summary: Summary

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @property
    def metrics(self) -> dict[str, MetricSummary]:
        """Each figure by the name of its metric: `value`, `ci95`, `n`, `n_unscored`, `signature`."""
        return self.summary.metrics

    def to_frame(self) -> DataFrame:
        """Return the run as a pandas DataFrame with a row for each question, and a column for each metric.

        Ids of notes are lists, `note_ids` best first. A value is missing if the question is unscored.

        Raises:
            UsageError: pandas is not installed, or files of the run are gone.
        """
        questions = self.directory.read_questions()
        samples = self.directory.read_samples_of(questions)
        summary, all_scores = self.directory.read_figures()
        scores = self.directory.chosen_scores(all_scores, questions, summary.metrics)
        rows = []
        for question in questions:
            sample = samples[question.id]
            rows.append(
                {
                    "question_id": question.id,
                    "query": question.query,
                    "references": question.references,
                    "reference_note_ids": question.reference_notes,
                    "status": sample.status,
                    "answer": sample.answer,
                    "note_ids": [hit.note_idx for hit in sample.hits] if sample.has_known_hits else None,
                    "prompt_tokens": sample.usage.prompt_tokens,
                    "completion_tokens": sample.usage.completion_tokens,
                    "latency_s": sample.latency_s,
                    "error": sample.error,
                    **{metric: of[question.id].value for metric, of in scores.items()},
                }
            )
        return as_frame(rows, numbers={*scores, "latency_s"})

    def _repr_html_(self) -> str:
        """The figures as a table, for a notebook."""
        return as_html(FIGURE_COLUMNS, [figure_cells(name, of) for name, of in self.metrics.items()])


class Index(NamedTuple):
    """An index that was written: the folder, how many notes it is of, and its size on disk."""

    path: Path
    n_notes: int
    n_bytes: int


def run(config: RunConfig) -> Run:
    """Do one run, or what is left of it: questions that already have an answer on disk are not asked again.

    All configuration is checked, and the server asked whether it is there, before the first expensive step.
    Questions that failed are counted in the summary; `check_failures` says whether they are too many.
    """
    return do(Task(config, Shared()))


def do(task: Task) -> Run:
    """Do a run that was checked: ask what is left, score, and say what was left out."""
    with task.directory.locked():
        task.find_work()
        with (
            serving(task.llm, task.config.llm_label, task.server_log)
            if task.needs_server
            else nullcontext(task.llm) as llm
        ):
            task.ask(llm)
        finished = task.finish()
    say_left_out(task.left_out, finished.directory.path)
    return finished


class Task:
    """A run on its way: made (all is checked), `find_work`, `ask`, `finish`, the last three under the folder's lock.

    Apart, so that the runs of a sweep can share one server, and be scored when it no longer holds the GPU.
    """

    def __init__(self, config: RunConfig, shared: Shared) -> None:
        """Check everything that can be checked before something is spent."""
        limit_bytes()
        metrics = repr([config.metrics, config.optional_metrics])
        scorers = shared.once(("named metrics", metrics), lambda: build_scorers(config.metrics))
        prompt = load_prompt(config.prompt)
        retriever, self._reranker = shared.retriever(config), shared.reranker(config)
        for scorer in scorers:
            if isinstance(scorer, Retrieval) and (scorer.k or 0) > config.top_k and not retriever.ignores_k:
                shared.warn(f"figures at {scorer.k} will be unscored: top_k gives {config.top_k} notes a question")
        chosen_llm = ("llm", config.llm.model_dump_json(), config.llm_label, config.serve)
        self.llm, self._server, self._unreachable = shared.once(chosen_llm, lambda: _checked_llm(config))
        self._dataset = shared.dataset(config)
        self.questions = select_questions(self._dataset.askable, config)
        self._defects = shared.count_defects(config, self.questions)
        more, self.left_out = shared.once(("metrics", metrics), lambda: _make_ready(scorers, config))
        self._scorers = [scorer.for_run(config.top_k, retriever.ignores_k) for scorer in [*scorers, *more.values()]]
        chosen = config.metrics | {name: {} for name in more}
        self.config = config.model_copy(update={"metrics": chosen, "optional_metrics": []})
        self._shared = shared
        asks_again = config.fresh or config.repeat > 1
        cache = ResponseCache(cache_dir() / "responses.sqlite", asks_again) if config.cache else None
        notes = self._dataset.notes
        self._system = System(
            retriever,
            notes,
            prompt,
            self.llm,
            config.top_k,
            config.missing_notes,
            config.concurrency,
            NoteForm.of(config),
            cache,
        )
        self.identity = run_identity(self._dataset, self._system, config, self._reranker)
        self.directory = run_directory(config, self._dataset, self._system, self._reranker)
        self._clock = Clock()
        self._jobs: list[Job] = []
        self._n_repeats_left = 0

    @property
    def label(self) -> str:
        """What tells this run apart from others, for people."""
        second = [] if self._reranker is None else [self._reranker.name]
        labels = (self.config.retriever.name, *second, self.config.llm_label)
        of_notes = changed_note_settings(self.config)
        notes = "".join(f", {name}={value}" for name, value in of_notes.items() if name != "seed")
        return f"{' + '.join(labels)}, prompt {self.config.prompt}, top {self.config.top_k}{notes}"

    @property
    def server_log(self) -> Path:
        """Where the log of a server for this run goes."""
        return self.directory.path / "server.log"

    @property
    def needs_server(self) -> bool:
        """Whether a server has to be started for what is left to ask."""
        return self.config.serve and self.is_asking

    @property
    def is_asking(self) -> bool:
        """Whether anything is left to ask."""
        return bool(self._jobs) or self._n_repeats_left > 0

    def join(self, same: Task) -> None:
        """Score by the metrics of another task of the same run as well: its figures at another k."""
        known = {metric for scorer in self._scorers for metric in scorer.signatures()}
        self._scorers += [scorer for scorer in same._scorers if not known.intersection(scorer.signatures())]

    def find_work(self) -> None:
        """Read what is done, and retrieve for the questions that are left."""
        config = self.config
        self._earlier = earlier_manifest(self.directory, self.identity)
        finished = {} if config.fresh else self.directory.read_samples()[0]
        pending = pending_questions(self.questions, finished)
        repeats = {} if config.fresh else self._repeats_left(finished)
        self._n_repeats_left = (config.repeat - 1) * len(pending) + sum(repeats.values())
        if self._unreachable and (pending or self._n_repeats_left):
            raise self._unreachable
        with self._clock.stage("retrieval"):
            found = self._shared.retrieve(config, pending)
        self._jobs = [Job(*pair) for pair in zip(pending, found, strict=True)]

    def ask(self, llm: LLM, label: str = "") -> None:
        """Ask what is left, of `llm`: the run's own, or the same with a server around it.

        `label` stands before the stage in the progress.
        """
        with self._clock.kept_by(self.directory):
            self._ask(llm, label)

    def _ask(self, llm: LLM, label: str) -> None:
        server = llm.check() if llm is not self.llm else self._server
        manifest = new_manifest(
            self.config,
            self._dataset,
            self._system,
            self.questions,
            self._defects,
            self.identity,
            server,
            self._reranker,
        )
        self._manifest = continued(manifest, self._earlier, self.is_asking)
        is_other_set = self._earlier is None or self._earlier.question_set_sha256 != self._manifest.question_set_sha256
        times = Times() if self._earlier is None or self.config.fresh else self._earlier.times or Times()
        is_done = self._earlier is not None and self._earlier.state == "complete" and not self.is_asking
        self._times = times if is_done else None  # scoring again takes no time
        begun = times if is_done else self._clock.begin(times, asks=self.is_asking)
        self._manifest = self._manifest.model_copy(update={"times": begun})
        if self.is_asking or is_other_set:
            self.directory.write_manifest(self._manifest)  # incomplete, until all is scored
            if self.config.fresh and (aside := self.directory.set_aside_samples()):
                logger.info("the earlier samples are kept in %s", aside)
            self.directory.write_questions(self.questions)
        if self.is_asking:
            with self._clock.stage("generation"):
                self._answer(self._system._replace(llm=llm), label)

    def _answer(self, system: System, label: str) -> None:
        if self._jobs:
            n_done = len(self.questions) - len(self._jobs)
            if n_done:
                what = (n_done, len(self.questions), self.directory.path)
                logger.info("%d of %d questions are already answered in %s", *what)
            self.directory.discard_scores({job.question.id for job in self._jobs})
            with stage(f"{label}answering", len(self.questions), n_done) as advance:
                answer(system, self._jobs, self.directory, advance)
        if self.config.repeat > 1:
            self._repeat(system._replace(cache=None), label)

    def _repeat(self, system: System, label: str) -> None:
        """Ask again what was answered, with the notes it was asked with."""
        finished, _ = self.directory.read_samples()
        left = self._repeats_left(finished)
        times = [question for question in self.questions for _ in range(left.get(question.id, 0))]
        jobs = [Job(question, Retrieved(finished[question.id].hits)) for question in times]
        if jobs:
            with stage(f"{label}repeating", len(jobs)) as advance:
                answer(system, jobs, self.directory, advance, REPEATS)

    def _repeats_left(self, finished: Mapping[str, Sample]) -> dict[str, int]:
        return calls_left(self.questions, finished, self.directory.read_repeats(), self.config.repeat)

    def finish(self) -> Run:
        """Score what is there, and say that the run is complete."""
        with self._clock.kept_by(self.directory):
            finished, lines = self.directory.read_samples()
            with self._clock.stage("scoring"):
                summary = score_directory(self.directory, finished, lines, self._scorers, self.config.seed)
        took = {
            "generation_s": calls_s([*lines, *self.directory.read_repeats()]),
            "times": self._clock.end() if self._times is None else self._times,
            "cost": cost_of(summary, self.llm.price),
        }
        write_note_names(self.directory.path, self._dataset.notes, self.questions, finished.values())
        manifest = self._manifest.model_copy(update={"state": "complete", "updated": now(), **took})
        self.directory.write_manifest(manifest)
        return Run(self.directory, manifest, summary)


def say_left_out(left_out: Mapping[str, str], run: Path | str) -> None:
    """Which optional metrics were not scored in `run`, why not, and how to add them."""
    for metric, why in left_out.items():
        again = f"qilin-rag score {run} --metrics {metric}"
        logger.info("%s is left out: %s; to add it later: %s", metric, why, again)


def check_failures(finished: Run, fail_on_error: float) -> None:
    """FailedSamplesError if more questions have no answer than allowed; a refusal is an outcome, and no failure."""
    counts, lost = finished.summary.counts, finished.summary.lost
    if is_too_many(lost, counts["questions"], fail_on_error):
        samples, _ = finished.directory.read_samples()
        what = "failed" if lost == counts["failed"] else f"have no answer ({_kinds_lost(finished.summary)})"
        raise FailedSamplesError(
            f"{lost} of {counted(counts['questions'], 'question')} {what} (--fail-on-error {fail_on_error:g}); "
            f"the same command asks those again; the reasons: qilin-rag show {finished.directory.path}"
            f"{most_frequent_reason(sample for sample in samples.values() if sample.is_lost)}"
        )


def _kinds_lost(summary: Summary) -> str:
    failed, empty = summary.counts["failed"], summary.counts["empty"]
    kinds = {"failed": failed, "empty": empty, "truncated before an answer": summary.lost - failed - empty}
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n)


def score_runs(
    paths: Sequence[Path], metrics: Mapping[str, Mapping[str, Any]], optional_metrics: Sequence[str] = ()
) -> Iterator[Run]:
    """Score finished runs with these metrics from what they have on disk, one after another; no LLM is called.

    All are looked at before one is scored, and each is written when it is. `optional_metrics` are left out where they
    can't be used as things stand. Scores by other metrics stay as they are.
    """
    scorers = build_scorers(metrics)
    directories = [RunDirectory(path) for path in {path.resolve(): path for path in paths}.values()]
    for directory in directories:
        directory.read_complete()
    more, left_out = usable_scorers(optional_metrics)
    scorers = [*scorers, *more.values()]
    if len(directories) > 1:
        foresee(scorers, directories)
    with stage("scoring runs", len(directories)) as advance:
        for directory in directories:
            with directory.locked():
                manifest = directory.read_complete()
                finished, lines = directory.read_samples()
                its_scorers = scorers_for(manifest, scorers)
                summary = score_directory(directory, finished, lines, its_scorers, manifest.seed)
            yield Run(directory, manifest, summary)
            advance()
    say_left_out(left_out, " ".join(str(directory.path) for directory in directories))


def retrieve_only(config: RunConfig, out: Path) -> dict[str, MetricSummary]:
    """The first stage alone: write the hits of the run's questions to a TREC file, and sum up how good they are."""
    check_out(out)
    shared = Shared()
    questions = select_questions(shared.dataset(config).askable, config)
    shared.count_defects(config, questions)
    retrieved = shared.retrieve(config, questions)
    rankings = [found.hits for found in retrieved]
    tag = retriever_label(config, shared.retriever(config), shared.reranker(config))
    write_text(out, format_trec(zip((question.id for question in questions), rankings, strict=True), tag))
    signed: dict[str, list[Score]] = {}
    for k in sorted({min(5, config.top_k), config.top_k}):
        scorer = Retrieval(k=k)
        scores = scorer.score_hits(rankings, questions, [found.n_missing for found in retrieved])
        for metric, signature in scorer.signatures().items():
            of_metric = (score for score in scores if score.metric == metric)
            signed[metric] = [score.model_copy(update={"signature": signature}) for score in of_metric]
    return summarise_metrics(signed, query_clusters([question.query for question in questions]), config.seed)


def build_index(config: RunConfig, out: Path) -> Index:
    """Index the run's notes for its retriever into the folder `out`, which `--set retriever.index=` then names."""
    retriever = Shared().retriever(config)
    if not isinstance(retriever, IndexedRetriever):
        raise UsageError(f"retriever {config.retriever.name} has no index to build; bm25 and biencoder have one")
    notes = load_dataset(config.data).notes
    with third_party(f"retriever {retriever.called()}"):
        retriever.write_index(notes, out)
    return Index(out, len(notes), sum(path.stat().st_size for path in out.iterdir()))


def _make_ready(scorers: Sequence[Scorer], config: RunConfig) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Prepare the scorers; the optional ones that can be used, prepared, and why the others are left out."""
    prepare(scorers)
    return usable_scorers(config.optional_metrics)


def _checked_llm(config: RunConfig) -> tuple[LLM, dict[str, Any], FatalLLMError | None]:
    """The LLM, what its server says of itself, and the error where it is not there.

    Its absence matters only where questions are left to ask: it is raised at once, before the data is read, unless a
    run of this name may turn out to be finished.
    """
    llm: LLM = LLMS.create(config.llm.name, config.llm.settings)
    try:
        with third_party(f"llm {llm.called()}"):
            if config.serve:  # the server itself comes last, when all else is known to be right
                engine_of(llm, config.llm_label).check()
                return llm, {}, None
            return llm, llm.check(), None
    except FatalLLMError as error:
        names = f"*-{slug(config.llm_label)}-*/samples.jsonl"
        if next(config.runs_dir.glob(names), None) is None:
            raise
        return llm, {}, error
