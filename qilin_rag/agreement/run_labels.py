"""Join people's labels with the runs that they are of: judged pairs and rated answers, with the scores of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

import numpy as np

from qilin_rag.agreement.label_rows import LabelRow
from qilin_rag.agreement.pair_scores import SENTINELS, answer_sentinels
from qilin_rag.agreement.pairs import ComparedAnswer, ComparedPair, JudgedPairs
from qilin_rag.agreement.rated_answers import RatedAnswers
from qilin_rag.core.errors import UsageError
from qilin_rag.core.label_rules import answers_hash
from qilin_rag.core.stats import Clusters, Values, query_clusters
from qilin_rag.core.text import counted
from qilin_rag.core.types import Question
from qilin_rag.reports.measured import Measured, highest_is_best

CHOICE = "choice"
"""The aspect of a preference between two answers."""
MOST_ANNOTATORS = 8
"""The most annotators of whom each is compared with each other one."""
_CHOSEN = {"A": -1.0, "B": 1.0, "tie": 0.0, "both_bad": 0.0}
Answer = tuple[str, int]
"""The id of a question, and the place of the run that answered it."""
Said = dict[str, dict[str, list[float]]]
"""The values that each annotator gave, by aspect."""


class ScoredLabels(NamedTuple):
    """Labels with scores of the same answers; `measures` and `sentinels` are shaped for their kind of labels."""

    judged: JudgedPairs
    measures: dict[str, Values]
    sentinels: dict[str, Values]


class ScoredRatings(NamedTuple):
    """Ratings of single answers with their scores, shape (answers,) each."""

    rated: RatedAnswers
    measures: dict[str, Values]
    sentinels: dict[str, Values]


class JoinedLabels(NamedTuple):
    """The labels of some runs; `remarks` say what was left out, and why."""

    n_labels: int
    annotators: list[str]
    pairs: ScoredLabels | None
    answers: ScoredRatings | None
    remarks: list[str]


class MatchedLabels(NamedTuple):
    """Labels with the answers that they are of.

    Attributes:
        n_labels: The number of labels of the runs.
        annotators: The annotators.
        ratings: What was said of each answer alone.
        pairs: What was said of each two answers to a question: by how much that of the later run is better.
        texts: The answers of each run by question.
        unlabelled: The places of the runs without a label.
        remarks: Remarks on labels that were left out.
    """

    n_labels: int
    annotators: list[str]
    ratings: dict[Answer, Said]
    pairs: dict[tuple[str, int, int], Said]
    texts: list[dict[str, str]]
    unlabelled: list[int]
    remarks: list[str]

    def judged(self, runs: Sequence[Measured]) -> JudgedPairs:
        """Return the pairs with what people said of them; there must be one.

        Args:
            runs: The runs that the labels were matched with.
        """
        compared = [
            ComparedPair(
                query=(question := runs[i].questions[qid]).query,
                reference=question.references or [""],
                a=ComparedAnswer(answer=self.texts[i][qid], system=runs[i].name),
                b=ComparedAnswer(answer=self.texts[j][qid], system=runs[j].name),
                people=_judges(said, self.annotators),
            )
            for (qid, i, j), said in self.pairs.items()
        ]
        return JudgedPairs(compared, {})


def match_labels(rows: Sequence[LabelRow], runs: Sequence[Measured]) -> MatchedLabels:
    """Find the answers that labels are of.

    Ratings of two answers to a question become a pair: by one row side by side, or by the same annotator one by one.

    Args:
        rows: The labels.
        runs: The runs, in the order in which the answers of a pair are compared.

    Raises:
        UsageError: if no label is of these runs.
    """
    texts = [{qid: sample.answer for qid, sample in run.samples().items()} for run in runs]
    used, remarks = _of_runs(rows, runs, texts)
    if not used:
        raise UsageError(f"no label is of the runs: {'; '.join(remarks)}")
    annotators = list(dict.fromkeys(row.annotator for row, _ in used))
    with_labels = {place for _, places in used for place in places}
    unlabelled = [place for place in range(len(runs)) if place not in with_labels]
    return MatchedLabels(len(used), annotators, _ratings(used), _pairs(used, runs), texts, unlabelled, remarks)


def join_labels(rows: Sequence[LabelRow], runs: Sequence[Measured], seed: int = 0) -> JoinedLabels:
    """Join labels with the scores of the answers that they are of, and with those of sentinels.

    Args:
        rows: The labels.
        runs: The runs, in the order in which the answers of a pair are compared.
        seed: Draws the permuted answers.

    Raises:
        UsageError: if no label is of these runs.
    """
    matched = match_labels(rows, runs)
    ratings, pairs = matched.ratings, matched.pairs
    answers = list(dict.fromkeys([*ratings, *((qid, place) for qid, *both in pairs for place in both)]))
    questions = [runs[place].questions[qid] for qid, place in answers]
    queries = query_clusters([question.query for question in questions])
    measures, about_measures = _measures(runs, answers)
    sentinels = answer_sentinels(
        [matched.texts[place][qid] for qid, place in answers],
        [question.references for question in questions],
        [str(place) for _, place in answers],
        queries,
        seed,
    )
    number = {answer: position for position, answer in enumerate(answers)}
    found_pairs = found_ratings = None
    if pairs:
        both = np.array([[number[qid, i], number[qid, j]] for qid, i, j in pairs], dtype=np.intp)
        found_pairs = ScoredLabels(matched.judged(runs), _taken(measures, both), _taken(sentinels, both))
    if ratings:
        of = np.array([number[answer] for answer in ratings], dtype=np.intp)
        said = [_judges(each, matched.annotators) for each in ratings.values()]
        rated = RatedAnswers(list(ratings), queries[of], said)
        found_ratings = ScoredRatings(rated, _taken(measures, of), _taken(sentinels, of))
    remarks = [*matched.remarks, *(f"{runs[place].name}: no label" for place in matched.unlabelled), *about_measures]
    return JoinedLabels(matched.n_labels, matched.annotators, found_pairs, found_ratings, remarks)


def _of_runs(
    rows: Sequence[LabelRow], runs: Sequence[Measured], texts: Sequence[Mapping[str, str]]
) -> tuple[list[tuple[LabelRow, tuple[int, ...]]], list[str]]:
    """Return the labels of these runs with the places of their runs, and remarks on the others."""
    names: dict[str, list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        path = run.directory.path
        for name in {run.name, path.name, path.resolve().name, str(path)}:
            names[name].append(place)
    used, left_out = [], Counter[str]()
    for row in rows:
        places, why = _places(row, names, texts)
        if why := why or _why_left_out(row, places, runs, texts):
            left_out[why] += 1
        else:
            used.append((row, places))
    return used, [f"left out: {counted(n, 'label')}, {why}" for why, n in left_out.items()]


def _places(
    row: LabelRow, names: Mapping[str, list[int]], texts: Sequence[Mapping[str, str]]
) -> tuple[tuple[int, ...], str | None]:
    """Return the places of the runs of a label, or why they are unknown; of copies of a run, the first counts."""
    places = []
    for name in row.runs:
        found = names.get(name, [])
        if len({texts[place].get(row.question_id) for place in found}) != 1:
            return (), f"of {name}, which {'is the name of two runs' if found else 'is not one of the runs'}"
        places.append(found[0])
    return tuple(places), None


def _why_left_out(
    row: LabelRow, places: Sequence[int], runs: Sequence[Measured], texts: Sequence[Mapping[str, str]]
) -> str | None:
    if row.is_empty:
        return "without a choice, or ratings in columns such as quality.a"
    asked = [runs[place].questions.get(row.question_id) for place in places]
    if not all(asked):
        return "of questions that are not in the run"
    if any(row.query is not None and question and question.query.strip() != row.query.strip() for question in asked):
        return "of questions that have another text in the run"
    if row.answers_sha256 not in (None, answers_hash([texts[place][row.question_id] for place in places])):
        return "of answers that have another text in the run"
    return None if _are_same(asked[0], asked[-1]) else "of questions that differ between the runs"


def _are_same(one: Question | None, other: Question | None) -> bool:
    return bool(one and other and (one.query, one.references) == (other.query, other.references))


def _ratings(used: Sequence[tuple[LabelRow, tuple[int, ...]]]) -> dict[Answer, Said]:
    """Return the ratings of each answer; an annotator may rate it beside several others."""
    found: dict[Answer, Said] = {}
    for row, places in used:
        for criterion, sides in row.ratings.items():
            for side, value in sides.items():
                said = found.setdefault((row.question_id, places[side]), {}).setdefault(row.annotator, {})
                said.setdefault(criterion, []).append(value)
    return found


def _pairs(
    used: Sequence[tuple[LabelRow, tuple[int, ...]]], runs: Sequence[Measured]
) -> dict[tuple[str, int, int], Said]:
    """Return by how much each annotator finds the answer of the later run better, by aspect."""
    found: dict[tuple[str, int, int], Said] = {}
    alone = _ratings([(row, places) for row, places in used if len(places) == 1])
    for row, places in used:
        if len(places) == 2:
            first, second = sorted(places)
            sign = 1.0 if places == (first, second) else -1.0
            said = {} if row.choice is None else {CHOICE: [sign * _CHOSEN[row.choice]]}
            for criterion, sides in row.ratings.items():
                if len(sides) == 2:
                    said[pair_aspect(criterion)] = [sign * (sides[1] - sides[0])]
            if said:
                found.setdefault((row.question_id, first, second), {}).setdefault(row.annotator, {}).update(said)
    by_question: dict[str, list[int]] = defaultdict(list)
    for question_id, place in alone:
        by_question[question_id].append(place)
    for question_id, rated in by_question.items():
        for first, second in combinations(sorted(rated), 2):
            if not _are_same(runs[first].questions[question_id], runs[second].questions[question_id]):
                continue
            one, other = alone[question_id, first], alone[question_id, second]
            for annotator in one.keys() & other.keys():
                gains = {
                    pair_aspect(name): [fmean(other[annotator][name]) - fmean(one[annotator][name])]
                    for name in one[annotator].keys() & other[annotator].keys()
                }
                if gains:
                    said = found.setdefault((question_id, first, second), {}).setdefault(annotator, {})
                    said.update({name: value for name, value in gains.items() if name not in said})
    return found


def pair_aspect(criterion: str) -> str:
    """Return the aspect of pairs that ratings by a criterion give; the choice keeps its name.

    >>> pair_aspect("fluent"), pair_aspect("choice")
    ('fluent', 'choice (rating)')
    """
    return criterion if criterion != CHOICE else f"{CHOICE} (rating)"


def _judges(said: Said, annotators: Sequence[str]) -> list[dict[str, float | None]]:
    """Return what each annotator said, at the same place in each list, so that each is compared with each other one.

    A crowd that labels a few answers each is compared as the first, the second ... annotator of an answer.
    """
    names = annotators if len(annotators) <= MOST_ANNOTATORS else [name for name in annotators if name in said]
    return [{aspect: fmean(values) for aspect, values in said.get(name, {}).items()} for name in names]


def _measures(runs: Sequence[Measured], answers: Sequence[Answer]) -> tuple[dict[str, Values], list[str]]:
    """Return the scores of answers by each metric that all runs have, and remarks on the other metrics."""
    found, remarks = {}, []
    for metric in dict.fromkeys(name for run in runs for name in run.values):
        signatures = {run.signature(metric) for run in runs}
        if None in signatures:
            without = ", ".join(run.name for run in runs if run.signature(metric) is None)
            remarks.append(f"{metric} left out: no scores of {without} (qilin-rag score, or judge, adds them)")
        elif len(signatures) > 1:
            remarks.append(f"{metric} left out: made in several ways (qilin-rag score RUN makes it anew)")
        else:
            values = np.array(list(_values(runs, metric, answers)), dtype=np.float64)
            is_lowest = not highest_is_best(str(signatures.pop()))
            name = metric if metric not in SENTINELS else f"{metric} (metric)"
            found[name] = -values if is_lowest else values
            if is_lowest:
                remarks.append(f"{metric}: the lowest is the best, so it counts with its sign turned round")
    return found, remarks


def _values(runs: Sequence[Measured], metric: str, answers: Sequence[Answer]) -> Iterator[float]:
    places = [dict(zip(run.questions, run.values[metric].tolist(), strict=True)) for run in runs]
    return (places[place][question_id] for question_id, place in answers)


def _taken(scores: Mapping[str, Values], rows: Clusters) -> dict[str, Values]:
    return {name: values[rows] for name, values in scores.items()}
