"""Let an LLM judge which of two runs answers better, in both orders of the answers, and rate the runs.

Two verdicts make a score: 1 for the answer preferred in both orders, 0.5 for a tie in both. A flip, which prefers the
same place in both orders, is 0.5 as well and counted apart; a tie in one order is 0.75 to 0.25. A question with a
missing verdict is unscored for this pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.ratings import JudgedComparison, JudgedPair, RatedRun
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.text import slug
from qilin_rag.core.types import Judgement, Question, Sample
from qilin_rag.judging.bradley_terry import rate
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.docket import Case, Docket, Hearing, Judge, hear, plan_hearing, why_unread
from qilin_rag.judging.verdicts import Preference, read_preference
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.prompts.judge import PairwisePrompt, PromptValues, load_judge_prompt

_SCORES = {"A": 1.0, "B": 0.0, "tie": 0.5}  # of the answer that is shown first
_KINDS: dict[tuple[Preference, Preference], str] = {
    ("A", "B"): "won",
    ("B", "A"): "lost",
    ("tie", "tie"): "tied",
    ("A", "A"): "flipped_to_first",
    ("B", "B"): "flipped_to_second",
}


class Compared(NamedTuple):
    """A comparison, the folder that keeps it, and its tokens and cost."""

    path: Path
    comparison: JudgedComparison
    hearing: Hearing


class _Entrant(NamedTuple):
    name: str
    questions: dict[str, Question]
    samples: dict[str, Sample]


class _Match(NamedTuple):
    """The runs to compare, their `shared` questions, those that are judged, and the pairs by place.

    `keys` has the cases of each pair and question in both orders.
    """

    entrants: list[_Entrant]
    shared: list[Question]
    questions: list[Question]
    pairs: list[tuple[int, int]]
    keys: dict[tuple[int, int, str], tuple[str, str]]
    docket: Docket


class _PairOutcome(NamedTuple):
    """The outcome of a question of a pair: a count of `JudgedPair` or why it is unscored, and the score of `a`."""

    kind: str
    score: float | None


def compare_runs(paths: Sequence[Path], config: JudgeConfig) -> Compared:
    """Judge every pair of these runs, and rate the runs; a judgement on disk is not asked for again.

    Judgements are kept in `runs_dir`, in one folder a judge: one more run costs only the pairs with it. `limit` takes
    the first of a seeded permutation of the shared questions.
    """
    judge = Judge(config, load_judge_prompt(PairwisePrompt))
    entrants, shared, questions, pairs, keys, docket = _match(judge, paths)
    with docket.directory.locked():
        hearing = hear(docket)
        outcomes = {
            (i, j): [
                _unasked(entrants[i], entrants[j], question)
                or _outcome(
                    hearing.said.get(keys[i, j, question.id][0]),
                    hearing.said.get(keys[i, j, question.id][1]),
                    docket.cases[keys[i, j, question.id][0]].shown,
                )
                for question in questions
            ]
            for i, j in pairs
        }
        scores = _scores(outcomes, len(entrants), len(questions))
        ratings = rate(scores, config.seed, query_clusters([question.query for question in questions]))
        comparison = JudgedComparison(
            judge=judge.label,
            signature=judge.signature("pairwise|both orders|Bradley-Terry", hearing.said),
            n_questions=len(questions),
            n_not_shared=len({question_id for entrant in entrants for question_id in entrant.questions}) - len(shared),
            pairs=[_pair(entrants[i].name, entrants[j].name, outcomes[i, j]) for i, j in pairs],
            runs=[
                RatedRun(run=entrant.name, rating=ratings[i] if ratings else None) for i, entrant in enumerate(entrants)
            ],
        )
        write_text(docket.directory.path / "ratings.json", comparison.model_dump_json(indent=2) + "\n")
    return Compared(docket.directory.path, comparison, hearing)


def plan_comparison(paths: Sequence[Path], config: JudgeConfig) -> Plan:
    """Plan the calls and the cost of `compare_runs`; write nothing."""
    judge = Judge(config, load_judge_prompt(PairwisePrompt))
    return plan_hearing(_match(judge, paths).docket)


def _match(judge: Judge, paths: Sequence[Path]) -> _Match:
    entrants = _read_entrants(paths)
    shared = _shared_questions(entrants)
    questions = select_questions(shared, judge.config.limit, judge.config.seed)
    pairs = list(combinations(range(len(entrants)), 2))
    cases: dict[str, Case] = {}
    keys: dict[tuple[int, int, str], tuple[str, str]] = {}
    for i, j in pairs:
        for question in questions:
            if _unasked(entrants[i], entrants[j], question) is None:
                both = (_case(question, entrants[i], entrants[j]), _case(question, entrants[j], entrants[i]))
                keys[i, j, question.id] = judge.key(both[0]), judge.key(both[1])
                cases |= dict(zip(keys[i, j, question.id], both, strict=True))
    name = judge.config.runs_dir / f"judged-{slug(judge.config.llm_label)}"
    earlier = Path(f"{name}-{judge.former_sha256[:8]}")
    directory = RunDirectory(earlier if earlier.is_dir() else Path(f"{name}-{judge.sha256[:8]}"))
    return _Match(entrants, shared, questions, pairs, keys, Docket(judge, cases, set(cases), directory))


def _read_entrants(paths: Sequence[Path]) -> list[_Entrant]:
    entrants = []
    for path in paths:
        directory = RunDirectory(path)
        directory.read_complete()
        questions = {question.id: question for question in directory.read_questions()}
        entrants.append(_Entrant(path.resolve().name, questions, directory.read_samples()[0]))
    names = Counter(entrant.name for entrant in entrants)
    if len(names) < len(entrants):
        raise UsageError(f"two runs are called {names.most_common(1)[0][0]!r}; a run can't be compared with itself")
    return entrants


def _shared_questions(entrants: Sequence[_Entrant]) -> list[Question]:
    """Return the questions that all runs share; a question must be the same in all of them."""
    first = entrants[0]
    shared = [
        question
        for question in first.questions.values()
        if all(question.id in entrant.questions and question.id in entrant.samples for entrant in entrants)
    ]
    for question in shared:
        for entrant in entrants[1:]:
            other = entrant.questions[question.id]
            if (question.query, question.references) != (other.query, other.references):
                raise UsageError(f"question {question.id} is not the same in {first.name} and {entrant.name}")
    if not shared:
        raise UsageError("these runs have no question in common")
    return shared


def _unasked(a: _Entrant, b: _Entrant, question: Question) -> _PairOutcome | None:
    """Return the outcome that needs no judge: an answer is missing, or both are the same."""
    ours, theirs = a.samples[question.id], b.samples[question.id]
    if not (ours.is_answered and theirs.is_answered):
        return _PairOutcome("no two answers", None)
    return _PairOutcome("same", 0.5) if ours.answer == theirs.answer else None


def _case(question: Question, first: _Entrant, second: _Entrant) -> Case:
    values: PromptValues = {
        "query": question.query,
        "references": question.references,
        "answer_a": first.samples[question.id].answer,
        "answer_b": second.samples[question.id].answer,
    }
    return Case(question, [first.name, second.name], values)


def _outcome(forth: Judgement | None, back: Judgement | None, shown: Sequence[str]) -> _PairOutcome:
    """Combine two verdicts: `forth` saw a's answer first, `back` b's; `shown` are the texts that both saw."""
    if reason := why_unread(forth) or why_unread(back):
        return _PairOutcome(reason, None)
    assert forth and back
    one, other = (read_preference(judgement.answer, shown) for judgement in (forth, back))
    if one is None or other is None:
        return _PairOutcome("no verdict", None)
    return _PairOutcome(_KINDS.get((one, other), "leaning"), (_SCORES[one] + 1 - _SCORES[other]) / 2)


def _pair(a: str, b: str, outcomes: Sequence[_PairOutcome]) -> JudgedPair:
    kinds = Counter(outcome.kind for outcome in outcomes if outcome.score is not None)
    scored = [outcome.score for outcome in outcomes if outcome.score is not None]
    return JudgedPair(
        a=a,
        b=b,
        won=kinds["won"],
        lost=kinds["lost"],
        tied=kinds["tied"] + kinds["same"],
        leaning=kinds["leaning"],
        flipped_to_first=kinds["flipped_to_first"],
        flipped_to_second=kinds["flipped_to_second"],
        same=kinds["same"],
        unscored=dict(sorted(Counter(outcome.kind for outcome in outcomes if outcome.score is None).items())),
        score=sum(scored) / len(scored) if scored else None,
    )


def _scores(
    outcomes: Mapping[tuple[int, int], Sequence[_PairOutcome]], n_runs: int, n_questions: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the scores for `rate`: those of run i against run j, question by question."""
    scores = np.zeros((n_questions, n_runs, n_runs))
    for (i, j), of_pair in outcomes.items():
        for row, outcome in enumerate(of_pair):
            if outcome.score is not None:
                scores[row, i, j], scores[row, j, i] = outcome.score, 1 - outcome.score
    return scores
