"""Types of clicked notes by query: shares by kind of query, and a calibrated model of a click's type.

Clicks depend on what was shown. The share of videos among clicks is therefore beside that among results. The model must
beat not only one share for all clicks, but also the share of videos among each request's results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.analysis.causal import FEWEST_GROUPS
from qilin_rag.analysis.covariates import asks, covariates_of, group_by_user
from qilin_rag.analysis.figures import Column, FigureTable, ratio
from qilin_rag.analysis.log import VIDEO, Log
from qilin_rag.analysis.nuisance import folds
from qilin_rag.analysis.queries import SOURCES
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage
from qilin_rag.core.stats import intervals95, share95
from qilin_rag.data.exposures import Bools, Ints

Floats = npt.NDArray[np.float64]

FEWEST_CLICKS = 100
_BINS = 10
_SMOOTHING = 1.0


def modality(log: Log, users: pa.Table | None, seed: int = 0) -> list[FigureTable]:
    """Return types by kind of query, the gain of the model, and its calibration, for searches only."""
    is_video = log.note_type == VIDEO
    searched = log.shown.is_search[log.shown.request] & (log.note_type > 0)
    clicked_results = np.flatnonzero(searched & log.clicked)
    n_videos = int(is_video[clicked_results].sum())
    if min(n_videos, len(clicked_results) - n_videos) < FEWEST_CLICKS:
        raise UsageError(
            f"{n_videos} clicks of searches on videos and {len(clicked_results) - n_videos} on image-text notes: "
            f"{FEWEST_CLICKS} of each are needed at least"
        )
    request = log.shown.request[clicked_results]
    rows = np.unique(request)
    n_shown, shown_videos = (
        np.bincount(log.shown.request[searched], weights, minlength=len(log.shown))
        for weights in (None, is_video[searched].astype(float))
    )
    overall = is_video[searched].mean()
    shown = ((shown_videos + _SMOOTHING * overall) / (n_shown + _SMOOTHING))[request]
    target = is_video[clicked_results]
    groups = group_by_user(log, rows)[np.searchsorted(rows, request)]
    for name, side in (("videos", target), ("image-text notes", ~target)):
        if (n_users := len(np.unique(groups[side]))) < FEWEST_GROUPS:
            raise UsageError(f"clicks of searches on {name} by {n_users} users: {FEWEST_GROUPS} are needed at least")
    covariates = covariates_of(log, users, rows, seed).values[np.searchsorted(rows, request)]
    log_odds = np.log(shown / (1 - shown))[:, None]
    base = np.full(len(target), target.mean())
    predictions = {"one share for all": base, "share among the results": np.clip(shown, 1e-6, 1 - 1e-6)}
    models = {
        "model of the query": covariates,
        "model of the query and the results": np.hstack([covariates, log_odds]),
    }
    with stage("models", len(models)) as advance:
        for name, values in models.items():
            predictions[name] = _predicted(values, target, groups, seed)
            advance()
    best = predictions["model of the query and the results"]
    return [_by_query(log, is_video, searched), _gains(predictions, target, groups), _calibration(best, target)]


def _predicted(covariates: Floats, target: Bools, groups: Ints, seed: int) -> Floats:
    """Return the probability that each click was on a video, by calibrated (Platt) cross-fitted regression."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros(len(target))
    for fit, rest in folds(target, groups, seed):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        calibrated = CalibratedClassifierCV(model, cv=3).fit(covariates[fit], target[fit])
        probabilities[rest] = calibrated.predict_proba(covariates[rest])[:, 1]
    return np.clip(probabilities, 1e-6, 1 - 1e-6)


def _by_query(log: Log, is_video: Bools, searched: Bools) -> FigureTable:
    """Return the share of videos among results and clicks, by whether the query asks, its length, and its source."""
    of_request = log.shown.request
    queries = log.shown.queries
    n_chars = np.array([len(query) for query in queries])[of_request]
    asking = asks(queries)[of_request]
    of_user = group_by_user(log, np.arange(len(log.shown)))
    source = log.shown.source[of_request]
    parts: list[tuple[str, Bools]] = [
        ("all", searched),
        ("asks", searched & asking),
        ("does not ask", searched & ~asking & (n_chars > 0)),
    ]
    parts += [
        (f"{name} characters", searched & mask)
        for name, mask in (
            ("up to 4", (n_chars > 0) & (n_chars <= 4)),
            ("5 to 8", (n_chars > 4) & (n_chars <= 8)),
            ("over 8", n_chars > 8),
        )
    ]
    parts += [(f"{i} {name}", searched & (source == i)) for i, name in enumerate(SOURCES, start=1)]
    values: list[list[float | None]] = []
    intervals: list[list[tuple[float, float] | None]] = []
    for _, mask in parts:
        clicks = mask & log.clicked
        shares = [ratio((is_video & part).sum(), part.sum()) for part in (mask, clicks)]
        users = of_user[of_request][clicks]
        has_interval = len(np.unique(users)) >= FEWEST_GROUPS
        interval = share95(is_video[clicks].astype(float), users) if has_interval else None
        lift = None if not shares[0] or shares[1] is None else shares[1] / shares[0]
        values.append([int(clicks.sum()), *shares, lift])
        intervals.append([None, None, interval, None])
    return FigureTable(
        key="modality_queries",
        title="Videos among results and clicks, by kind of query",
        columns=[
            Column(name="clicks", unit="count"),
            Column(name="videos among results", unit="share"),
            Column(name="videos among clicks", unit="share"),
            Column(name="lift"),
        ],
        rows=[name for name, _ in parts],
        values=values,
        ci95=intervals,
        notes=[
            "Lift: the share among clicks over that among results. Intervals: Wilson's, the clicks of a user taken "
            f"together; none of fewer than {FEWEST_GROUPS} users.",
        ],
        why_missing="too few results or clicks",
    )


def _gains(predictions: dict[str, Floats], target: Bools, groups: Ints) -> FigureTable:
    from sklearn.metrics import roc_auc_score

    losses = {name: -np.log(np.where(target, p, 1 - p)) for name, p in predictions.items()}
    first = next(iter(losses.values()))
    gains = np.stack([first - loss for loss in losses.values()], axis=1)
    intervals = intervals95(gains, groups)
    values: list[list[float | None]] = []
    for (name, p), gain in zip(predictions.items(), gains.T, strict=True):
        auc = float(roc_auc_score(target, p))
        values.append([float(losses[name].mean()), float(gain.mean()), float(((p - target) ** 2).mean()), auc])
    return FigureTable(
        key="modality_model",
        title="How well the type of a clicked note is predicted",
        columns=[Column(name=name) for name in ("log loss", "gain over one share", "Brier score", "AUC")],
        rows=list(predictions),
        values=values,
        ci95=[
            [None, (interval.low, interval.high) if interval and i else None, None, None]
            for i, interval in enumerate(intervals)
        ],
        notes=[
            f"{len(target):,} clicks of searches, {target.mean():.1%} on videos; each predicted by models that saw no "
            "click of its user. Gains are in nats per click; their intervals invert a sign-flip test over users.",
        ],
    )


def _calibration(p: Floats, target: Bools) -> FigureTable:
    """Return predicted and observed shares, in tenths of the clicks by prediction."""
    order = np.argsort(p, kind="stable")
    parts: Sequence[Ints] = np.array_split(order, _BINS)
    off = sum(abs(p[part].mean() - target[part].mean()) * len(part) for part in parts) / len(p)
    return FigureTable(
        key="modality_calibration",
        title="Predicted and observed shares of videos",
        columns=[
            Column(name="clicks", unit="count"),
            Column(name="predicted", unit="share"),
            Column(name="observed", unit="share"),
        ],
        rows=[f"tenth {i}" for i in range(1, _BINS + 1)],
        values=[[len(part), float(p[part].mean()), float(target[part].mean())] for part in parts],
        notes=[f"Expected calibration error: {off:.4f}."],
    )
