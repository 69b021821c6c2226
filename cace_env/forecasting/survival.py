"""Session survival: who asked a moment ago asks again, or has gone; which of the two, the silence since tells.

A session *pauses* from the finish of its last answer until its next request. The survival curve of pauses, by task and
by how many requests the session has made, says how many end within each time, and how many never do (Kaplan and Meier
1958, https://doi.org/10.1080/01621459.1958.10501452: a pause that lasts when the record ends is only known to be
longer). From it follows how likely a session that has been silent for so long asks again within the next minutes. What
new sessions bring is an exponentially weighted rate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from cace_env.config import Frozen, Line, parse, read_json
from cace_env.files import replace_file
from cace_env.tables import TASKS, FloatArray, Int64Array

GRID_S: Final = np.concatenate([[0.0], np.geomspace(1.0, 7200.0, 40)])  # lengths of pauses
STEPS: Final = (1, 2, 5)  # requests so far from which on a row of the curves holds
NEW_S: Final = 1200.0  # half-life of the rate of new sessions
GONE: Final = 1e-3  # a session that is so unlikely to ask ever again is forgotten
DIGITS: Final = 5
SHIPPED: Final = "survival.json"  # in the folder `data` of the package

Share = Annotated[float, Field(ge=0, le=1)]


class Survival(Frozen):
    """Curves of pauses; a file in JSON."""

    format: Literal["cace-env survival 1"] = "cace-env survival 1"
    source: Line = Field(min_length=1, description="what they were fitted on")
    pauses: int = Field(ge=0, description="how many pauses they were fitted on")
    lasts: tuple[tuple[tuple[Share, ...], ...], ...] = Field(
        description="by task, by `STEPS`, by `GRID_S`: the share of pauses that last longer"
    )
    follow: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = Field(
        description="by task, by `GRID_S`: further requests of a session within that time after one of them"
    )

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        for name, shape in (("lasts", (len(TASKS), len(STEPS), len(GRID_S))), ("follow", (len(TASKS), len(GRID_S)))):
            rows = getattr(self, name)
            if np.shape(rows) != shape:
                raise ValueError(f"{name} has to have the shape {shape}")
            if name == "lasts" and np.any(np.diff(np.asarray(rows), axis=-1) > 0):
                raise ValueError("lasts rises somewhere; the share of pauses that last longer can only fall")
        return self


class Seen(NamedTuple):
    """The requests of an episode in order of arrival, as an orchestrator saw them. `R` requests."""

    arrival_us: Int64Array  # (R,)
    finish_us: Int64Array  # (R,) NONE or later than `end_us` where the answer never came
    session: Int64Array  # (R,) a session at another model counts as another
    model: Int64Array  # (R,)
    task: Int64Array  # (R,)
    end_us: int  # when the record ends


def fit_survival(episodes: Iterable[Seen], source: str) -> Survival:
    """Fit curves to episodes.

    Args:
        episodes: what was seen; each is read once.
        source: in words, for the file.
    """
    ends, at_risk = (np.zeros((len(TASKS), len(STEPS), len(GRID_S))) for _ in range(2))
    after, watched = (np.zeros((len(TASKS), len(GRID_S))) for _ in range(2))
    pauses = 0
    for seen in episodes:
        pauses += _count_pauses(seen, ends, at_risk)
        _count_followers(seen, after, watched)
    lasts = np.cumprod(1.0 - ends / np.maximum(at_risk, 1.0), axis=-1)
    follow = np.maximum.accumulate(after / np.maximum(watched, 1.0), axis=-1)
    return Survival(
        source=source, pauses=pauses, lasts=np.round(lasts, DIGITS).tolist(), follow=np.round(follow, DIGITS).tolist()
    )


def _count_pauses(seen: Seen, ends: FloatArray, at_risk: FloatArray) -> int:
    """Adds pauses by the step of the grid in which they end, and how many lasted until then; returns their number."""
    order = np.lexsort((seen.arrival_us, seen.session))
    session, arrival, finish = seen.session[order], seen.arrival_us[order], seen.finish_us[order]
    begins = np.flatnonzero(np.r_[True, session[1:] != session[:-1]]) if len(order) else np.zeros(0, dtype=np.int64)
    number = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)])) + 1
    follows = np.r_[session[1:] == session[:-1], False] if len(order) else np.zeros(0, dtype=bool)
    until = np.where(follows, np.r_[arrival[1:], 0], seen.end_us) if len(order) else arrival
    known = (finish >= arrival) & (finish <= seen.end_us) & (until >= finish)
    pause_s = (until - finish)[known] * 1e-6
    step = np.searchsorted(STEPS, number[known], side="right") - 1
    task = seen.task[order][known]
    ended = follows[known]
    bins = np.searchsorted(GRID_S, pause_s)  # the pause ends in (GRID_S[bin - 1], GRID_S[bin]]
    inside = ended & (bins < len(GRID_S))
    np.add.at(ends, (task[inside], step[inside], bins[inside]), 1.0)
    # At risk in a bin: pauses that reach its end or end in it. One that is cut short inside a bin says nothing of it.
    reached = np.where(ended, bins, bins - 1)
    for t, s, last in zip(task.tolist(), step.tolist(), reached.tolist(), strict=True):
        at_risk[t, s, : min(last, len(GRID_S) - 1) + 1] += 1.0
    return int(known.sum())


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
        step = sum(self.requests >= least for least in STEPS) - 1
        return self.model, self.task, step, 0.0 if self.in_flight else time_s - self.since_s


def read_survival(path: str | Path) -> Survival:
    """The curves in a file.

    Raises:
        ConfigError: there is no such file, or it holds no such curves.
    """
    return parse(Survival, read_json(path), str(path))


def write_survival(survival: Survival, path: str | Path) -> None:
    """Write curves as JSON, a curve to a line.

    Raises:
        OSError: it cannot be written; an old file stands.
    """
    content = survival.model_dump(mode="json")
    text = ",\n".join(
        f' "{key}": [\n  ' + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        if key in ("lasts", "follow")
        else f' "{key}": {json.dumps(value)}'
        for key, value in content.items()
    )
    replace_file(Path(path), f"{{\n{text}\n}}\n")


@cache
def load_survival() -> Survival:
    """The curves that ship."""
    with resources.as_file(resources.files("cace_env") / "data" / SHIPPED) as path:
        return read_survival(path)
