"""Compute figures of the whole set, which are no means over requests: AUC, GAUC, LogLoss, calibration.

Each has the 95% interval of `core.stats` over its influence values (infinitesimal jackknife, Efron 1982): values by
request or user whose mean is the figure, and that vary as the figure does if a request or user is drawn again. Of an
AUC they are the placements of DeLong et al. (1988), with clusters as in Obuchowski (1997).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from qilin_rag.core.stats import Clusters, PairedTest, paired_tests, standard_error
from qilin_rag.core.text import counted
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.metrics import Bools, Ints, Values
from qilin_rag.rankers.placements import auc_by_group, place
from qilin_rag.rankers.ranking_directory import POOLED_SIGNATURES, PooledFigure

NOT_A_PROBABILITY = "the ranker's scores are no probabilities of a click"
NOT_SHOWN = "only a note that was shown could be clicked; they are for --candidates exposed"
_BETWEEN_0_AND_1 = ("auc", "gauc_request", "gauc_user")


class _Influence(NamedTuple):
    """A figure, its influence values (n,), their clusters, and what they are values of."""

    value: float
    values: Values
    clusters: Clusters
    unit: str
    left_out: str | None = None


def pooled_figures(
    requests: Requests, scores: Floats, clusters: Clusters, why_no_probability: str | None
) -> dict[str, PooledFigure]:
    """Return the figures of the whole set by name; one that can't be had says why.

    Args:
        requests: All requests with their candidates, also those without a click.
        scores: (m,), finite.
        clusters: The cluster of each request, (n,).
        why_no_probability: Why sigmoid(score) is not the probability of a click; None if it is.
    """
    made = {
        "auc": _auc(requests, scores, clusters),
        "gauc_request": _gauc_by_request(requests, scores, clusters),
        "gauc_user": _gauc_by_user(requests, scores),
        **dict.fromkeys(("logloss", "calibration"), why_no_probability),
    }
    if why_no_probability is None:
        made |= dict(_of_probabilities(requests, scores, clusters))
    tests = _tests({name: found for name, found in made.items() if isinstance(found, _Influence)})
    return {
        name: PooledFigure(missing=found, signature=POOLED_SIGNATURES[name])
        if isinstance(found, str)
        else _summed_up(name, found, tests[name])
        for name, found in made.items()
        if found is not None
    }


def _tests(found: Mapping[str, _Influence]) -> dict[str, PairedTest]:
    """Test figures of the same clusters together, which takes the time of one."""
    alike: dict[int, list[str]] = defaultdict(list)
    for name, figure in found.items():
        alike[id(figure.clusters)].append(name)
    tests: dict[str, PairedTest] = {}
    for names in alike.values():
        values = np.stack([found[name].values for name in names], axis=1)
        tests |= zip(names, paired_tests(values, found[names[0]].clusters), strict=True)
    return tests


def _summed_up(name: str, found: _Influence, test: PairedTest) -> PooledFigure:
    interval = None if test.interval is None else test.interval[:2]
    if interval and name in _BETWEEN_0_AND_1:
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return PooledFigure(
        value=found.value,
        n=len(found.values),
        unit=found.unit,
        left_out=found.left_out,
        stderr=standard_error(found.values, found.clusters),
        ci95=interval,
        no_interval=test.no_interval,
        signature=POOLED_SIGNATURES[name],
    )


def _auc(requests: Requests, scores: Floats, clusters: Clusters) -> _Influence | str:
    clicked = requests.clicked
    if clicked.all() or not clicked.any():
        return "not both a clicked and an unclicked candidate"
    below = place(np.zeros(len(clicked), np.int64), scores, clicked, 1).below
    share = np.where(clicked, below, 1 - below)  # of an unclicked one: the clicked ones that score higher
    auc = float(share[clicked].mean())
    weight = np.where(clicked, 1 / clicked.sum(), 1 / (~clicked).sum())
    moved = np.bincount(requests.request, weight * (share - auc), minlength=len(requests)).astype(np.float64)
    return _Influence(auc, auc + len(requests) * moved, clusters, "requests")


def _gauc_by_request(requests: Requests, scores: Floats, clusters: Clusters) -> _Influence | str:
    of_request = auc_by_group(requests.request, scores, requests.clicked, len(requests))
    return _weighted("requests", of_request, np.diff(requests.offsets), clusters)


def _gauc_by_user(requests: Requests, scores: Floats) -> _Influence | str:
    """Return the GAUC over the users that are known; all candidates of a user are one group."""
    user = requests.user_idx[requests.request]
    is_known = user >= 0
    if not is_known.any():
        return "no request has a user"
    users, group = np.unique(user[is_known], return_inverse=True)
    of_user = auc_by_group(group, scores[is_known], requests.clicked[is_known], len(users))
    found = _weighted("users", of_user, np.bincount(group), np.arange(len(users)))
    if isinstance(found, str) or is_known.all():
        return found
    n_unknown = int((requests.user_idx < 0).sum())
    said = filter(None, (found.left_out, f"{counted(n_unknown, 'request')} without a user"))
    return found._replace(left_out="; ".join(said))


def _weighted(unit: str, aucs: Values, n_shown: Ints, clusters: Clusters) -> _Influence | str:
    """Return the mean of the AUCs that exist, weighted by the number of candidates (Zhou et al. 2018)."""
    has_both: Bools = ~np.isnan(aucs)
    if not has_both.any():
        return f"none of the {unit} has both a clicked and an unclicked candidate"
    weights, values = n_shown[has_both].astype(np.float64), aucs[has_both]
    gauc = float((weights * values).sum() / weights.sum())
    influence = gauc + weights * (values - gauc) / weights.mean()
    why = f"{(~has_both).sum():,} of {len(aucs):,} {unit}, which lack a clicked or an unclicked candidate"
    left_out = None if has_both.all() else why
    return _Influence(gauc, influence, clusters[has_both], unit, left_out)


def _of_probabilities(requests: Requests, scores: Floats, clusters: Clusters) -> Iterator[tuple[str, _Influence | str]]:
    """Yield LogLoss and calibration of sigmoid(score)."""
    logit, n = scores.astype(np.float64), np.diff(requests.offsets).astype(np.float64)
    loss = np.logaddexp(0.0, np.where(requests.clicked, -logit, logit))
    probability = np.exp(-np.logaddexp(0.0, -logit))

    def summed(values: Values) -> Values:
        return np.bincount(requests.request, values, minlength=len(requests)).astype(np.float64)

    clicks = summed(requests.clicked.astype(np.float64))
    yield "logloss", _ratio(summed(loss), n, clusters)
    yield (
        "calibration",
        _ratio(summed(probability), clicks, clusters) if clicks.any() else "no candidate was clicked",
    )


def _ratio(above: Values, below: Values, clusters: Clusters) -> _Influence:
    """Return the ratio of two sums over requests; `below` has values above 0."""
    ratio = float(above.sum() / below.sum())
    return _Influence(ratio, ratio + (above - ratio * below) / below.mean(), clusters, "requests")
