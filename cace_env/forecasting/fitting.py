"""Fits habits: counts, in episodes that were played, what people did after each answer.

Times of finishes are those of the episode, so gaps are what an orchestrator would have seen. The last request of a
session may be the last one for good, or only until the episode ended: gaps that last then are known to be longer, and
no more (Kaplan and Meier 1958, https://doi.org/10.1080/01621459.1958.10501452).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.forecasting.habits import POINTS, Habits
from cace_env.forecasting.history import FIRST, FORGET_S, MOST_STEPS, NUM_PAUSES, QUICK, QUICK_S, SLOWLY
from cace_env.forecasting.pace import Starts, fit_fresh, fit_pace, usual_pace
from cace_env.kernel.state import NONE, NUM_TASKS, REQUEST
from cace_env.simulation import Simulator
from cace_env.workload import Workload

PRIOR: Final = 2.0  # cases of the mean of all steps that are added to those of each
LEAST_RATE: Final = 1e-9  # [1/s]
LEAST_GAPS: Final = 20  # that end, to have a law of their own

FloatArray = npt.NDArray[np.float64]


class Played(NamedTuple):
    """One episode, sorted by (session, arrival). `R` requests that were served."""

    task: Any  # (R,)
    model: Any
    user: Any
    session: Any
    context: Any
    new: Any
    output: Any
    arrival_s: Any
    finish_s: Any
    end_s: float  # what would have come later is not there


def played(workload: Workload, simulator: Simulator) -> Played:
    """What happened in an episode at its end."""
    requests = simulator.state.requests
    arrival, finish = requests[:, REQUEST.arrival_us], requests[:, REQUEST.finish_us]
    served = np.flatnonzero(finish != NONE)
    rows = served[np.lexsort((arrival[served], workload.session[served]))]
    return Played(
        task=workload.task[rows],
        model=workload.model[rows],
        user=workload.user[rows],
        session=workload.session[rows],
        context=workload.context_tokens[rows],
        new=workload.new_tokens[rows],
        output=workload.output_tokens[rows],
        arrival_s=arrival[rows] * 1e-6,
        finish_s=finish[rows] * 1e-6,
        # Who waits in line comes later than nominally, so requests are missing from the last nominal arrival on.
        end_s=float(workload.arrival_us.max(initial=0)) * 1e-6,
    )


def fit_habits(episodes: Iterable[Played], *, bursts: bool = False) -> Habits:
    """Count the habits of all episodes together; a task without cases has those of all tasks.

    Args:
        episodes: sorted as `Played` says.
        bursts: whether sessions begin in bursts and go on in bouts, as in logs of real requests: then the rate of new
            ones goes by the last moments and minutes as well, and a gap by the one before it. In generated requests
            nothing is like that, and what is fitted to it would be noise.

    Raises:
        ValueError: no request was served.
    """
    served = [episode for episode in episodes if len(episode.task)]
    parts = [_counted(episode) for episode in served]
    if not parts:
        raise ValueError("no request was served, so there are no habits; give episodes with requests")
    tables = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    loyal, rate = _by_task(tables["starts"], lambda cases: _share(cases[:, 1])), _by_task(tables["users"], _gamma)
    begun = [_starts(episode) for episode in served]
    return Habits(
        gaps_s=_by_task(tables["gaps"], _gaps_after if bursts else _same_gaps),
        proceed=_by_task(tables["gaps"], _proceed),
        same_model=_by_task(tables["later"], lambda cases: _share(cases[:, 0])),
        loyal=loyal,
        rate=rate,
        first_tokens=_by_task(tables["starts"], lambda cases: _spread(cases[:, 0])),
        grown_tokens=_by_task(tables["later"], lambda cases: _some(cases[:, 1:3])),
        output_tokens=_by_task(tables["outputs"], lambda cases: _spread(cases[:, 0])),
        pace=fit_pace(begun, rate) if bursts else usual_pace(),
        fresh=np.array([fit_fresh(begun, loyal) if bursts else 0.0]),
    )


def _starts(e: Played) -> Starts:
    """The sessions of an episode in the order in which they begin."""
    first = np.flatnonzero(np.concatenate([[True], e.session[1:] != e.session[:-1]]))
    first = first[np.argsort(e.arrival_s[first], kind="stable")]
    asked_s = np.sort(e.arrival_s)
    return Starts(e.arrival_s[first], e.task[first], e.model[first], e.user[first], asked_s, e.end_s)


def _counted(e: Played) -> dict[str, FloatArray]:
    """The cases of one episode, each table with the task in its first column."""
    first = np.concatenate([[True], e.session[1:] != e.session[:-1]])
    at = np.arange(len(first))
    step = at - np.maximum.accumulate(np.where(first, at, 0)) + 1
    later = np.flatnonzero(~first)
    before = later - 1
    follow = np.column_stack(
        [
            e.task[later],
            e.model[later] == e.model[before],
            e.context[later].astype(np.int64) - e.context[before],
            e.new[later],
        ]
    )
    gaps = _gaps_of(e, step, goes_on=np.concatenate([~first[1:], [False]]))
    starts = np.flatnonzero(first)
    starts = starts[np.lexsort((e.arrival_s[starts], e.task[starts], e.user[starts]))]
    again = np.concatenate(
        [[False], (e.user[starts][1:] == e.user[starts][:-1]) & (e.task[starts][1:] == e.task[starts][:-1])]
    )
    same = np.concatenate([[False], e.model[starts][1:] == e.model[starts][:-1]])
    loyal = np.where(again, same, np.nan)
    everybody = np.unique(e.user)
    counts = np.zeros((len(everybody), NUM_TASKS))
    begun = starts[e.arrival_s[starts] <= e.end_s]
    np.add.at(counts, (np.searchsorted(everybody, e.user[begun]), e.task[begun]), 1.0)
    users = np.column_stack(
        [
            np.tile(np.arange(NUM_TASKS), len(everybody)),
            counts.ravel(),
            np.full(counts.size, max(e.end_s, 1.0)),
        ]
    )
    return {
        "gaps": gaps,
        "later": follow.astype(np.float64),
        "starts": np.column_stack([e.task[starts], e.context[starts], loyal]).astype(np.float64),
        "users": users,
        "outputs": np.column_stack([e.task, e.output]).astype(np.float64),
    }


def _gaps_of(e: Played, step: Any, goes_on: Any) -> FloatArray:
    """Each gap after an answer: task, length [s], 1 = it ended with another request, requests so far, and gap before.

    One that lasts when the episode ends, or when its session is forgotten, did not end; nothing is known of those that
    begin after the end.
    """
    until = np.where(goes_on, np.append(e.arrival_s[1:], 0.0), np.inf)
    length = np.maximum(np.minimum(until, e.end_s) - e.finish_s, 0.0)
    ended = (until <= e.end_s) & (length <= FORGET_S)
    told = e.finish_s <= e.end_s
    before = np.append(0.0, (e.arrival_s[1:] - e.finish_s[:-1]))
    pause = np.where(step == 1, FIRST, np.where(before < QUICK_S, QUICK, SLOWLY))
    cases = np.column_stack([e.task, np.minimum(length, FORGET_S), ended, np.minimum(step, MOST_STEPS), pause])
    return np.asarray(cases[told], dtype=np.float64)


def _lasting(cases: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lengths at which gaps ended, ascending, and the share of gaps that last longer than each (Kaplan and Meier)."""
    lengths, ends = np.unique(cases[cases[:, 1] == 1.0, 0], return_counts=True)
    at_risk = len(cases) - np.searchsorted(np.sort(cases[:, 0]), lengths)
    return np.asarray(lengths, dtype=np.float64), np.asarray(np.cumprod(1.0 - ends / at_risk), dtype=np.float64)


def _gaps(cases: FloatArray) -> FloatArray:
    """`POINTS` lengths that stand for all gaps that end, ascending; zeros without any."""
    lengths, lasts = _lasting(cases)
    if not len(lengths):
        return np.zeros(POINTS)
    ends = -np.diff(lasts, prepend=1.0)
    levels = (np.cumsum(ends) - ends / 2) / ends.sum()
    return np.interp((np.arange(POINTS) + 0.5) / POINTS, levels, lengths)


def _same_gaps(cases: FloatArray) -> FloatArray:
    """`_gaps`, whatever was before, `(NUM_PAUSES, POINTS)`."""
    return np.tile(_gaps(cases), (NUM_PAUSES, 1))


def _gaps_after(cases: FloatArray) -> FloatArray:
    """`_gaps` by the gap before, `(NUM_PAUSES, POINTS)`; of all where there are few."""
    mine = [cases[cases[:, 3] == pause] for pause in range(NUM_PAUSES)]
    return np.array([_gaps(each if each[:, 1].sum() >= LEAST_GAPS else cases) for each in mine])


def _proceed(cases: FloatArray) -> FloatArray:
    """Chance of another request after each number of them, drawn a little to the mean of all.

    A gap that did not end counts as the share of gaps that end, of those that last as long.
    """
    lengths, lasts = _lasting(cases)
    lasts = np.append(1.0, lasts)
    lasting = lasts[np.searchsorted(lengths, cases[:, 0], side="right")]
    still = 1.0 - np.divide(lasts[-1], lasting, out=np.ones_like(lasting), where=lasting > 0.0)
    on = np.where(cases[:, 1] == 1.0, 1.0, still)
    step = cases[:, 2].astype(np.int64)
    everywhere = _share(on)
    total = np.bincount(step, minlength=MOST_STEPS + 1) + PRIOR
    further = np.bincount(step, weights=on, minlength=MOST_STEPS + 1) + PRIOR * everywhere
    return np.asarray(further / total, dtype=np.float64)


def _by_task(table: FloatArray, summary: Any) -> FloatArray:
    """A summary of each task's cases; of all where it has none."""
    rows = []
    for task in range(NUM_TASKS):
        mine = table[table[:, 0] == task]
        rows.append(summary((mine if len(mine) else table)[:, 1:]))
    return np.ascontiguousarray(rows, dtype=np.float64)


def _spread(values: FloatArray) -> FloatArray:
    """`POINTS` values that stand for all, ascending; zeros without any."""
    if not len(values):
        return np.zeros(POINTS)
    return np.asarray(np.quantile(values, (np.arange(POINTS) + 0.5) / POINTS), dtype=np.float64)


def _some(rows: FloatArray) -> FloatArray:
    """`POINTS` of the rows, evenly taken."""
    if not len(rows):
        return np.zeros((POINTS, rows.shape[1]))
    return rows[np.linspace(0, len(rows) - 1, POINTS).astype(np.int64)]


def _share(values: FloatArray) -> float:
    """Mean of what is known, of which one more case each is added for yes and no."""
    known = values[~np.isnan(values)]
    return float((known.sum() + 1.0) / (len(known) + 2.0))


def _gamma(cases: FloatArray) -> Sequence[float]:
    """Shape and rate [s] of a gamma law over users whose sessions are Poisson, by moments."""
    counts, spans = cases[:, 0], cases[:, 1]
    rates = counts / spans
    mean = max(float(rates.mean()), LEAST_RATE)
    variance = max(float(rates.var()) - mean / float(spans.mean()), (0.1 * mean) ** 2)
    return mean * mean / variance, mean / variance
