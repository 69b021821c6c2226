"""How fast sessions begin after a burst: fits the weights of recent rates, and of recent models, in logs.

Real logs have bursts of seconds and minutes that no rate over a quarter of an hour knows of, and questions are asked in
the middle of them. So the rate of new sessions in each stretch of a future is a weighted sum of the usual one and of
those of the last moments and minutes. The weights are those of a Poisson regression on the numbers that came after each
request, none below 0 (by the multiplicative update of Lee and Seung, https://doi.org/10.1038/44565).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.forecasting.habits import PACE_ENDS_S
from cace_env.forecasting.history import (
    BRISK_S,
    FAST_S,
    LEAST_RECENT,
    LEVEL_PRIOR,
    LN_2,
    POPULAR_S,
    SHORT_S,
    SLOW_S,
    STRANGE,
)
from cace_env.kernel.state import NUM_TASKS

REACH_S: Final = 300.0  # the last stretch is fitted up to here
MOST_LOOKS: Final = 2000  # requests of an episode after which is counted, evenly taken
USUALLY: Final = 50.0  # starts at the usual rate that are added to those of each stretch
ROUNDS: Final = 500

FloatArray = npt.NDArray[np.float64]


class Starts(NamedTuple):
    """The sessions of an episode in the order in which they begin. `S` sessions, `R` requests."""

    time_s: Any  # (S,)
    task: Any  # (S,)
    model: Any
    user: Any
    asked_s: Any  # (R,) arrivals of all requests
    end_s: float  # what would have come later is not there


def usual_pace() -> FloatArray:
    """Sessions begin at the usual rate, whatever has happened in the last minutes."""
    return np.tile([1.0, 0.0, 0.0], (len(PACE_ENDS_S), 1))


def fit_pace(episodes: Sequence[Starts], rate: FloatArray) -> FloatArray:
    """The weights of the three rates in each stretch, `(stretches, 3)`.

    Args:
        episodes: of a log.
        rate: (T, 2) gamma law over users of the sessions that they begin, for the usual rate.
    """
    ends = [min(end, REACH_S) for end in PACE_ENDS_S]
    pace = usual_pace()
    looks = [(_looks(e), e) for e in episodes]
    rates = [rates_at(e, at, rate) for at, e in looks]
    for stretch, (first, end) in enumerate(zip([0.0, *ends], ends, strict=False)):
        known = [at + end <= e.end_s for at, e in looks]
        came = [
            np.searchsorted(e.time_s, at + end, side="right") - np.searchsorted(e.time_s, at + first, side="right")
            for at, e in looks
        ]
        x = np.concatenate([mine[there] for mine, there in zip(rates, known, strict=True)]) * (end - first)
        n = np.concatenate([mine[there] for mine, there in zip(came, known, strict=True)]).astype(np.float64)
        pace[stretch] = _weights(x, n)
    return pace


def _looks(e: Starts) -> FloatArray:
    """Times at which rates are held against what came."""
    return np.asarray(e.asked_s[:: max(len(e.asked_s) // MOST_LOOKS, 1)], dtype=np.float64)


def rates_at(e: Starts, at_s: FloatArray, rate: FloatArray) -> FloatArray:
    """The usual rate at some times and those of the last moments and minutes, `(times, 3)` [1/s].

    The usual one is that of `cace_env.forecasting.futures.read_rates`.
    """
    rows, number = np.zeros((len(at_s), 3)), 0
    counts = dict.fromkeys((FAST_S, SLOW_S, BRISK_S, SHORT_S), 0.0)
    by_user: Counter[int] = Counter()
    by_task, singles, clock = np.zeros(NUM_TASKS), 0, 0.0
    for row, now_s in enumerate(at_s.tolist()):
        while number < len(e.time_s) and e.time_s[number] <= now_s:
            time_s, user = float(e.time_s[number]), int(e.user[number])
            counts = {half: 1.0 + count * 2.0 ** (-(time_s - clock) / half) for half, count in counts.items()}
            clock = time_s
            by_user[user] += 1
            singles += {1: 1, 2: -1}.get(by_user[user], 0)
            by_task[e.task[number]] += 1.0
            number += 1
        spent_s = max(now_s, 1.0)
        faded = {half: count * 2.0 ** (-(now_s - clock) / half) for half, count in counts.items()}
        spans = {half: half / LN_2 * (1.0 - math.exp(-spent_s * LN_2 / half)) for half in counts}
        slow = faded[SLOW_S] / spans[SLOW_S]
        level = (faded[FAST_S] + LEVEL_PRIOR) / (slow * spans[FAST_S] + LEVEL_PRIOR)
        theirs = float(((len(by_user) * rate[:, 0] + by_task) / (rate[:, 1] + spent_s)).sum())
        usual = level * (theirs + slow * singles / max(number, 1))
        rows[row] = usual, faded[BRISK_S] / spans[BRISK_S], faded[SHORT_S] / spans[SHORT_S]
    return rows


def _weights(x: FloatArray, n: FloatArray) -> FloatArray:
    """Weights of the columns of x by which n is most likely, none below 0; drawn a little to the usual rate alone."""
    weights, extra = np.full(x.shape[1], 1.0 / x.shape[1]), np.zeros(x.shape[1])
    extra[0] = USUALLY
    total = x.sum(axis=0) + extra
    for _ in range(ROUNDS):
        share = n / np.maximum(x @ weights, 1e-12)
        gained = weights * (x * share[:, None]).sum(axis=0) + extra
        weights = np.divide(gained, total, out=np.zeros_like(weights), where=total > 0.0)
    return weights


def fit_fresh(episodes: Iterable[Starts], loyal: FloatArray) -> float:
    """The chance that a new session has task and model of one of the last minutes, against the usual law of models.

    Args:
        episodes: of a log.
        loyal: (T,) chance that a user begins with the model of his last session of the task.
    """
    cases = np.concatenate([_chances(e, loyal) for e in episodes])
    if not len(cases):
        return 0.0
    fresh = 0.5
    for _ in range(ROUNDS):
        copied = fresh * cases[:, 1]
        fresh = float((copied / (copied + (1.0 - fresh) * cases[:, 0])).sum() / (len(cases) + USUALLY))
    return fresh


def _chances(e: Starts, loyal: FloatArray) -> FloatArray:
    """The chance of each start's task and model by the usual law, and by those of the last minutes, `(cases, 2)`."""
    models = int(e.model.max(initial=0)) + 1
    popular, recent, habit = (np.zeros((NUM_TASKS, models)) for _ in range(3))
    last: dict[tuple[int, int], int] = {}
    begun: Counter[tuple[int, int]] = Counter()
    by_task, clock, rows = np.zeros(NUM_TASKS), 0.0, []
    for time_s, task, model, user in zip(
        e.time_s.tolist(), e.task.tolist(), e.model.tolist(), e.user.tolist(), strict=True
    ):
        popular *= 2.0 ** (-(time_s - clock) / POPULAR_S)
        recent *= 2.0 ** (-(time_s - clock) / SHORT_S)
        clock, lately = time_s, float(recent.sum())
        if lately > LEAST_RECENT and by_task[task]:
            drawn = (popular[task, model] + STRANGE) / (popular[task].sum() + STRANGE * models)
            again = habit[task, model] / by_task[task]  # of the users, each as often as he begins
            usual = by_task[task] / by_task.sum() * (loyal[task] * again + (1.0 - loyal[task]) * drawn)
            rows.append((max(usual, 1e-9), recent[task, model] / lately))
        key = user, task
        if key in last:
            habit[task, last[key]] -= begun[key]
        begun[key] += 1
        last[key] = model
        habit[task, model] += begun[key]
        by_task[task] += 1.0
        popular[task, model] += 1.0
        recent[task, model] += 1.0
    return np.array(rows).reshape(-1, 2)
