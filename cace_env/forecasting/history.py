"""What an orchestrator has seen of an episode, session by session; kept up to date in compiled code.

Sessions and users are numbered in order of their first arrival, so that nothing here depends on requests to come.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.compilation import compiled, inlined
from cace_env.held import held
from cace_env.kernel.state import (
    CLOCK,
    COLUMN,
    LOG,
    LOGGED,
    NONE,
    NUM_TASKS,
    REQUEST,
    Requests,
    State,
    int64,
    state_views,
)
from cace_env.workload import Workload

Array = Any
FAST_S: Final = 900.0  # half-life of the level of demand now: a burst
SLOW_S: Final = 7200.0  # ... with which it is compared
BRISK_S: Final = 20.0  # half-life of the rate of the last moments
SHORT_S: Final = 120.0  # ... and of the last minutes
POPULAR_S: Final = 3600.0  # half-life of a model's share of new sessions
FORGET_S: Final = 3600.0  # a session that has been silent for so long has ended
LEVEL_PRIOR: Final = 8.0  # starts of sessions at the usual level that are added to those seen of late
STRANGE: Final = 0.05  # starts with each model that are added to those seen
LEAST_RECENT: Final = 0.5  # starts of the last minutes: with fewer, none are copied
LN_2: Final = math.log(2.0)
MOST_STEPS: Final = 64  # requests of a session that are told apart
# What a session did before its last request: the next gap goes by it. After a short gap another one is likely.
FIRST, QUICK, SLOWLY = range(3)
NUM_PAUSES: Final = 3
QUICK_S: Final = 30.0  # a shorter gap is quick


class SessionColumns(NamedTuple):
    """`History.sessions`."""

    user: int
    task: int
    steps: int  # requests so far
    last: int  # row of the last one
    live: int  # 1 = in the list of those that may go on
    pause: int  # FIRST, QUICK or SLOWLY: the gap before the last one


class CountColumns(NamedTuple):
    """`History.counts`."""

    seen: int  # arrivals read
    sessions: int
    users: int
    live: int


class LevelColumns(NamedTuple):
    """`History.levels`, float: starts of sessions, halved as time passes, as of `at_s`."""

    fast: int
    slow: int
    at_s: int
    brisk: int
    short: int


SESSION: Final = SessionColumns(*range(len(SessionColumns._fields)))
COUNT: Final = CountColumns(*range(len(CountColumns._fields)))
LEVEL: Final = LevelColumns(*range(len(LevelColumns._fields)))


class History(NamedTuple):
    """`R` requests, `S` sessions, `U` users at most, `T` tasks, `M` models."""

    session_of: Array  # (R,) int32: of each request, by rank of its number
    user_of: Array  # (R,) int32
    session_at: Array  # (S,) int32: where a session is in `sessions`, NONE = not seen yet
    user_at: Array  # (U,) int32: the number of a user in order of arrival, NONE = not seen yet
    counts: Array  # (COUNT,)
    levels: Array  # (LEVEL,)
    sessions: Array  # (S, SESSION) in order of their first arrival
    live: Array  # (S,) those that may go on
    starts: Array  # (U, T) float: sessions that each user has begun
    habit: Array  # (U, T) the model of the last of them, or NONE
    popular: Array  # (T, M) float: begun with each model, halved every POPULAR_S
    recent: Array  # (T, M) float: the same, halved every SHORT_S


def new_history(workload: Workload, models: int) -> History:
    """An empty history; only the numbers of sessions and users of arrived requests are ever read."""
    sessions, session_of = np.unique(workload.session, return_inverse=True)
    users, user_of = np.unique(workload.user, return_inverse=True)
    return History(
        session_of.astype(np.int32),
        user_of.astype(np.int32),
        np.full(len(sessions), NONE, np.int32),
        np.full(len(users), NONE, np.int32),
        np.zeros(len(COUNT), np.int64),
        np.zeros(len(LEVEL)),
        np.zeros((len(sessions), len(SESSION)), np.int64),
        np.zeros(len(sessions), np.int32),
        np.zeros((len(users), NUM_TASKS)),
        np.full((len(users), NUM_TASKS), NONE, np.int32),
        np.zeros((NUM_TASKS, models)),
        np.zeros((NUM_TASKS, models)),
    )


@inlined
def fade(history: History, now_s: float) -> None:
    """Brings levels and popularity up to date."""
    passed = now_s - history.levels[LEVEL.at_s]
    if passed <= 0.0:
        return
    history.levels[LEVEL.fast] *= np.exp2(-passed / FAST_S)
    history.levels[LEVEL.slow] *= np.exp2(-passed / SLOW_S)
    history.levels[LEVEL.brisk] *= np.exp2(-passed / BRISK_S)
    history.levels[LEVEL.short] *= np.exp2(-passed / SHORT_S)
    history.levels[LEVEL.at_s] = now_s
    share, lately = np.exp2(-passed / POPULAR_S), np.exp2(-passed / SHORT_S)
    for task in range(history.popular.shape[0]):
        for m in range(history.popular.shape[1]):
            history.popular[task, m] *= share
            history.recent[task, m] *= lately


@inlined
def pause_of(gap_s: float) -> Any:
    """What a gap counts as."""
    return int64(QUICK) if gap_s < QUICK_S else int64(SLOWLY)


@inlined
def note(s: State, history: History, w: Requests, r: int, now_s: float) -> None:
    """One arrival."""
    task, model = int64(w.columns[r, COLUMN.task]), w.columns[r, COLUMN.model]
    user = history.user_at[history.user_of[r]]
    if user == NONE:
        user = history.counts[COUNT.users]
        history.user_at[history.user_of[r]] = user
        history.counts[COUNT.users] += 1
    i = history.session_at[history.session_of[r]]
    if i == NONE:
        i = history.counts[COUNT.sessions]
        history.session_at[history.session_of[r]] = i
        history.counts[COUNT.sessions] += 1
        history.sessions[i, SESSION.user] = user
        history.sessions[i, SESSION.task] = task
        fade(history, now_s)
        for count in (LEVEL.fast, LEVEL.slow, LEVEL.brisk, LEVEL.short):
            history.levels[count] += 1.0
        history.starts[user, task] += 1.0
        history.habit[user, task] = model
        history.popular[task, model] += 1.0
        history.recent[task, model] += 1.0
        history.sessions[i, SESSION.pause] = FIRST
    else:
        # Who asks before the answer has ended is quick; its finish may be later than this arrival, or unknown.
        finish = s.requests[history.sessions[i, SESSION.last], REQUEST.finish_us]
        history.sessions[i, SESSION.pause] = QUICK if finish == NONE else pause_of(now_s - finish * 1e-6)
    history.sessions[i, SESSION.steps] += 1
    history.sessions[i, SESSION.last] = r
    if history.sessions[i, SESSION.live] == 0:
        history.sessions[i, SESSION.live] = 1
        history.live[history.counts[COUNT.live]] = i
        history.counts[COUNT.live] += 1


@compiled
def catch_up(row: Array, at: Array, w: Requests, history: History) -> None:
    """Reads the arrivals since the last call, and drops sessions that have been silent for too long."""
    s = held(state_views(row, at))
    w, history = held(w), held(history)
    for entry in range(history.counts[COUNT.seen], s.scalars[LOGGED]):
        note(s, history, w, s.log[entry, LOG.request], s.log[entry, LOG.arrival_us] * 1e-6)
    history.counts[COUNT.seen] = s.scalars[LOGGED]
    fade(history, s.scalars[CLOCK] * 1e-6)
    kept = int64(0)
    for place in range(history.counts[COUNT.live]):
        i = history.live[place]
        finish = s.requests[history.sessions[i, SESSION.last], REQUEST.finish_us]
        if finish != NONE and (s.scalars[CLOCK] - finish) * 1e-6 > FORGET_S:
            history.sessions[i, SESSION.live] = 0
        else:
            history.live[kept] = i
            kept += 1
    history.counts[COUNT.live] = kept
