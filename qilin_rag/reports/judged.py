"""Read what judges said of a run's answers, with their reasons, and of runs against each other."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_json
from qilin_rag.core.ratings import JudgedComparison, JudgedPair
from qilin_rag.core.types import Judgement
from qilin_rag.pipeline.run_directory import RunDirectory

logger = logging.getLogger(__name__)

RATINGS = "ratings.json"


def judgements_of(directory: RunDirectory, question_ids: Collection[str]) -> dict[str, list[Judgement]]:
    """Return the latest judgements of a run's answers, and of pairs that the run is in, by question.

    Pairs come from the folders of judges beside the run or one level up.
    """
    return judgements_of_runs([directory], question_ids)[directory.path]


def judgements_of_runs(
    directories: Sequence[RunDirectory], question_ids: Collection[str]
) -> dict[Path, dict[str, list[Judgement]]]:
    """Return what `judgements_of` does for several runs by their paths; each file is read once, without messages."""
    paths = {directory.path.resolve(): directory.path for directory in directories}
    found: dict[Path, dict[str, dict[tuple[str, ...], Judgement]]] = {path: {} for path in paths}
    for folder in (*paths, *_judges_folders(paths)):
        near = [folder] if folder in paths else [path for path in paths if folder.parent in path.parents[:2]]
        for judgement in _read(folder):
            if judgement.question_id not in question_ids:
                continue
            for path in near:
                if path == folder or path.name in judgement.runs:
                    of_question = found[path].setdefault(judgement.question_id, {})
                    of_question[judgement.judge, *judgement.runs] = judgement
    return {
        paths[path]: {question_id: _own_first(by_judge.values(), path.name) for question_id, by_judge in of_run.items()}
        for path, of_run in found.items()
    }


def _own_first(judgements: Iterable[Judgement], name: str) -> list[Judgement]:
    """Sort judgements whatever call ended first: of the run alone, then of pairs, the run shown first before second."""
    return sorted(judgements, key=lambda each: (len(each.runs) > 1, each.judge, each.runs[0] != name, each.runs))


def _read(folder: Path) -> Iterator[Judgement]:
    """Read the judgements in a folder; of a damaged file those before the damage, which the log reports."""
    try:
        for judgement in RunDirectory(folder).read_judgements():
            yield judgement.model_copy(update={"messages": []})
    except UsageError as error:
        logger.warning("%s", error)


def comparisons_of(run_directories: Iterable[Path]) -> list[JudgedComparison]:
    """Return the comparisons of these runs by judges, from folders beside the runs or one level up.

    Unreadable comparisons are logged. A comparison counts if at least two of the runs are in it; other runs stay in it,
    because ratings depend on each other.
    """
    paths = [path.resolve() for path in run_directories]
    names = {path.name for path in paths}
    found = []
    for folder in _judges_folders(paths):
        path = folder / RATINGS
        if not path.is_file():
            continue
        try:
            comparison = JudgedComparison.model_validate(read_json(path))
        except (UsageError, ValueError) as error:
            logger.warning("left out, unreadable: %s (%s)", path, str(error).splitlines()[0])
            continue
        if len(names & {rated.run for rated in comparison.runs}) > 1:
            found.append(comparison)
    return found


def win_share(pairs: Sequence[JudgedPair], run: str) -> float | None:
    """Return the mean score of a run over all its judged questions, a tie counting half; None if there are none."""
    scored = [
        (pair.score if pair.a == run else 1 - pair.score, _n_scored(pair))
        for pair in pairs
        if run in (pair.a, pair.b) and pair.score is not None
    ]
    total = sum(n for _, n in scored)
    return sum(score * n for score, n in scored) / total if total else None


def _n_scored(pair: JudgedPair) -> int:
    return pair.won + pair.lost + pair.tied + pair.leaning + pair.flipped


def _judges_folders(runs: Iterable[Path]) -> list[Path]:
    """Return the folders of judges that compared runs, beside these runs or one level up."""
    places = dict.fromkeys(place for run in runs for place in run.parents[:2])
    found = [folder for place in places for folder in sorted(place.glob("judged-*"))]
    return [folder for folder in found if folder.is_dir() and not folder.is_symlink()]
