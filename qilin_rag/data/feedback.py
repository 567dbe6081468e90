"""Feedback on answers, from the log alone: the flags of dqa, and whether the user searched again soon after.

**Re-search.** A search has one if its user made another search for the same need soon after: at most `minutes` after
it, and in other words whose similarity to the query is at least `similarity`. The similarity of two queries is
Dice's coefficient of their sets of tokens, which are Chinese characters and runs of Latin letters or digits:
2 |A and B| / (|A| + |B|). The same query again is none, since users reload pages and come back to them.

This label is noisy. A user may ask again because the answer was good and woke interest, may ask for the same need in
words without a shared character, and may give up without another search. In Qilin users also reformulate queries that
were shown no answer, so compare measures by it, and don't read its rate as a rate of bad answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import mixed_tokens, normalise, query_key
from qilin_rag.data.encodings import Batch, present_columns, read_batches
from qilin_rag.data.exposures import MISSING, Bools, Ints, RequestColumns, concat, read_exposures
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.questions import NO_ANSWER
from qilin_rag.data.schema import FEEDBACK, TABLES
from qilin_rag.data.source import Source
from qilin_rag.data.text_files import Defect, stop

RE_SEARCH_MINUTES = 10
"""The most minutes between a search and another one for the same need."""
SAME_NEED = 0.4
"""The least similarity of two queries for the same need."""
_OTHER_SEARCHES = ("search_train", "search_test")
_COLUMNS = ("search_idx", "query", "user_idx", "session_idx", "dqa_output", *FEEDBACK)


class AnswerFeedback(NamedTuple):
    """The feedback on the `n` answers that were shown, in the order of the table dqa.

    Attributes:
        ids: The search_idx of each answer.
        queries: The query of each answer.
        user_idx: (n,); -1 if it is not known. Answers to one user are not independent.
        session_idx: (n,), the session of the app; -1 if it is not known.
        flags: (n,) by name of the flag: 1 the user did it, 0 did not, -1 not recorded. A flag whose column the table
            lacks is not there. All of Qilin's flags are positive: there is none for a user who dislikes an answer.
    """

    ids: Sequence[str]
    queries: Sequence[str]
    user_idx: Ints
    session_idx: Ints
    flags: Mapping[str, Ints]

    @property
    def engaged(self) -> Ints:
        """Return whether any flag is set, (n,); -1 if none is recorded."""
        flags = np.stack(list(self.flags.values()))
        engaged: Ints = flags.max(axis=0)
        return engaged


class ReSearches(NamedTuple):
    """Whether each of `n` searches was followed by another search for the same need (a noisy label).

    Attributes:
        label: (n,), 1 or 0; -1 if the search was not asked about, or the user or the time is not known.
        next_row: (n,), the row of the first such search; -1 if there is none.
    """

    label: Ints
    next_row: Ints


def read_feedback(source: Source) -> AnswerFeedback:
    """Return the feedback flags of all answers that were shown, read in batches.

    Raises:
        UsageError: if the data has no table dqa, its table has none of the flags, or a row has no search_idx.
    """
    encoding, files = source.files("dqa")
    table = TABLES["dqa"]
    present = set(present_columns(encoding, files, table))
    flags = [name for name in FEEDBACK if name in present]
    if not flags or "dqa_output" not in present:
        raise UsageError(f"{files[0]} has no feedback on answers; it needs dqa_output and one of {', '.join(FEEDBACK)}")
    names = [name for name in _COLUMNS if name in present]
    parts = [_shown_answers(batch, names) for path in files for batch in read_batches(encoding, path, table, names)]
    empty = pa.schema([(name, table.readable[name]) for name in names]).empty_table()
    rows = pa.concat_tables(parts) if parts else empty
    return AnswerFeedback(
        ids=rows.column("search_idx").to_pylist(),
        queries=pc.fill_null(rows.column("query"), "").to_pylist(),
        user_idx=_whole_numbers(rows, "user_idx"),
        session_idx=_whole_numbers(rows, "session_idx"),
        flags={name: np.clip(_whole_numbers(rows, name), MISSING, 1) for name in flags},
    )


def read_re_searches(
    source: Source, minutes: float = RE_SEARCH_MINUTES, similarity: float = SAME_NEED
) -> dict[str, int]:
    """Return the label of each answer that was shown, by search_idx, from all searches that the data has.

    Args:
        source: The data. Without search_train and search_test, only searches in dqa can follow an answer.
        minutes: The most minutes between an answer and a search for the same need.
        similarity: The least similarity of their queries, above 0 and at most 1.

    Returns:
        1 or 0 by the rule of this module; -1 if the user or the time is not known.

    Raises:
        UsageError: if the data has no table dqa with the results shown, which have the times, or if a limit is out of
            range.
    """
    check_minutes(minutes, source.log)
    dqa = read_exposures(source, "dqa")
    others = [read_exposures(source, name) for name in _OTHER_SEARCHES if name in source.tables()]
    labels = find_re_searches(concat([dqa, *others]), minutes, similarity).label.tolist()
    return {
        search_idx: label
        for search_idx, label, shown in zip(dqa.ids, labels[: len(dqa)], dqa.answered.tolist(), strict=True)
        if shown
    }


def check_minutes(minutes: float, log: LogSettings) -> None:
    """Raise a UsageError if searches at most `minutes` apart may be of two sessions."""
    if minutes * 60 > log.session_gap_s:
        raise UsageError(
            f"minutes {minutes:g} is longer than the longest pause within a session "
            f"(log.session_gap_s={log.session_gap_s}), so the searches may be of two sessions"
        )


def check_similarity(similarity: float) -> None:
    """Raise a UsageError if a similarity of queries is out of range."""
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity must be above 0 and at most 1, not {similarity:g}")


def find_re_searches(
    searches: RequestColumns,
    minutes: float = RE_SEARCH_MINUTES,
    similarity: float = SAME_NEED,
    asked: Bools | None = None,
) -> ReSearches:
    """Label searches by the rule of this module.

    Args:
        searches: All searches of the log, in any order.
        minutes: The most minutes between a search and another one for the same need.
        similarity: The least similarity of their queries, above 0 and at most 1.
        asked: The searches to label, (n,). Default: those that were shown an answer.

    Returns:
        The label of each search.

    Raises:
        UsageError: if `minutes` or `similarity` is out of range.
    """
    check_similarity(similarity)
    asked = searches.answered if asked is None else asked
    label = np.where(asked & has_user_and_time(searches), 0, MISSING)
    next_row = np.full(len(searches), MISSING)
    for before, after in pairs_within(searches, minutes):
        is_open = asked[before] & (next_row[before] == MISSING)
        before, after = before[is_open], after[is_open]
        same = same_need(searches.queries, before, after, similarity)
        label[before[same]], next_row[before[same]] = 1, after[same]
    return ReSearches(label, next_row)


def has_user_and_time(searches: RequestColumns) -> Bools:
    """Return whether user and time of each search are known, (n,)."""
    known: Bools = (searches.user_idx >= 0) & (searches.time_ms >= 0)
    return known


def pairs_within(searches: RequestColumns, minutes: float) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows of searches and of later ones of the same user at most `minutes` after: first the next ones.

    Raises:
        UsageError: if `minutes` is out of range.
    """
    if not minutes > 0:
        raise UsageError(f"minutes must be above 0, not {minutes:g}")
    order = np.lexsort((searches.id_numbers(), searches.time_ms, searches.user_idx))
    order = order[has_user_and_time(searches)[order]]
    user, time_ms = searches.user_idx[order], searches.time_ms[order]
    for lag in range(1, len(order)):
        is_soon = (user[lag:] == user[:-lag]) & (time_ms[lag:] - time_ms[:-lag] <= minutes * 60_000)
        if not is_soon.any():
            break
        first = np.flatnonzero(is_soon & (time_ms[lag:] > time_ms[:-lag]))
        yield order[first], order[first + lag]


def query_similarity(first: str, second: str) -> float:
    """Return Dice's coefficient of the sets of tokens of two queries, from 0 to 1.

    >>> query_similarity("国考准考证怎么下载", "国考准考证手机下载")
    0.75
    >>> query_similarity("龙的种类", "iPhone 15")
    0.0
    """
    old, new = (set(mixed_tokens(normalise(query))) for query in (first, second))
    return 2 * len(old & new) / (len(old) + len(new)) if old and new else 0.0


def same_need(queries: Sequence[str], before: Ints, after: Ints, similarity: float) -> Bools:
    """Return whether each pair of queries is similar enough, and not the same query."""
    same = np.zeros(len(before), bool)
    for i, (first, second) in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
        old, new = queries[first], queries[second]
        same[i] = query_similarity(old, new) >= similarity and query_key(old) != query_key(new)
    return same


def _shown_answers(batch: Batch, names: Sequence[str]) -> pa.Table:
    rows = pa.table({name: batch.rows.column(name) for name in names})
    is_missing = batch.rows.column("search_idx").is_null()
    if (row := is_missing.index(True).as_py()) >= 0:
        stop(Defect(batch.path, batch.place(row), "search_idx", "is missing"))
    output = pc.utf8_trim_whitespace(pc.fill_null(rows.column("dqa_output"), ""))
    return rows.filter(pc.invert(pc.is_in(output, pa.array(NO_ANSWER))))


def _whole_numbers(rows: pa.Table, name: str) -> Ints:
    """Return a column as whole numbers; -1 for a missing value."""
    if name not in rows.column_names:
        return np.full(len(rows), MISSING)
    numbers: Ints = pc.fill_null(rows.column(name).cast(pa.int64(), safe=False), MISSING).to_numpy()
    return numbers
