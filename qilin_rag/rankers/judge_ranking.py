"""Judge a finished ranking against the clicks: the figures of each request, of the whole set, and of parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import Clusters, standard_error
from qilin_rag.core.types import Score
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.clock import check_clock
from qilin_rag.data.requests import Floats, Requests, TaskName
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.candidates import Candidates
from qilin_rag.rankers.differences import answer_differences
from qilin_rag.rankers.diversity import COVERAGE, ILD, diversity, taxonomy_of
from qilin_rag.rankers.metrics import FIGURES, Bools, Ints, RankedGroups, TieRange, Values, by_request, tie_range
from qilin_rag.rankers.page_columns import ASSUMED
from qilin_rag.rankers.placements import REQUEST_AUC, request_auc, sampled_figures
from qilin_rag.rankers.pooled import NOT_A_PROBABILITY, NOT_SHOWN, pooled_figures
from qilin_rag.rankers.ranking_directory import (
    SIGNATURES,
    HangsOnTies,
    RankConfig,
    RankingSummary,
    RequestFigures,
    SliceFigure,
    SliceSummary,
    clusters_of,
)
from qilin_rag.rankers.slices import Partition, of_candidates, of_requests
from qilin_rag.rankers.split_log import SplitLog
from qilin_rag.scorers.summary import summarise_metrics

logger = logging.getLogger(__name__)
_NO_TAXONOMY = "the notes have no taxonomy"
_WHY_NONE = {
    REQUEST_AUC: "not both a clicked and an unclicked candidate",
    ILD: "fewer than two candidates with a category",
    COVERAGE: "no candidate with a category",
}


class ScoredRanking(NamedTuple):
    """A ranking with all that its figures depend on.

    Attributes:
        asked: The requests as they were shown.
        found: The requests with their candidates, those included whose note the data lacks.
        requests: The requests with the candidates that were ranked.
        scores: (m,): the scores of the candidates of `requests`.
    """

    ranker: Ranker
    candidates: Candidates
    asked: Requests
    found: Requests
    requests: Requests
    scores: Floats
    catalogue: Catalogue
    log: SplitLog
    config: RankConfig

    @property
    def n_relevant(self) -> Ints:
        """Return the number of clicked notes that figures of each request divide by, (n,)."""
        return (self.asked if self.candidates.counts_unfound else self.requests).n_clicked


def judge_ranking(work: ScoredRanking) -> tuple[list[RequestFigures], RankingSummary]:
    """Return the figures of each request, and their summary."""
    asked, requests, scores = work.asked, work.requests, work.scores
    columns, why_none = _figures(work)
    clicks = [name for name in columns if name not in (ILD, COVERAGE)]
    ties = tie_range(requests, scores, work.n_relevant)
    of_each = of_requests(requests, list(work.log.all().values()), work.config.log.session_gap_s)
    lines = [
        RequestFigures(
            id=requests.ids[row],
            query=requests.queries[row],
            figures=figures,
            reason=None if figures else "its clicked notes were left out" if asked.n_clicked[row] else "no click",
            slices={part.name: part.labels[part.of[row]] for part in of_each if part.of[row] >= 0},
            tied=bool(ties.is_tied[row]),
        )
        for row, figures in enumerate(by_request(columns))
    ]
    clusters = clusters_of(lines)
    slices = [
        _slice(part.name, label, "requests", {name: columns[name] for name in clicks}, part.of == i, clusters)
        for part in of_each
        for i, label in enumerate(part.labels)
    ]
    why_no_probability = None if work.ranker.is_click_logit else NOT_A_PROBABILITY
    if not work.candidates.is_shown:
        why_no_probability = NOT_SHOWN
    return lines, RankingSummary(
        metrics=summarise_metrics({name: _scores(lines, name, why_none.get(name)) for name in columns}, clusters),
        pooled=pooled_figures(requests, scores, clusters, why_no_probability),
        ties=_hanging(ties) if not work.candidates.is_sampled else {},
        counts=_counts(work, lines, ties),
        slices=[*slices, *_slices_of_candidates(work, clusters)],
        differences=answer_differences(of_each, [line.figures for line in lines], clusters),
        remarks=_remarks(work),
    )


def _figures(work: ScoredRanking) -> tuple[dict[str, Values], dict[str, str]]:
    """Return the figures of all requests, NaN if one has none, and why a figure is missing for some or all."""
    requests, scores = work.requests, work.scores
    columns = _click_figures(work, requests, scores, work.n_relevant)
    why_none = dict(_WHY_NONE)
    if not work.candidates.is_sampled:  # random notes beside the clicked ones say nothing of a list
        paths = taxonomy_of(requests, work.catalogue)
        if paths is None:
            why_none |= dict.fromkeys((ILD, COVERAGE), _NO_TAXONOMY)
            columns |= {name: np.full(len(requests), np.nan) for name in (ILD, COVERAGE)}
        else:
            columns |= diversity(requests, scores, paths)
    is_clicked = work.n_relevant > 0
    return {name: np.where(is_clicked, values, np.nan) for name, values in columns.items()}, why_none


def _click_figures(work: ScoredRanking, requests: Requests, scores: Floats, n_relevant: Ints) -> dict[str, Values]:
    if work.candidates.is_sampled:
        columns = sampled_figures(requests, scores)
    else:
        columns = RankedGroups(requests.offsets, scores, requests.clicked, n_relevant=n_relevant).figures()
    return columns | {REQUEST_AUC: request_auc(requests, scores)}


def _slices_of_candidates(work: ScoredRanking, clusters: Clusters) -> Iterator[SliceSummary]:
    """Yield the figures of kinds of candidates: of each kind among itself, or of clicked ones among all negatives."""
    requests, scores = work.requests, work.scores
    train = _train_of(work.log, work.config.task)
    unfound = _clicks_of_kinds(work, train)
    for part in of_candidates(requests, work.catalogue, train, with_columns=work.candidates.is_shown):
        for i, label in enumerate(part.labels):
            is_kind = part.of == i
            if work.candidates.is_sampled:
                columns = sampled_figures(requests, scores, is_kind)
                n = int((is_kind & requests.clicked).sum())
                yield _slice(part.name, label, "clicked", columns, None, clusters, n)
                continue
            of_kind = requests.with_candidates(is_kind)
            n_relevant = of_kind.n_clicked if unfound is None else unfound[part.name][i]
            columns = _click_figures(work, of_kind, scores[is_kind], n_relevant)
            yield _slice(part.name, label, "candidates", columns, None, clusters, int(is_kind.sum()))


def _clicks_of_kinds(work: ScoredRanking, train: Requests | None) -> dict[str, list[Ints]] | None:
    """Return the number of clicked notes of each kind, (n,) each, candidates or not; None if only those count."""
    if not work.candidates.counts_unfound:
        return None
    asked = work.asked.with_candidates(work.asked.clicked)
    lacking = work.catalogue.notes.missing(asked.note_idx)
    asked = asked.with_candidates(~np.isin(asked.note_idx, lacking))
    parts: list[Partition] = of_candidates(asked, work.catalogue, train)
    return {
        part.name: [asked.with_candidates(part.of == i).n_clicked for i in range(len(part.labels))] for part in parts
    }


def _counts(work: ScoredRanking, lines: Sequence[RequestFigures], ties: TieRange) -> dict[str, int]:
    counts = {
        "requests": len(lines),
        "without_click": sum(line.figures is None for line in lines),
        "candidates": work.requests.n_candidates,
        "left_out": work.found.n_candidates - work.requests.n_candidates,
        "tied": int(ties.is_tied.sum()),
    }
    if work.candidates.counts_unfound:
        n_found = int(work.requests.clicked.sum())
        counts |= {"clicked": int(work.n_relevant.sum()), "not_found": int(work.n_relevant.sum()) - n_found}
        counts["without_candidates"] = int((np.diff(work.requests.offsets) == 0).sum())
    return counts


def _hanging(ties: TieRange) -> dict[str, HangsOnTies]:
    """Return the mean of each figure with the worst and the best order of ties; empty if no order changes one."""
    if not ties.is_tied.any():
        return {}
    return {
        name: HangsOnTies(lowest=float(np.nanmean(ties.lowest[name])), highest=float(np.nanmean(ties.highest[name])))
        for name in FIGURES
    }


def _remarks(work: ScoredRanking) -> list[str]:
    """Return what was assumed of the log that figures and slices depend on."""
    settings, asked = work.log.source.log, work.asked
    n_zero = int((asked.position == 0).sum()) if work.candidates.is_shown else 0
    at_top = [f"{n_zero:,} candidates are at position 0, taken for the top (log.position_zero)."] if n_zero else []
    return [
        *at_top,
        "Sessions: of the app (session_idx), and of a user's requests by pauses (one of more than "
        f"{settings.session_gap_s / 60:g} minutes begins another). {check_clock(work.log.all(), settings).sentence()}",
        *([ASSUMED] if work.candidates.is_shown and (asked.position > 0).any() else []),
    ]


def _train_of(log: SplitLog, task: TaskName) -> Requests | None:
    """Return the train split; None with a log message if there is none."""
    try:
        return log.split(task, "train")
    except UsageError as error:
        logger.warning("no slice of what was not seen in train: %s", error)
        return None


def _scores(lines: Sequence[RequestFigures], name: str, why_none: str | None) -> list[Score]:
    values = [(line.figures or {}).get(name) for line in lines]
    return [
        Score(
            question_id=line.id,
            metric=name,
            value=value,
            reason=line.reason or (why_none if value is None else None),
            signature=SIGNATURES[name],
        )
        for line, value in zip(lines, values, strict=True)
    ]


def _slice(
    name: str,
    label: str,
    of: Literal["requests", "candidates", "clicked"],
    columns: Mapping[str, Values],
    rows: Bools | None,
    clusters: Clusters,
    n: int | None = None,
) -> SliceSummary:
    """Sum up the figures (n_requests,) of a part: of these rows, or of all that have one; `n` is then its size."""
    figures = {}
    for figure, values in columns.items():
        is_scored = ~np.isnan(values) & (True if rows is None else rows)
        scored = values[is_scored]
        figures[figure] = SliceFigure(
            value=float(scored.mean()) if len(scored) else None,
            n=len(scored),
            stderr=standard_error(scored, clusters[is_scored]),
        )
    size = n if n is not None else 0 if rows is None else int(rows.sum())
    return SliceSummary(slice=name, label=label, of=of, n=size, figures=figures)
