"""Session survival: who asked a moment ago asks again, or has gone; which of the two, the silence since tells.

Curves of pauses (`cace_env.sessions.Survival`) are estimated as Kaplan and Meier do (1958,
https://doi.org/10.1080/01621459.1958.10501452): a pause that lasts when the record ends is only known to be longer.
From them follows how likely a session that has been silent for so long asks again within the next minutes. What new
sessions bring is an exponentially weighted rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.sessions import AGAIN_STEPS, GRID_S, Survival, load_survival
from cace_env.tables import TASKS, FloatArray, Int64Array

LEAN: Final = 20.0  # pauses that a task's curve counts for in that of a step, and the curve of all in that of a task
NEW_S: Final = 1200.0  # half-life of the rate of new sessions
GONE: Final = 1e-3  # a session that is so unlikely to ask ever again is forgotten
DIGITS: Final = 5


class Seen(NamedTuple):
    """The requests of an episode as an orchestrator saw them, without those that it refused. `R` requests."""

    arrival_us: Int64Array  # (R,)
    finish_us: Int64Array  # (R,) NONE or later than `end_us` where the answer never came
    session: Int64Array  # (R,) a session at another model counts as another
    model: Int64Array  # (R,)
    task: Int64Array  # (R,)
    end_us: int  # when the record ends: nobody asks after that


class Pauses(NamedTuple):
    """`N` pauses of sessions at models."""

    task: Int64Array  # (N,) of the last request before
    step: Int64Array  # (N,) its number in the session at the model, 0 ... AGAIN_STEPS - 1
    seen_s: FloatArray  # (N,) how long it lasted, or was seen to last
    ended: npt.NDArray[np.bool_]  # (N,) whether it ended


def pauses_of(seen: Seen) -> Pauses:
    """The pauses of an episode: from the last finish of a session so far until its next request."""
    order = np.lexsort((seen.arrival_us, seen.session))
    task, arrival, finish = seen.task[order], seen.arrival_us[order], seen.finish_us[order]
    session = np.unique(seen.session, return_inverse=True)[1][order]
    first = np.diff(session, prepend=-1) > 0
    at = np.arange(len(order))
    step = np.minimum(at - np.maximum.accumulate(np.where(first, at, 0)), AGAIN_STEPS - 1)
    ended = np.append(~first[1:], np.zeros(min(len(order), 1), dtype=np.bool_))
    # A session whose answer never came is busy until the end. Sessions one after the other on one axis of time: the
    # latest finish so far is that of the session.
    finish = np.where(finish < arrival, seen.end_us, np.minimum(finish, seen.end_us))
    axis = session * (seen.end_us + 1)
    since = np.maximum.accumulate(finish + axis) - axis
    until = np.where(ended, np.roll(arrival, -1), seen.end_us)
    known = np.where(ended, until >= since, until > since)
    seen_s = (until - since)[known].astype(np.float64) * 1e-6
    return Pauses(task[known], step[known], seen_s, ended[known])


def fit_survival(episodes: Iterable[Seen], source: str) -> Survival:
    """Fit curves to episodes.

    A curve of few pauses leans on that of its task, and that on the curve of all: the share of pauses that end in each
    step of the grid is drawn there as if it were `LEAN` pauses more.

    Args:
        episodes: what was seen; each is read once.
        source: in words, for the file.
    """
    ends, at_risk = (np.zeros((len(TASKS), AGAIN_STEPS, len(GRID_S))) for _ in range(2))
    after, watched = (np.zeros((len(TASKS), len(GRID_S))) for _ in range(2))
    count = 0
    for seen in episodes:
        pauses = pauses_of(seen)
        count += len(pauses.task)
        _count_pauses(pauses, ends, at_risk)
        _count_followers(seen, after, watched)
    of_all = ends.sum(axis=(0, 1)) / np.maximum(at_risk.sum(axis=(0, 1)), 1.0)
    of_task = _leaning(ends.sum(axis=1), at_risk.sum(axis=1), of_all)
    lasts = np.cumprod(1.0 - _leaning(ends, at_risk, of_task[:, None]), axis=-1)
    everybody = after.sum(axis=0) / np.maximum(watched.sum(axis=0), 1.0)
    follow = np.maximum.accumulate(_leaning(after, watched, everybody), axis=-1)
    return Survival(
        source=source, pauses=count, lasts=np.round(lasts, DIGITS).tolist(), follow=np.round(follow, DIGITS).tolist()
    )


def _leaning(counts: FloatArray, cases: FloatArray, parent: FloatArray) -> FloatArray:
    """Shares of cases, drawn to those of `parent` as if it were `LEAN` cases more."""
    return np.asarray((counts + LEAN * parent) / (cases + LEAN))


def _count_pauses(pauses: Pauses, ends: FloatArray, at_risk: FloatArray) -> None:
    """Adds pauses by the step of the grid in which they end, and how many lasted until then."""
    bins = np.searchsorted(GRID_S, pauses.seen_s)  # the pause ends in (GRID_S[bin - 1], GRID_S[bin]]
    inside = pauses.ended & (bins < len(GRID_S))
    np.add.at(ends, (pauses.task[inside], pauses.step[inside], bins[inside]), 1.0)
    # At risk in a bin: pauses that reach its end or end in it. One that is cut short inside a bin says nothing of it.
    reached = np.minimum(np.where(pauses.ended, bins, bins - 1), len(GRID_S) - 1)
    some = reached >= 0
    until = np.zeros_like(at_risk)
    np.add.at(until, (pauses.task[some], pauses.step[some], reached[some]), 1.0)
    at_risk += np.cumsum(until[..., ::-1], axis=-1)[..., ::-1]


def _count_followers(seen: Seen, after: FloatArray, watched: FloatArray) -> None:
    """Adds, for each request, those of its session that followed within each time of the grid."""
    order = np.lexsort((seen.arrival_us, seen.session))
    arrival_s = seen.arrival_us[order] * 1e-6
    far = float(arrival_s.max(initial=0.0)) + GRID_S[-1] + 1.0
    key = np.unique(seen.session[order], return_inverse=True)[1] * far + arrival_s  # sessions far from each other
    task = seen.task[order]
    for at, within_s in enumerate(GRID_S):
        count = np.searchsorted(key, key + within_s, side="right") - np.arange(len(key)) - 1
        whole = arrival_s + within_s <= seen.end_us * 1e-6
        np.add.at(after, (task[whole], at), count[whole])
        np.add.at(watched, (task[whole], at), 1.0)


class Survivors:
    """The forecaster: open sessions by their silence, new ones by their rate (`Forecaster`).

    Args:
        models: number of models.
        survival: the curves; those that ship by default.
    """

    def __init__(self, models: int, survival: Survival | None = None) -> None:
        fitted = load_survival() if survival is None else survival
        self._models = models
        self._lasts, self._follow = np.array(fitted.lasts), np.array(fitted.follow)
        self._sessions: dict[int, _Session] = {}
        self._new = np.zeros((models, len(TASKS)))  # sessions begun, halved every NEW_S
        self._new_at_s = self._began_s = 0.0

    def arrived(self, time_s: float, session: int, model: int, task: int) -> None:
        known = self._sessions.get(session)
        if known is None:
            known = self._sessions[session] = _Session(model, task)
            self._fade(time_s)
            self._new[model, task] += 1.0
        known.model, known.task = model, task
        known.requests += 1
        known.in_flight += 1

    def finished(self, time_s: float, session: int) -> None:
        known = self._sessions.get(session)
        if known is not None:
            known.in_flight = max(known.in_flight - 1, 0)
            known.since_s = time_s

    def expected(self, time_s: float, within_s: float) -> FloatArray:
        again, model, task = self._again(time_s, within_s)
        # Who comes back does so half way through, on average, and then goes on as sessions do.
        follow = np.array([np.interp(within_s / 2, GRID_S, row) for row in self._follow])
        found = np.bincount(model, weights=again * (1.0 + follow[task]), minlength=self._models)
        return np.asarray(found + self._rate(time_s) @ (1.0 + follow) * within_s)

    def chance(self, time_s: float, within_s: float) -> FloatArray:
        again, model, _ = self._again(time_s, within_s)
        silent = np.bincount(model, weights=np.log1p(-np.minimum(again, 1 - 1e-12)), minlength=self._models)
        return np.asarray(-np.expm1(silent - self._rate(time_s).sum(axis=1) * within_s))

    def _again(self, time_s: float, within_s: float) -> tuple[FloatArray, Int64Array, Int64Array]:
        """How likely each open session asks again within the time, its model and its task; forgets who has gone."""
        if not self._sessions:
            nobody = np.zeros(0, dtype=np.int64)
            return np.zeros(0), nobody, nobody
        rows = [known.row(time_s) for known in self._sessions.values()]
        table = np.array(rows)
        model, task, step = (table[:, column].astype(np.int64) for column in range(3))
        age_s = table[:, 3]
        lasts, later = self._lasting(task, step, age_s), self._lasting(task, step, age_s + within_s)
        again = 1.0 - np.divide(later, lasts, out=np.ones_like(lasts), where=lasts > 0)
        ever = 1.0 - np.divide(self._lasts[task, step, -1], lasts, out=np.ones_like(lasts), where=lasts > 0)
        gone = (ever < GONE) & (age_s > 0.0)
        for session in [name for name, left in zip(list(self._sessions), gone.tolist(), strict=True) if left]:
            del self._sessions[session]
        return again, model, task

    def _lasting(self, task: Int64Array, step: Int64Array, age_s: FloatArray) -> FloatArray:
        """Share of pauses that last longer, between the points of the grid in a straight line."""
        place = np.clip(np.searchsorted(GRID_S, age_s, side="right") - 1, 0, len(GRID_S) - 2)
        part = np.clip((age_s - GRID_S[place]) / (GRID_S[place + 1] - GRID_S[place]), 0.0, 1.0)
        low, high = self._lasts[task, step, place], self._lasts[task, step, place + 1]
        return np.asarray(low + part * (high - low))

    def _fade(self, time_s: float) -> None:
        self._new *= np.exp2((self._new_at_s - time_s) / NEW_S)
        self._new_at_s = time_s

    def _rate(self, time_s: float) -> FloatArray:
        """New sessions per second, `(M, T)`; as much history counts as there is."""
        self._fade(time_s)
        seen_s = NEW_S / np.log(2.0) * -np.expm1(-np.log(2.0) * max(time_s - self._began_s, 1.0) / NEW_S)
        return np.asarray(self._new / seen_s)


class _Session:
    """An open session."""

    __slots__ = ("in_flight", "model", "requests", "since_s", "task")

    def __init__(self, model: int, task: int) -> None:
        self.model, self.task = model, task
        self.requests = self.in_flight = 0
        self.since_s = 0.0

    def row(self, time_s: float) -> tuple[float, float, float, float]:
        """Model, task, row of the curves, seconds of silence: none while an answer is under way."""
        step = min(self.requests, AGAIN_STEPS) - 1
        return self.model, self.task, step, 0.0 if self.in_flight else time_s - self.since_s
