"""Score the samples of a run and sum up the figures, without calling the model under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.text import clean
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Exchange, Question, Sample, Score, Summary
from qilin_rag.pipeline.early_scores import NO_SCORES, EarlyScores
from qilin_rag.pipeline.run_directory import SAMPLES, Manifest, RunDirectory
from qilin_rag.pipeline.stored_samples import StoredSamples
from qilin_rag.pipeline.totals import Totals
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.retrieval import cutoff, is_about_hits, is_outdated

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


def score_samples(
    scorers: Iterable[Scorer],
    samples: Sequence[Sample] | StoredSamples,
    questions: Sequence[Question],
    early: EarlyScores | None = None,
) -> list[Score]:
    """Score all samples by all scorers, except those with `early` scores; each has the signature of its metric."""
    scores: list[Score] = []
    wanted = Counter(question.id for question in questions)
    for scorer in scorers:
        with third_party(f"metric {scorer.called()}"):
            signatures = scorer.signatures()
            made = _score(scorer, samples, questions, early.of(scorer) if early else NO_SCORES)
            scores += [score.model_copy(update={"signature": clean(signatures[score.metric])}) for score in made]
        for metric in signatures:
            if Counter(score.question_id for score in made if score.metric == metric) != wanted:
                raise UsageError(f"metric {scorer.called()} must give each question one score of {metric!r}")
    return scores


def _score(
    scorer: Scorer,
    samples: Sequence[Sample] | StoredSamples,
    questions: Sequence[Question],
    known: Mapping[str, list[Score]],
) -> list[Score]:
    """Return the scores of one scorer, of which some are known by question; read only a few samples at once if it can.

    All samples of a run are given to a scorer that may need them all.
    """
    if isinstance(samples, Sequence) or not scorer.one_by_one:
        return scorer.score(samples if isinstance(samples, Sequence) else list(samples), questions)
    if all(question.id in known for question in questions):
        return [score for question in questions for score in known[question.id]]
    made: list[Score] = []
    rows = zip(samples, questions, strict=True)
    while some := list(islice(rows, _AT_ONCE)):
        new = [row for row in some if row[1].id not in known]
        found = scorer.score([sample for sample, _ in new], [question for _, question in new])
        by_question: dict[str, list[Score]] = {}
        for score in found:
            by_question.setdefault(score.question_id, []).append(score)
        for _, question in some:
            made += known.get(question.id) or by_question.get(question.id, [])
    return made


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
    made = score_samples(scorers, samples, questions, early)
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
    return _keep_scores(directory, totals, made, seed)


def _keep_scores(directory: RunDirectory, totals: Totals, made: list[Score], seed: int) -> Summary:
    """Replace the scores of these metrics in scores.jsonl, and write summary.json."""
    again = {(score.metric, score.question_id) for score in made}
    is_about_hits_anew = any(is_about_hits(score.signature) for score in made)
    kept = [
        score
        for score in directory.read_scores()
        if (score.metric, score.question_id) not in again and not (is_about_hits_anew and is_outdated(score.signature))
    ]
    scores = kept + made
    summary = totals.summary(scores, seed)
    directory.write_figures(scores, summary)
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
    return Totals(repeats, samples, lines).summary(scores, seed)
