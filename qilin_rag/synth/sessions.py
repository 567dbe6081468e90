"""The plan of requests: users, times and sessions of both kinds, with the edge cases of the 30-minute rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.data.log_settings import LogSettings
from qilin_rag.synth.dice import Bools, Dice, Ints
from qilin_rag.synth.shelf import stride
from qilin_rag.synth.world import World

SESSION_GAP_S = LogSettings().session_gap_s
"""The longest gap, in seconds, between two requests of a session."""
_FIRST_S = 1732464000
_SPAN_S = 7 * 86400
_MEAN_GAP_S = 120
_MEAN_BREAK_S = 6 * 3600
_ACTIVITY = 1.6


class SessionPlan(NamedTuple):
    """All requests, by user and time; one value per request."""

    is_search: Bools
    user: Ints
    session: Ints
    """The session by the rule of pauses."""
    app_session: Ints
    """The session_idx: the user's time in the app, independent of pauses."""
    ordinal: Ints
    """The place in the session by the rule of pauses, from 0."""
    time_s: Ints
    """True time."""
    stamp_s: Ints
    """The timestamp; those of searches are ahead of true time by `World.search_shift_s`."""
    number: Ints
    """The place among the requests of its kind."""
    idx: Ints
    """The search_idx or request_idx, in random order."""


def plan_requests(world: World, dice: Dice) -> SessionPlan:
    """Return the wanted numbers of searches and recommendations, in sessions with the wanted transitions."""
    is_search, begins = _kinds(world, dice)
    session = np.cumsum(begins) - 1
    n_sessions = int(session[-1]) + 1
    users = world.counts.users
    u = dice.uniform("session-user", np.arange(n_sessions))
    user_of = np.minimum((users * u**_ACTIVITY).astype(np.int64), users - 1)  # a few users are frequent
    order = np.argsort(user_of[session], kind="stable")
    is_search, begins, session = is_search[order], begins[order], session[order]
    user = user_of[session]
    rows = np.arange(len(user))
    ordinal = rows - np.maximum.accumulate(np.where(begins, rows, 0))
    number = np.where(is_search, np.cumsum(is_search), np.cumsum(~is_search)) - 1
    idx = np.empty_like(number)
    for kind in (True, False):
        n = int((is_search == kind).sum())
        idx[is_search == kind] = (number[is_search == kind] * stride(n) + n // 2) % n
    time_s = _times(world, dice, user, begins)
    app = np.cumsum(_begins_in_app(world, dice, user, time_s, begins)) - 1
    n_app = int(app[-1]) + 1
    app_session = (app * stride(n_app) + n_app // 2) % n_app
    stamp_s = time_s + np.where(is_search, world.search_shift_s, 0)
    return SessionPlan(is_search, user, session, app_session, ordinal, time_s, stamp_s, number, idx)


def _kinds(world: World, dice: Dice) -> tuple[Bools, Bools]:
    """Return whether each request is a search, and whether it begins a session."""
    remaining = [world.counts.recommendations, world.counts.searches]
    n = sum(remaining)
    goes_on = (dice.uniform("next", np.arange(n)) < world.next_request).tolist()
    turns = dice.uniform("turn", np.arange(n)).tolist()
    share_turning = [world.to_search, world.to_recommendation]
    is_search, begins = np.zeros(n, bool), np.ones(n, bool)
    kind = 0
    for i in range(n):
        next_kind = 1 - kind if turns[i] < share_turning[kind] else kind
        if i and goes_on[i] and remaining[next_kind]:
            kind, begins[i] = next_kind, False
        else:
            kind = int(turns[i] * (remaining[0] + remaining[1]) < remaining[1])
        remaining[kind] -= 1
        is_search[i] = kind
    return is_search, begins


def _begins_in_app(world: World, dice: Dice, user: Ints, time_s: Ints, begins: Bools) -> Bools:
    """Return whether each request begins a session of the app.

    This follows the rule of pauses, with two exceptions. The app may stay open over a pause (less likely for a longer
    one), and it may be restarted within a session.
    """
    rows = np.arange(len(user))
    is_first = np.concatenate([[True], user[1:] != user[:-1]])
    beyond_h = np.diff(time_s, prepend=time_s[:1]).clip(SESSION_GAP_S) / 3600 - SESSION_GAP_S / 3600
    stays_open = dice.uniform("app-open", rows) < world.app_stays_open * 0.5**beyond_h
    restarts = dice.uniform("app-restart", rows) < world.app_restarts
    begins_app: Bools = is_first | np.where(begins, ~stays_open, restarts)
    return begins_app


def _times(world: World, dice: Dice, user: Ints, begins: Bools) -> Ints:
    """Return seconds of true time: at most 30 minutes between requests of a session, more between sessions."""
    rows = np.arange(len(user))
    length = dice.exponential("gap", rows)
    at_edge = dice.uniform("edge", rows) < world.edge
    inner = np.where(at_edge, SESSION_GAP_S, np.minimum(45 + length * _MEAN_GAP_S, SESSION_GAP_S - 1))
    outer = SESSION_GAP_S + 1 + np.where(at_edge, 0, length * _MEAN_BREAK_S)
    gaps = np.where(begins, outer, inner).astype(np.int64)
    firsts = np.concatenate([[True], user[1:] != user[:-1]])
    gaps[firsts] = 0
    elapsed = np.cumsum(gaps)
    since_first = elapsed - elapsed[firsts][np.cumsum(firsts) - 1]
    times: Ints = _FIRST_S + dice.below(_SPAN_S, "first", user) + since_first
    return times
