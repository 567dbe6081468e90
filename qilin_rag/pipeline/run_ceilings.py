"""Keep the calls of runs, in all their sessions together, below a ceiling of money or tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qilin_rag.config.run import RunConfig
from qilin_rag.core.files import read_lines
from qilin_rag.core.types import QueryReply, Sample
from qilin_rag.llms import LLM
from qilin_rag.llms.ceiling import SpendingCeiling
from qilin_rag.llms.reservations import reservations_path, spent_on_cut_off
from qilin_rag.llms.spending import SpentBefore, spent_on
from qilin_rag.pipeline.answering import calls_left, pending_questions
from qilin_rag.pipeline.ceilings import Progress, spent_on_lines, under_ceiling
from qilin_rag.pipeline.run_directory import MANIFEST, QUERIES, REPEATS, SAMPLES, RunDirectory
from qilin_rag.pipeline.stages import Prepared


def spent_on_run(config: RunConfig, directory: RunDirectory) -> SpentBefore:
    """Return what a run took in all sessions, with the answers that a fresh start set aside."""
    before = SpentBefore()
    query = config.query_config
    of_files: list[tuple[str, type[Sample] | type[QueryReply], LLM | None]] = [
        (SAMPLES, Sample, config.llm),
        (REPEATS, Sample, config.llm),
        (QUERIES, QueryReply, None if query is None else query.llm),
    ]
    for name, kind, llm in of_files:
        if llm is None or not llm.takes_tokens:
            continue
        stem = name.partition(".")[0]
        for path in (directory.path / name, *sorted(directory.path.glob(f"{stem}-until-*.jsonl"))):
            before = before.plus(spent_on_lines(read_lines(path, kind, half_line_ok=True), llm))
    before = before.plus(SpentBefore(spent_on_cut_off(reservations_path(directory.path / SAMPLES))))
    of_rerank: LLM | None = None if config.rerank is None else config.rerank.asked_llm
    if of_rerank is None or not (directory.path / MANIFEST).exists():
        return before
    use = directory.read_manifest().rerank
    return before if use is None else before.plus(SpentBefore(spent_on(use.usage, of_rerank.price)))


def progress_of(runs: Sequence[Prepared]) -> Progress:
    """Return how many questions of runs have an answer, each repetition as one more, and how many are left."""
    n_asked = n_left = 0
    for run in runs:
        finished = run.directory.read_finished()
        n_pending = len(pending_questions(run.questions, finished))
        repeats = calls_left(run.questions, finished, run.directory.read_repeats(), run.config.repeat)
        n_asked += run.config.repeat * len(run.questions)
        n_left += run.config.repeat * n_pending + sum(repeats.values())
    return Progress(n_asked - n_left, n_left)


@contextmanager
def runs_under_ceiling(runs: Sequence[Prepared]) -> Iterator[SpendingCeiling | None]:
    """Keep the calls of runs, in all their sessions together, below their ceiling; see `under_ceiling`."""
    config = runs[0].config

    def before() -> SpentBefore:
        return functools.reduce(SpentBefore.plus, (spent_on_run(each.config, each.directory) for each in runs))

    with under_ceiling(config, before, lambda: progress_of(runs), again=how_to_resume(config)) as ceiling:
        yield ceiling


def how_to_resume(config: RunConfig) -> str:
    """Return how to resume a run, in words."""
    return "the same command without --fresh" if config.fresh else "the same command"
