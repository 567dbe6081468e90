"""Run retrieve, prompt, generate and score, into a run directory that can be resumed at any point."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import FailedSamplesError
from qilin_rag.core.progress import stage
from qilin_rag.core.text import counted
from qilin_rag.core.types import Summary
from qilin_rag.pipeline.asking import is_too_many, most_frequent_reason, started
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.hooks.calling import check_hooks, hooked
from qilin_rag.pipeline.run_ceilings import runs_under_ceiling
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.scoring import check_names, foresee, score_directory, scorers_for, usable_scorers
from qilin_rag.pipeline.stages import Prepared, ask, find_work, finish, prepare
from qilin_rag.scorers import Scorer

logger = logging.getLogger(__name__)


def run(config: RunConfig) -> Run:
    """Do one run, or resume it: a question that has an answer on disk is not asked again.

    The configuration and the server are checked before the first expensive step. Failed questions are counted in the
    summary; `check_failures` decides whether they are too many.
    """
    check_hooks(config.track)
    return do(prepare(config))


def do(prepared: Prepared) -> Run:
    """Do a prepared run: ask what is left, score, and log which metrics were left out."""
    config = prepared.config
    with prepared.directory.locked(), hooked(config.track, prepared.directory.path), runs_under_ceiling([prepared]):
        work = find_work(prepared, is_alone=True)
        log = work.server_log
        with started(config, log) if work.needs_server else nullcontext(config.llm) as llm:
            answered = ask(work, llm)
        finished = finish(answered)
    say_left_out(prepared.left_out, finished.path)
    return finished


def say_left_out(left_out: Mapping[str, str], run: Path | str) -> None:
    """Log which optional metrics were not scored in `run`, why not, and how to add them."""
    for metric, why in left_out.items():
        again = f"qilin-rag score {run} --metrics {metric}"
        logger.info("%s is left out: %s; to add it later: %s", metric, why, again)


def check_failures(finished: Run, fail_on_error: float) -> None:
    """Raise a FailedSamplesError if too many questions have no answer; a refusal is an outcome, not a failure."""
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
    paths: Sequence[Path], metrics: Mapping[str, Scorer], optional_metrics: Sequence[str] = ()
) -> Iterator[Run]:
    """Score finished runs from what is on disk, one after another, without calling an LLM.

    All runs are checked before the first is scored, and each is written as soon as it is scored. Optional metrics that
    can't be used on this machine are left out. Scores of other metrics stay as they are.
    """
    check_names(metrics.values())
    directories = [RunDirectory(path) for path in {path.resolve(): path for path in paths}.values()]
    for directory in directories:
        directory.read_complete()
    more, left_out = usable_scorers(optional_metrics)
    scorers = [*metrics.values(), *more.values()]
    if len(directories) > 1:
        foresee(scorers, directories)
    with stage("scoring runs", len(directories)) as advance:
        for directory in directories:
            with directory.locked():
                manifest = directory.read_complete()
                summary = score_directory(directory, scorers_for(manifest, scorers), manifest.seed).summary
            yield Run(directory, manifest, summary)
            advance()
    say_left_out(left_out, " ".join(str(directory.path) for directory in directories))
