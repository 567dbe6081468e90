"""Covariates of a search that are known before its results are shown: of the query, the time and the user."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.analysis.functions import distinct_columns
from qilin_rag.analysis.log import Log
from qilin_rag.core.arrays import positions_in
from qilin_rag.data.exposures import BEIJING_MS, Bools, Ints

Floats = npt.NDArray[np.float64]

_TEXT_DIMENSIONS = 16
_TEXT = "text "
_DAY_MS = 24 * 3600 * 1000
_QUESTION = re.compile(r"[?？吗呢]|什么|怎|咋|如何|多少|多久|多大|几|为什么|为何|哪|是否|能不能|可以|区别|谁")


class Covariates(NamedTuple):
    """Covariates of searches that were known before their results were shown.

    Attributes:
        values: The covariates, (n, d), with a name for each column.
        dropped: Why a column was left out: `constant`, or `same as NAME`.
    """

    names: list[str]
    values: Floats
    dropped: dict[str, str]

    @property
    def latent(self) -> set[str]:
        """Return the names of columns whose scale and sign are arbitrary: the dimensions of the text."""
        return {name for name in self.names if name.startswith(_TEXT)}


def asks(queries: Sequence[str]) -> Bools:
    """Return which queries hold a question word, (n,)."""
    return np.array([_QUESTION.search(query) is not None for query in queries], bool)


def group_by_user(log: Log, rows: Ints) -> Ints:
    """Return a number for the user of each request; a request without a user is its own group."""
    users = log.shown.user_idx[rows]
    return np.where(users >= 0, users, -1 - np.arange(len(rows)))


def covariates_of(log: Log, users: pa.Table | None, rows: Ints, seed: int) -> Covariates:
    """Return the covariates of query, time and user, without constant or duplicate columns.

    A text counts by its characters, too, reduced by latent semantic analysis.
    """
    shown = log.shown
    queries = [shown.queries[row] for row in rows.tolist()]
    columns: dict[str, Floats] = {
        "query characters": np.array([len(query) for query in queries], float),
        "query asks": asks(queries).astype(float),
    }
    source = shown.source[rows]
    columns |= {f"source {i or 'missing'}": (source == i).astype(float) for i in np.unique(source).tolist()}
    columns["place in session (pause)"] = np.minimum(log.pause_sessions.ordinal[rows], 11).astype(float)
    columns["recent clicks"] = np.diff(shown.recent_offsets)[rows].astype(float)
    angle = 2 * math.pi * ((shown.time_ms[rows] + BEIJING_MS) % _DAY_MS) / _DAY_MS
    has_time = shown.time_ms[rows] >= 0
    columns |= {
        "hour (sine)": np.where(has_time, np.sin(angle), 0),
        "hour (cosine)": np.where(has_time, np.cos(angle), 0),
    }
    columns |= _user_columns(users, shown.user_idx[rows])
    columns |= _text_columns(queries, seed)
    names, values = list(columns), np.stack(list(columns.values()), axis=1)
    kept_columns, dropped = distinct_columns(names, values)
    return Covariates([names[column] for column in kept_columns], values[:, kept_columns], dropped)


def _user_columns(users: pa.Table | None, user_idx: Ints) -> dict[str, Floats]:
    if users is None or not len(users):
        return {}
    ids = users["user_idx"].to_numpy()
    places = positions_in(ids, user_idx)
    is_known = places >= 0
    columns: dict[str, Floats] = {} if is_known.all() else {"user unknown": (~is_known).astype(float)}
    for name in ("gender", "platform", "age"):
        if name in users.schema.names:
            values = np.array([value or "unknown" for value in users[name].to_pylist()])[places]
            columns |= {
                f"{name} {value}": ((values == value) & is_known).astype(float) for value in np.unique(values[is_known])
            }
    for name in ("fans_num", "follows_num"):
        if name in users.schema.names:
            numbers = users[name].fill_null(0).to_numpy()[places]
            columns[name] = np.where(is_known, np.log1p(np.maximum(numbers, 0)), 0)
    return columns


def _text_columns(queries: Sequence[str], seed: int) -> dict[str, Floats]:
    """Return the topics of the queries, as far as their characters show them."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), min_df=5, sublinear_tf=True)
    try:
        matrix = vectorizer.fit_transform(queries)
    except ValueError:  # no character is in five queries
        return {}
    n_dimensions = min(_TEXT_DIMENSIONS, matrix.shape[1] - 1)
    if not n_dimensions:
        return {}
    reduced = TruncatedSVD(n_dimensions, random_state=seed).fit_transform(matrix)
    return {f"{_TEXT}{i}": column for i, column in enumerate(reduced.T, start=1)}
