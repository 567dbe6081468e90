"""Score the samples of a run and sum up the figures, without calling the model under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.text import clean
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Exchange, Question, Sample, Score, Summary
from qilin_rag.pipeline.early_scores import EarlyScores
from qilin_rag.pipeline.run_directory import SAMPLES, Manifest, RunDirectory
from qilin_rag.pipeline.stored_samples import StoredSamples
from qilin_rag.pipeline.totals import Totals
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.retrieval import cutoff, is_about_hits, is_outdated
from qilin_rag.scorers.table import ScoreTable

_AT_ONCE = 256  # samples that are read and scored


def check_names(scorers: Iterable[Scorer]) -> None:
    """Raise a UsageError if two scorers give a metric of the same name."""
    scorers = list(scorers)
    with third_party("signatures of a metric"):
        names = Counter(metric for scorer in scorers for metric in scorer.signatures())
    doubles = [metric for metric, n in names.items() if n > 1]
    if doubles:
        given = ", ".join(scorer.named().name for scorer in scorers)
        raise UsageError(f"two of the metrics {given} give {doubles[0]!r}; name only one of them")


def load_models(scorers: Iterable[Scorer]) -> None:
    """Load the models of scorers, so that a missing one is an error before the first LLM call."""
    for scorer in scorers:
        with third_party(f"metric {scorer.called()}"):
            scorer.prepare()


def usable_scorers(metrics: Iterable[str]) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Return the scorers that can be used on this machine, prepared, and why the others can't be."""
    usable: dict[str, Scorer] = {}
    left_out: dict[str, str] = {}
    for name in metrics:
        scorer: Scorer = SCORERS.create(name, {})
        try:
            with third_party(f"metric {scorer.called()}"):
                if why := scorer.unavailable():
                    left_out[name] = why
                    continue
                scorer.signatures()
                scorer.prepare()
                usable[name] = scorer
        except QilinError as error:
            left_out[name] = " ".join(str(error).split())
    return usable, left_out


def foresee(scorers: Iterable[Scorer], directories: Iterable[RunDirectory]) -> None:
    """Tell the scorers which answers will come, from runs that are scored one after another."""
    answers = [
        {sample.answer for sample in directory.read_samples()[0].values() if sample.is_answered}
        for directory in directories
    ]
    for scorer in scorers:
        with third_party(f"metric {scorer.called()}"):
            scorer.foresee(answers)


def scorers_for(manifest: Manifest, scorers: Iterable[Scorer]) -> list[Scorer]:
    """Return the scorers as they score this run."""
    refusals = manifest.prompt.get("refusal")
    own = [each for each in refusals if isinstance(each, str)] if isinstance(refusals, list) else []
    scorers = [scorer.for_prompt(own) for scorer in scorers]
    if manifest.config["top_k"] is None:  # of an imported run without notes
        return scorers
    return [scorer.for_run(manifest.config["top_k"], manifest.identity["top_k"] is None) for scorer in scorers]


def is_misnamed(manifest: Manifest, metric: str, signature: str) -> bool:
    """Return whether an earlier version wrote a figure @k for a run that asks for fewer than k notes."""
    top_k, k = manifest.identity["top_k"], cutoff(metric)
    return is_outdated(signature) and top_k is not None and k is not None and k > top_k


def score_samples(scorers: Iterable[Scorer], samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
    """Score all samples by all scorers; each score carries the signature of its metric."""
    return [score for scorer in scorers for score in _score(scorer, samples, questions)]


def _score(scorer: Scorer, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
    """Return the signed scores of all samples by one scorer."""
    with third_party(f"metric {scorer.called()}"):
        signatures = scorer.signatures()
        made = scorer.score(samples, questions)
        scores = [score.model_copy(update={"signature": clean(signatures[score.metric])}) for score in made]
    wanted = Counter(sample.question_id for sample in samples)
    for metric in signatures:
        if Counter(score.question_id for score in made if score.metric == metric) != wanted:
            raise _wrong_scores(scorer, metric)
    return scores


def _score_stored(
    scorer: Scorer, samples: StoredSamples, questions: Sequence[Question], early: EarlyScores | None
) -> Iterable[Score]:
    """Return the signed scores of the samples of a run by one scorer, without those samples that have early scores.

    Only a few samples are read at a time, unless the scorer may need all of them.
    """
    if not scorer.one_by_one:
        return _score(scorer, list(samples), questions)
    ids = [question.id for question in questions]
    known = early.of(scorer) if early else None
    table = known if known is not None and known.ids == ids else ScoreTable(ids)
    if known is not None and known is not table:  # of some of the questions
        table.add(score for score in known if known.has(score.question_id))
    with third_party(f"metric {scorer.called()}"):
        signatures = scorer.signatures()
        is_done = all(map(table.has, ids))
        pairs = zip(samples, questions, strict=True)
        rows = iter(()) if is_done else (pair for pair in pairs if not table.has(pair[1].id))
        while some := list(islice(rows, _AT_ONCE)):
            table.add(scorer.score([sample for sample, _ in some], [question for _, question in some]))
    for metric, column in table.columns.items():
        if not column.is_complete or metric not in signatures:
            raise _wrong_scores(scorer, metric)
        column.sign(clean(signatures[metric]))
    if lacking := signatures.keys() - table.columns.keys():
        raise _wrong_scores(scorer, min(lacking))
    return table


def _wrong_scores(scorer: Scorer, metric: str) -> UsageError:
    return UsageError(f"metric {scorer.called()} must give each question one score of {metric!r}")


class Scored(NamedTuple):
    """The figures of a run, and the seconds of all its calls; None if nobody measured them."""

    summary: Summary
    calls_s: float | None


def score_directory(
    directory: RunDirectory, scorers: Sequence[Scorer], seed: int, early: EarlyScores | None = None
) -> Scored:
    """Score a run's samples, keep its scores of other metrics, and write run.trec, scores.jsonl and summary.json.

    `early` are scores that were made before.
    """
    questions = directory.read_questions()
    if len(questions) != (n_questions := directory.read_manifest().n_questions):
        raise UsageError(f"{directory.path}: questions.jsonl has {len(questions)} of its {n_questions} questions")
    samples = StoredSamples(directory.path / SAMPLES, [question.id for question in questions])
    made = [_score_stored(scorer, samples, questions, early) for scorer in scorers]
    totals = Totals(directory.read_repeats())

    def counted() -> Iterator[Sample]:
        for sample in samples:
            totals.add_line(sample)
            totals.add_sample(sample)
            yield sample

    directory.write_trec_run(counted())
    for line in samples.others():
        totals.add_line(line)
    return Scored(_keep_scores(directory, totals, made, seed), totals.calls_s)


def add_scores(
    directory: RunDirectory, samples: Sequence[Sample], lines: Sequence[Sample], made: list[Score], seed: int
) -> Summary:
    """Replace the scores of these metrics, and write run.trec, scores.jsonl and summary.json."""
    totals = Totals(directory.read_repeats(), samples, lines)
    directory.write_trec_run(samples)
    return _keep_scores(directory, totals, [made], seed)


def _keep_scores(directory: RunDirectory, totals: Totals, made: Sequence[Iterable[Score]], seed: int) -> Summary:
    """Replace the scores of these metrics in scores.jsonl, and write summary.json."""
    kept = directory.read_scores()
    if kept:
        again = {(score.metric, score.question_id) for scores in made for score in scores}
        hits_anew = any(is_about_hits(score.signature) for scores in made for score in scores)
        kept = [
            score
            for score in kept
            if (score.metric, score.question_id) not in again and not (hits_anew and is_outdated(score.signature))
        ]
    summary = totals.summary([kept, *made], seed)
    directory.write_figures(chain(kept, *made), summary)
    return summary


def summarise(
    samples: Sequence[Sample],
    lines: Sequence[Exchange],
    scores: Iterable[Score],
    seed: int = 0,
    repeats: Sequence[Sample] = (),
) -> Summary:
    """Sum up a run: a pure function, so that a resumed run ends like any other.

    A metric is summed up if all `samples` have a score by it under one signature; scores of other questions
    (of a run with a larger limit) are passed over.
    """
    return Totals(repeats, samples, lines).summary([scores], seed)
