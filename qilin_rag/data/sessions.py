"""The two kinds of sessions: those of the app, and those that end with a user's pause.

Qilin's `session_idx` numbers sessions of the app, which the paper uses for Figure 3b. Its section 4.3 (Tables 6 and 8)
takes all requests of a user in time order, and a pause of more than 30 minutes begins another session. The kinds
differ: a session of the app may hold a long pause, and one may directly follow another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.data.exposures import MISSING, Ints, RequestColumns


class Sessions(NamedTuple):
    """The session of each of `n` requests.

    Attributes:
        number: (n,), the number of the session; -1 if a request is in none.
        ordinal: (n,), 1 + the number of requests of the session that began earlier, so that requests of the same time
            share a place; 0 if a request is in no session.
    """

    number: Ints
    ordinal: Ints


def app_sessions(requests: RequestColumns, log: Sequence[RequestColumns]) -> Sessions:
    """Return the requests' sessions of the app, those of one `session_idx`.

    Args:
        requests: Any requests of the log.
        log: All requests of every table, in any order.

    Returns:
        The sessions of `requests`; a request without session_idx or time is in none.
    """
    session, time = _joined(log, "session_idx"), _joined(log, "time_ms")
    return _placed(session, time, requests.session_idx, requests.time_ms)


def pause_sessions(requests: RequestColumns, log: Sequence[RequestColumns], gap_s: int) -> Sessions:
    """Return the requests' sessions by the rule of section 4.3: a user's pause of more than `gap_s` begins another.

    Args:
        requests: Any requests of the log.
        log: All requests of every table, in any order.
        gap_s: The longest pause within a session, in seconds.

    Returns:
        The sessions of `requests`; a request without user_idx or time is in none.
    """
    user, time = _joined(log, "user_idx"), _joined(log, "time_ms")
    has_user = (user >= 0) & (time >= 0)
    order = np.lexsort((time[has_user], user[has_user]))
    user, time = user[has_user][order], time[has_user][order]
    begins = np.ones(len(user), bool)
    begins[1:] = (np.diff(user) != 0) | (np.diff(time) > gap_s * 1000)
    session = np.cumsum(begins) - 1
    sessions_of_requests = np.full(len(requests), MISSING)
    has_both = (requests.user_idx >= 0) & (requests.time_ms >= 0)
    last = _last_not_later(user, time, requests.user_idx[has_both], requests.time_ms[has_both])
    sessions_of_requests[has_both] = session[last]
    return _placed(session, time, sessions_of_requests, requests.time_ms)


def _joined(log: Sequence[RequestColumns], column: str) -> Ints:
    joined: Ints = np.concatenate([getattr(part, column) for part in log])
    return joined


def _last_not_later(keys: Ints, times: Ints, wanted_keys: Ints, wanted_times: Ints) -> Ints:
    """Return the last row with the same key that is not later, for rows ordered by key and time."""
    ranks = np.unique(np.concatenate([times, wanted_times]), return_inverse=True)[1]
    names = np.unique(np.concatenate([keys, wanted_keys]), return_inverse=True)[1]
    joint = names * (ranks.max(initial=0) + 1) + ranks
    last: Ints = np.searchsorted(joint[: len(keys)], joint[len(keys) :], side="right") - 1
    return last


def _placed(session: Ints, time: Ints, request_session: Ints, own_time: Ints) -> Sessions:
    """Return sessions of requests, by how many times of the whole log (`session` and `time`) are earlier."""
    is_known = (session >= 0) & (time >= 0)
    sessions, times = np.unique(session[is_known]), np.unique(time[is_known])

    def key(session: Ints, time: Ints) -> Ints:
        """Numbers that go up by session, then by time."""
        key: Ints = np.searchsorted(sessions, session) * (len(times) + 1) + np.searchsorted(times, time)
        return key

    keys = np.sort(key(session[is_known], time[is_known]))
    has_both = (request_session >= 0) & (own_time >= 0)
    first = key(request_session[has_both], np.full(has_both.sum(), MISSING))
    ordinal = np.zeros(len(request_session), np.int64)
    ordinal[has_both] = (
        np.searchsorted(keys, key(request_session[has_both], own_time[has_both])) - np.searchsorted(keys, first) + 1
    )
    return Sessions(np.where(has_both, request_session, MISSING), ordinal)
