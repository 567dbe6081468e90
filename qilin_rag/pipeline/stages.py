"""Run in four stages, each of which takes the result of the one before: prepare, find_work, ask, finish.

They are apart so that the runs of a sweep can share a server, and be scored when it no longer holds the GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.config.run import LLMConfig, RunConfig, check_batch
from qilin_rag.core.cache import cache_dir, limit_bytes
from qilin_rag.core.environment import now
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.progress import stage
from qilin_rag.core.text import slug
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Question, QuestionDefects, RerankUse, Sample, Times
from qilin_rag.data import Dataset
from qilin_rag.data.note_images import NoteImages
from qilin_rag.llms import LLM, FatalLLMError
from qilin_rag.llms.batch.offline import Offline
from qilin_rag.llms.cache import ResponseCache
from qilin_rag.llms.ceiling import recorded_in
from qilin_rag.llms.reservations import reservations_path
from qilin_rag.llms.serving.server import Served, engine_of
from qilin_rag.pipeline.answering import answer, calls_left, pending_questions
from qilin_rag.pipeline.asking import Asking
from qilin_rag.pipeline.clock import Clock
from qilin_rag.pipeline.cost import cost_of, rerank_cost, total_cost
from qilin_rag.pipeline.early_scores import EarlyScores
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.identity import (
    continued,
    earlier_manifest,
    new_manifest,
    run_directory,
    run_identity,
    run_label,
)
from qilin_rag.pipeline.jobs import Job, Jobs, Retrieved
from qilin_rag.pipeline.note_names import write_note_names
from qilin_rag.pipeline.note_pictures import check_reader, check_unchanged
from qilin_rag.pipeline.queries import QueryWork, use_of_run, write_queries
from qilin_rag.pipeline.run_directory import REPEATS, SAMPLES, Manifest, RunDirectory
from qilin_rag.pipeline.scoring import check_names, load_models, score_directory, usable_scorers
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.retrieval import Retrieval

logger = logging.getLogger(__name__)
_FIRST = 64  # questions that are retrieved before the first is asked


class Prepared(NamedTuple):
    """A run of which everything was checked that can be before something is spent.

    `config` has the components that the runs of a sweep share; `scorers` are those of `config` as they score this run;
    `left_out`: which optional metrics can't be used, and why. `server` is what the LLM's server says of itself, or
    `unreachable` why there is none, or why there are no images: an error only if a question is left to ask. `images`
    are those of the notes, if the run sends any; `queries` is its query stage, if it has one.
    """

    config: RunConfig
    dataset: Dataset
    questions: list[Question]
    defects: QuestionDefects
    scorers: list[Scorer]
    left_out: dict[str, str]
    server: dict[str, Any]
    unreachable: QilinError | None
    identity: dict[str, Any]
    directory: RunDirectory
    shared: Shared
    images: NoteImages | None = None
    queries: QueryWork | None = None

    @property
    def label(self) -> str:
        """Name the run for people, by what tells it apart from others."""
        return run_label(self.config)

    def with_scorers_of(self, same: Prepared) -> Prepared:
        """Return this run with the scorers of another preparation added: its figures at another k."""
        known = {metric for scorer in self.scorers for metric in scorer.signatures()}
        more = [scorer for scorer in same.scorers if not known.intersection(scorer.signatures())]
        return self._replace(scorers=[*self.scorers, *more])


class Work(NamedTuple):
    """The work that is left: the questions to ask, with their notes, and the number of repetitions.

    `reranked` is what the second stage has asked a server or an LLM for, in all sessions of the run. `early` are the
    scores that are made while questions are asked; None in a sweep, which keeps no scores of many runs. `is_begun`:
    `ask` has begun it, and submitted its batches.
    """

    prepared: Prepared
    earlier: Manifest | None
    jobs: Jobs
    n_repeats_left: int
    clock: Clock
    reranked: RerankUse | None = None
    early: EarlyScores | None = None
    is_begun: bool = False

    @property
    def is_asking(self) -> bool:
        """Return whether a question is left to ask."""
        return len(self.jobs) > 0 or self.n_repeats_left > 0

    @property
    def needs_server(self) -> bool:
        """Return whether a server must be started for the questions that are left."""
        return self.prepared.config.serve and self.is_asking

    @property
    def server_log(self) -> Path:
        """Return the path of the log of a server for this run."""
        return self.prepared.directory.path / "server.log"


class Answered(NamedTuple):
    """A run whose questions were asked. `times` are the final times if this session adds nothing to them."""

    work: Work
    manifest: Manifest
    times: Times | None


def prepare(config: RunConfig, shared: Shared | None = None) -> Prepared:
    """Check everything that can be checked before something is spent: metrics, server, data.

    Runs with the same `shared` do what they have in common only once.
    """
    shared = shared or Shared()
    limit_bytes()
    config = shared.joined(config)
    check_reader(config)
    check_batch(config)
    metrics = tuple(config.metrics.items())
    shared.once(("metrics", metrics), lambda: check_names(config.metrics.values()))
    for scorer in config.metrics.values():
        if isinstance(scorer, Retrieval) and (scorer.k or 0) > config.top_k and not config.retriever.ignores_k:
            shared.warn(f"figures at {scorer.k} will be unscored: top_k gives {config.top_k} notes a question")
    chosen_llm = ("server", config.llm, config.llm_label, config.serve)
    server, unreachable = shared.once(chosen_llm, lambda: _ask_server(config))
    dataset = shared.dataset(config)
    questions = select_questions(dataset.askable, config.limit, config.seed, config.ids)
    defects = shared.count_defects(config, questions)
    optional = ("models", metrics, *config.optional_metrics)
    more, left_out = shared.once(optional, lambda: _load_models(config))
    config = config.model_copy(update={"metrics": config.metrics | more, "optional_metrics": []})
    identity = run_identity(config, dataset)
    directory = run_directory(config, dataset, identity)
    queries, no_queries = _open_queries(config, shared, directory)
    images, no_images = _open_images(config, shared, directory)
    return Prepared(
        config=config,
        dataset=dataset,
        questions=questions,
        defects=defects,
        scorers=[
            each.for_run(config.top_k, config.retriever.ignores_k).for_prompt(config.prompt.refusal)
            for each in config.metrics.values()
        ],
        left_out=left_out,
        server=server,
        unreachable=unreachable or no_queries or no_images,
        identity=identity,
        directory=directory,
        shared=shared,
        images=images,
        queries=queries,
    )


def find_work(prepared: Prepared, is_alone: bool = False, is_begun: bool = False) -> Work:
    """Read what is done, and retrieve for the questions that are left; call it with the directory locked.

    With a query stage, whose LLM may have no server yet, the search of its texts follows in `ask`. If the run is alone,
    so that no other needs its rankings, the most may be retrieved in `ask`, too. A run that `ask` has begun is not
    `fresh` any more.
    """
    config, directory, clock = prepared.config, prepared.directory, Clock()
    earlier = earlier_manifest(directory, prepared.identity)
    is_fresh = config.fresh and not is_begun
    finished = {} if is_fresh else directory.read_finished()
    pending = pending_questions(prepared.questions, finished)
    repeats = {} if is_fresh else _repeats_left(prepared, finished)
    n_repeats_left = (config.repeat - 1) * len(pending) + sum(repeats.values())
    if prepared.unreachable and (pending or n_repeats_left):
        raise prepared.unreachable
    if pending or n_repeats_left:
        check_unchanged(prepared.images, config.note_images, list(finished.values()))
    jobs = _retrieve(prepared, pending, earlier, clock, is_alone)
    reranked = None if config.fresh or not earlier else earlier.rerank
    early = EarlyScores(prepared.scorers, pending, clock) if is_alone else None
    work = Work(prepared, earlier, jobs, n_repeats_left, clock, reranked, early)
    return _with_rerank_use(work) if pending and prepared.queries is None else work


def rest_of(work: Work) -> Work:
    """Return what is left of a run that `ask` has begun in this session; call it with the directory locked."""
    again = find_work(work.prepared, is_begun=True)
    return work._replace(jobs=again.jobs, n_repeats_left=again.n_repeats_left, is_begun=True)


def _retrieve(
    prepared: Prepared, pending: Sequence[Question], earlier: Manifest | None, clock: Clock, is_alone: bool
) -> Jobs:
    """Retrieve for these questions, or prepare it; see `find_work`."""
    config, shared = prepared.config, prepared.shared
    if is_alone and config.retriever.one_by_one and config.query is None and config.rerank is None:
        first = max(config.concurrency, _FIRST)
        return Jobs.retrieved_ahead(pending, first, lambda some: shared.retrieve_unkept(config, some), clock)
    with clock.stage("retrieval"):
        if prepared.queries is not None:
            shared.prepare_search(config, pending)
            return Jobs.retrieved(pending, [Retrieved([])] * len(pending))
        try:
            with _recorded_in(prepared.directory):
                return Jobs.retrieved(pending, shared.retrieve(config, pending))
        except BaseException:
            _keep_rerank_use(prepared, earlier, clock)
            raise


def _with_rerank_use(work: Work) -> Work:
    """Add what the second stage has asked for in this session, and what all of that costs."""
    config, before = work.prepared.config, work.reranked
    now = work.prepared.shared.take_rerank_use(config)
    use = now or before if now is None or before is None else before.plus(now)
    return work._replace(reranked=use and use.model_copy(update={"cost": rerank_cost(use, config.rerank)}))


def _keep_rerank_use(prepared: Prepared, earlier: Manifest | None, clock: Clock) -> None:
    """Record what a second stage asked for before an error: the next session takes it from the cache, at no cost."""
    before = earlier.rerank if earlier is not None else None
    use = _with_rerank_use(Work(prepared, earlier, Jobs.retrieved([], []), 0, clock, before)).reranked
    if use is None or use == before:
        return
    manifest = earlier
    if manifest is None:
        facts = (prepared.dataset, prepared.questions, prepared.defects, prepared.identity, prepared.server)
        manifest = new_manifest(prepared.config, *facts)
        prepared.directory.write_questions(prepared.questions)
    prepared.directory.write_manifest(manifest.model_copy(update={"rerank": use}))


def ask(work: Work, llm: LLM, label: str = "", waits: bool = True) -> Answered:
    """Ask the questions that are left; call it with the directory locked.

    Args:
        work: As `find_work` returns it.
        llm: The LLM of the run, or the same LLM at a server that was started for it.
        label: Text before the name of the stage in progress bars.
        waits: Whether to wait for batches.

    Raises:
        SubmittedError: if batches were submitted that are not waited for.
    """
    prepared, earlier, clock = work.prepared, work.earlier, work.clock
    config, directory = prepared.config, prepared.directory
    with clock.kept_by(directory):
        server = prepared.server if llm is config.llm else llm.check()
        manifest = new_manifest(
            config, prepared.dataset, prepared.questions, prepared.defects, prepared.identity, server
        )
        manifest = continued(manifest, earlier, work.is_asking)
        is_other_set = earlier is None or earlier.question_set_sha256 != manifest.question_set_sha256
        times = Times() if earlier is None or config.fresh else earlier.times or Times()
        is_done = earlier is not None and earlier.state == "complete" and not work.is_asking
        begun = times if is_done else clock.begin(times, asks=work.is_asking)
        manifest = manifest.model_copy(update={"times": begun, "rerank": work.reranked})
        if work.is_asking or is_other_set:
            directory.write_manifest(manifest)  # incomplete, until all is scored
            if config.fresh and not work.is_begun and (aside := directory.set_aside_samples()):
                logger.info("the earlier samples are kept in %s", aside)
            directory.write_questions(prepared.questions)
        if len(work.jobs) and prepared.queries is not None:
            try:
                with clock.stage("retrieval"), _recorded_in(directory):
                    work = work._replace(jobs=_search_queries(work, prepared.queries, llm))
            finally:  # what was asked before an error counts, too
                work = _with_rerank_use(work)
                manifest = manifest.model_copy(update={"rerank": work.reranked})
                directory.write_manifest(manifest)
        if work.is_asking:
            with clock.stage("generation"), _recorded_in(directory):
                _answer(work, llm, label, waits)
    return Answered(work, manifest, times if is_done else None)  # scoring again takes no time


def finish(answered: Answered) -> Run:
    """Score the samples and mark the run as complete; call it with the directory locked."""
    prepared, clock = answered.work.prepared, answered.work.clock
    directory = prepared.directory
    with clock.kept_by(directory), clock.stage("scoring"):
        scorers, seed = prepared.scorers, prepared.config.seed
        summary, calls_s = score_directory(directory, scorers, seed, answered.work.early)
    queries = use_of_run(directory, answered.manifest.config)
    took = {
        "generation_s": calls_s,
        "times": clock.end() if answered.times is None else answered.times,
        "cost": total_cost(cost_of(summary, prepared.config.llm.price), queries, answered.work.reranked),
        "queries": queries,
    }
    write_note_names(directory.path, prepared.dataset.notes, prepared.questions, directory.each_sample())
    manifest = answered.manifest.model_copy(update={"state": "complete", "updated": now(), **took})
    directory.write_manifest(manifest)
    return Run(directory, manifest, summary)


def _answer(work: Work, llm: LLM, label: str, waits: bool) -> None:
    prepared = work.prepared
    config, directory, notes, images = prepared.config, prepared.directory, prepared.dataset.notes, prepared.images
    if len(work.jobs):
        n_done = len(prepared.questions) - len(work.jobs)
        if n_done:
            what = (n_done, len(prepared.questions), directory.path)
            logger.info("%d of %d questions are already answered in %s", *what)
        directory.discard_scores({question.id for question in work.jobs.questions})
        asks_again = config.fresh or config.repeat > 1
        cache = ResponseCache(cache_dir() / "responses.sqlite", asks_again) if config.cache else None
        with closing(work.jobs), stage(f"{label}answering", len(prepared.questions), n_done) as advance:
            asking = Asking(llm, config.concurrency, cache, config.batch, waits)
            use = work.early.add if work.early else None
            answer(asking, config, notes, work.jobs, directory, advance, SAMPLES, images, use)
    if config.repeat > 1 and (jobs := _repeated_jobs(prepared)):
        with stage(f"{label}repeating", len(jobs)) as advance:
            asking = Asking(llm, config.concurrency, batch=config.batch, waits=waits)
            answer(asking, config, notes, jobs, directory, advance, REPEATS, images)


def _search_queries(work: Work, queries: QueryWork, llm: LLM) -> Jobs:
    """Return the jobs with the notes that are found by the texts of the query stage."""
    prepared, config = work.prepared, work.prepared.config
    questions = work.jobs.questions
    served = llm.with_client(queries.config.llm) if isinstance(llm, Served | Offline) and queries.config.serve else None
    with nullcontext() if queries.stage.asks_own_llm else _only_this_run():
        written = write_queries(queries, questions, prepared.shared, served, config.fresh)
    searched = [question for question in questions if question.id not in written.failed]
    with _only_this_run():  # the second stage may ask an LLM of its own
        found = prepared.shared.retrieve(config, searched, written.texts)
    by_id = dict(zip((question.id for question in searched), found, strict=True))
    lost = {id: f"query {queries.stage.called()}: {reason}" for id, reason in written.failed.items()}
    jobs = (Job(each, by_id.get(each.id, Retrieved([])), lost.get(each.id)) for each in questions)
    return Jobs(questions, jobs)


@contextmanager
def _only_this_run() -> Iterator[None]:
    """Raise the error of an LLM that other runs of a sweep don't ask as one that stops this run alone."""
    try:
        yield
    except FatalLLMError as error:
        raise QilinError(str(error)) from error


def _recorded_in(directory: RunDirectory) -> AbstractContextManager[None]:
    """Record meanwhile what calls reserve of a ceiling, if there is one."""
    return recorded_in(reservations_path(directory.path / SAMPLES))


def _repeated_jobs(prepared: Prepared) -> list[Job]:
    """Return the repetitions that are left, each with the notes of its first answer."""
    finished = prepared.directory.read_finished()
    left = _repeats_left(prepared, finished)
    times = [question for question in prepared.questions for _ in range(left.get(question.id, 0))]
    return [Job(question, Retrieved(finished[question.id].hits)) for question in times]


def _repeats_left(prepared: Prepared, finished: Mapping[str, Sample]) -> dict[str, int]:
    return calls_left(prepared.questions, finished, prepared.directory.read_repeats(), prepared.config.repeat)


def _open_images(
    config: RunConfig, shared: Shared, directory: RunDirectory
) -> tuple[NoteImages | None, UsageError | None]:
    """Return the images that the run sends, and the error if there are none.

    The error matters only if a question is left to ask, so it is raised at once unless there are answers.
    """
    try:
        return shared.images(config), None
    except UsageError as error:
        if not (directory.path / SAMPLES).exists():
            raise
        return None, error


def _open_queries(
    config: RunConfig, shared: Shared, directory: RunDirectory
) -> tuple[QueryWork | None, FatalLLMError | None]:
    """Return the query stage of a run, if it has one, and the error if no server of its LLM answers."""
    queries = QueryWork.of(config, shared, directory)
    if queries is None:
        return None, None
    check_batch(queries.config)
    chosen = ("server", queries.config.llm, queries.config.llm_label, queries.config.serve, config.llm_label)
    found_by = queries.config.model_copy(update={"llm_label": config.llm_label}) if not queries.config.serve else config
    _, unreachable = shared.once(chosen, lambda: _ask_server(found_by))
    return queries, unreachable


def _load_models(config: RunConfig) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Load the models of the metrics; return the optional ones that can be used, and why the others can't be."""
    load_models(config.metrics.values())
    return usable_scorers(config.optional_metrics)


def _ask_server(config: LLMConfig) -> tuple[dict[str, Any], FatalLLMError | None]:
    """Return what the LLM's server says about itself, and the error if no server answers.

    The error matters only if a question is left to ask. It is raised at once, before the data is read, unless a run of
    this name exists, which may turn out to be complete.
    """
    llm: LLM = config.llm
    try:
        with third_party(f"llm {llm.called()}"):
            if config.serve:  # the server itself comes last, when all else is known to be right
                engine_of(llm, config.llm_label).check()
                return {}, None
            return llm.check(), None
    except FatalLLMError as error:
        names = f"*-{slug(config.llm_label)}-*/samples.jsonl"
        if next(config.runs_dir.glob(names), None) is None:
            raise
        return {}, error
