"""Score the samples of a run and sum up the figures, without calling the model under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.text import clean
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Exchange, LeftOut, Question, Repeats, Sample, Score, Status, Summary
from qilin_rag.pipeline.cost import Tally
from qilin_rag.pipeline.early_scores import NO_SCORES, EarlyScores
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.retrieval import cutoff, is_about_hits, is_outdated
from qilin_rag.scorers.summary import counted_by_kind, summarise_metrics

H = TypeVar("H", bound=str)


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
    samples: Sequence[Sample],
    questions: Sequence[Question],
    early: EarlyScores | None = None,
) -> list[Score]:
    """Score all samples by all scorers, except those with `early` scores; each has the signature of its metric."""
    scores: list[Score] = []
    for scorer in scorers:
        with third_party(f"metric {scorer.called()}"):
            signatures = scorer.signatures()
            made = _score(scorer, samples, questions, early.of(scorer) if early else NO_SCORES)
            scores += [score.model_copy(update={"signature": clean(signatures[score.metric])}) for score in made]
        wanted = Counter(sample.question_id for sample in samples)
        for metric in signatures:
            if Counter(score.question_id for score in made if score.metric == metric) != wanted:
                raise UsageError(f"metric {scorer.called()} must give each question one score of {metric!r}")
    return scores


def _score(
    scorer: Scorer, samples: Sequence[Sample], questions: Sequence[Question], known: Mapping[str, list[Score]]
) -> list[Score]:
    """Return the scores of one scorer, of which some are known by question."""
    if not known:
        return scorer.score(samples, questions)
    new = [row for row in zip(samples, questions, strict=True) if row[0].question_id not in known]
    made: dict[str, list[Score]] = {each.question_id: [] for each, _ in new}
    if new:
        for score in scorer.score([sample for sample, _ in new], [question for _, question in new]):
            made[score.question_id].append(score)
    return [score for each in samples for score in (known.get(each.question_id) or made[each.question_id])]


def score_directory(
    directory: RunDirectory,
    finished: Mapping[str, Sample],
    lines: Sequence[Sample],
    scorers: Sequence[Scorer],
    seed: int,
    early: EarlyScores | None = None,
) -> Summary:
    """Score a run's samples, keep its scores of other metrics, and write run.trec, scores.jsonl and summary.json.

    `finished` is the last line of each question, `lines` every line ever written (for usage), `early` the scores that
    were made before.
    """
    questions = directory.read_questions()
    if len(questions) != (n_questions := directory.read_manifest().n_questions):
        raise UsageError(f"{directory.path}: questions.jsonl has {len(questions)} of its {n_questions} questions")
    unanswered = sum(question.id not in finished for question in questions)
    if unanswered:
        raise UsageError(f"{directory.path}: {unanswered} questions have no sample yet; run it again to resume")
    samples = [finished[question.id] for question in questions]
    return add_scores(directory, samples, lines, score_samples(scorers, samples, questions, early), seed)


def add_scores(
    directory: RunDirectory, samples: Sequence[Sample], lines: Sequence[Sample], made: list[Score], seed: int
) -> Summary:
    """Replace the scores of these metrics, and write run.trec, scores.jsonl and summary.json."""
    again = {(score.metric, score.question_id) for score in made}
    is_about_hits_anew = any(is_about_hits(score.signature) for score in made)
    kept = [
        score
        for score in directory.read_scores()
        if (score.metric, score.question_id) not in again and not (is_about_hits_anew and is_outdated(score.signature))
    ]
    scores = kept + made
    summary = summarise(samples, lines, scores, seed, directory.read_repeats())
    directory.write_trec_run(samples)
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
    wanted = {sample.question_id for sample in samples}
    by_metric: dict[str, list[Score]] = {}
    for score in scores:
        if score.question_id in wanted:
            by_metric.setdefault(score.metric, []).append(score)
    complete = {
        metric: _by_question(found, samples)
        for metric, found in by_metric.items()
        if len(found) == len(samples) and len({score.signature for score in found}) == 1
    }
    counts = Counter(sample.status for sample in samples)
    taken = Tally((*lines, *repeats))
    return Summary(
        metrics=summarise_metrics(complete, query_clusters([sample.query for sample in samples]), seed),
        counts={"questions": len(samples)} | {status: counts[status] for status in get_args(Status)},
        lost=sum(sample.is_lost for sample in samples),
        **doubts_of(samples),
        cached=sum(sample.cached for sample in samples),
        left_out=LeftOut(
            not_in_data=sum(sample.notes_missing for sample in samples),
            too_long=sum(
                (sample.notes_given or 0) - sample.notes_used
                for sample in samples
                if sample.status != "failed" and sample.notes_used is not None
            ),
            questions_without_notes=sum(
                sample.notes_used == 0 and (sample.notes_given or 0) + sample.notes_missing > 0
                for sample in samples
                if sample.status != "failed"
            ),
            cut_by_server=sum(map(taken.is_cut, samples)),
            images=_images_left_out(samples),
        ),
        retries=taken.retries,
        usage=taken.usage,
        uncounted=taken.uncounted,
        repeats=_compare_repeats(samples, repeats),
    )


def _images_left_out(samples: Iterable[Sample]) -> dict[str, int]:
    """Count the images that prompts lack, by reason."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts.update(sample.images_left_out if sample.status != "failed" else {})
    return dict(sorted(counts.items()))


def doubts_of(lines: Iterable[Exchange]) -> dict[str, Any]:
    """Return the fields of a summary that say why replies were empty, and which answers are doubtful."""
    lines = list(lines)
    return {
        "why_empty": counted_by_kind(line.error or "not known" for line in lines if line.status == "empty"),
        "marks": counted_by_kind(mark for line in lines for mark in line.marks),
        "odd_endings": counted_by_kind(line.finish_reason or "" for line in lines if "odd_ending" in line.marks),
    }


def _compare_repeats(samples: Sequence[Sample], repeats: Iterable[Sample]) -> Repeats | None:
    """Count the answers that changed among the questions repeated most often; None if nothing was repeated."""
    first = {sample.question_id: sample.answer for sample in samples if sample.is_answered}
    again: dict[str, list[str]] = {}
    for repeat in repeats:
        if repeat.is_answered and repeat.question_id in first:
            again.setdefault(repeat.question_id, []).append(repeat.answer)
    if not again:
        return None
    times = max(map(len, again.values()))
    complete = {question_id: answers for question_id, answers in again.items() if len(answers) == times}
    changed = sum(any(answer != first[question_id] for answer in answers) for question_id, answers in complete.items())
    share = changed / len(complete)
    return Repeats(times=1 + times, questions=len(complete), changed=changed, share_changed=share)


def _by_question(scores: Iterable[Score], samples: Sequence[Sample]) -> list[Score]:
    by_question = {score.question_id: score for score in scores}
    return [by_question[sample.question_id] for sample in samples]
