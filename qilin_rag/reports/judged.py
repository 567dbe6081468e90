"""What judges said: of a run's answers with their reasons, and of runs against each other."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from qilin_rag.errors import UsageError
from qilin_rag.pairwise import Comparison, Pair
from qilin_rag.store import JUDGEMENTS, RunDirectory, read_json
from qilin_rag.types import Judgement

logger = logging.getLogger(__name__)

RATINGS = "ratings.json"


def judgements_of(directory: RunDirectory, question_ids: Collection[str]) -> dict[str, list[Judgement]]:
    """Return the last word of each judge on a run's answers, and on pairs that it is in, by question.

    Pairs are those that a judge's folder beside the run holds.
    """
    name = directory.path.resolve().name
    found: dict[str, dict[tuple[object, ...], Judgement]] = {}
    for folder in (directory.path, *_judges_folders([directory.path.resolve().parent])):
        if not (folder / JUDGEMENTS).is_file():
            continue
        for judgement in RunDirectory(folder).read_judgements():
            if judgement.question_id in question_ids and name in judgement.runs:
                key = (judgement.judge, *judgement.runs)
                found.setdefault(judgement.question_id, {})[key] = judgement.model_copy(update={"messages": []})
    return {question_id: list(by_judge.values()) for question_id, by_judge in found.items()}


def comparisons_of(run_directories: Iterable[Path]) -> list[Comparison]:
    """Return what judges made of these runs against each other, from the folders beside them; unreadable ones logged.

    A comparison counts if two of the runs or more are in it; other runs stay in it, since ratings hang together.
    """
    paths = [path.resolve() for path in run_directories]
    names = {path.name for path in paths}
    found = []
    for folder in _judges_folders(dict.fromkeys(path.parent for path in paths)):
        path = folder / RATINGS
        if not path.is_file():
            continue
        try:
            comparison = Comparison.model_validate(read_json(path))
        except (UsageError, ValueError) as error:
            logger.warning("left out, unreadable: %s (%s)", path, str(error).splitlines()[0])
            continue
        if len(names & {rated.run for rated in comparison.runs}) > 1:
            found.append(comparison)
    return found


def win_share(pairs: Sequence[Pair], run: str) -> float | None:
    """Return the mean of what a run scored over all its judged questions, a tie counting half; None without any."""
    scored = [
        (pair.score if pair.a == run else 1 - pair.score, _n_scored(pair))
        for pair in pairs
        if run in (pair.a, pair.b) and pair.score is not None
    ]
    total = sum(n for _, n in scored)
    return sum(score * n for score, n in scored) / total if total else None


def _n_scored(pair: Pair) -> int:
    return pair.won + pair.lost + pair.tied + pair.leaning + pair.flipped


def _judges_folders(parents: Iterable[Path]) -> list[Path]:
    return [folder for parent in parents for folder in sorted(parent.glob("judged-*")) if folder.is_dir()]
