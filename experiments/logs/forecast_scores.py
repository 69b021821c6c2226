"""How good forecasts of the next use of a model are, and what CACE saves with each of them as its demand factor.

Forecasts are scored on the models that a policy could evict, those with no request in flight, once a minute or less:
how well they tell which of these will be used within some time (AUC), whether what they call 30 % happens in 30 of 100
cases (reliability), and both at once (log score). All see the same episodes, played by LRU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.evaluation import run_episode
from cace_env.forecasting.demand import Arrived, DemandScorer, Finished, tell
from cace_env.forecasting.forecasters import FORECASTERS, Forecaster
from cace_env.forecasting.survival import Seen
from cace_env.policies import Contestant, Future, contestant_of, policy
from cace_env.tables import NONE, FloatArray, Int64Array
from cace_env.workload import Workload
from experiments.reading.roc import auc
from experiments.yardsticks.sessions import POLICY, seen_of

HORIZONS_S: Final = (60, 300, 900)
EVERY_S: Final = 60.0  # between two questions to the forecasters, or longer:
MOST_QUESTIONS: Final = 300  # in an episode
WARM_S: Final = 600.0  # before the first
SURE: Final = 1e-3  # no forecast is called surer than that: a log score of a wrong certainty has no end
BINS: Final = 10  # of the reliability
OWN: Final = "CACE's own"
TRUTH: Final = "true future"  # the forecaster that knows, as far as arrivals are known without knowing the policy
WEIGHTS: Final[Mapping[str, str]] = {"cace": "cace", "tuned": "cace:tuned-eviction"}

Making = Callable[[int], Forecaster]
Answers = dict[str, dict[int, list[tuple[FloatArray, npt.NDArray[np.bool_]]]]]  # by forecaster and horizon: said, came


class Quality(NamedTuple):
    """Of one forecaster at one horizon."""

    auc: float  # 0.5 = knows nothing, 1 = knows all
    log_score: float  # [bits] per model and question, less than that of the share that are used; above 0 is better
    unreliable: float  # mean distance of what was said and how often it happened
    used: float  # share of models that were used


class Knowing:
    """Arrivals as they come if nobody waits (`cace_env.policies.Future`), less those that have come."""

    def __init__(self, future: Future, models: Int64Array) -> None:
        order = np.argsort(future.nominal_us, kind="stable")
        self._times_s, self._model = future.nominal_us[order] * 1e-6, models[order]
        self._models = len(future.start) - 1

    def arrived(self, time_s: float, session: int, model: int, task: int) -> None:
        """Nothing that it would not know."""

    def finished(self, time_s: float, session: int) -> None:
        """Nothing that it would not know."""

    def expected(self, time_s: float, within_s: float) -> FloatArray:
        """Requests of each model in that time, `(M,)`."""
        first, end = np.searchsorted(self._times_s, [time_s, time_s + within_s], side="right")
        return np.bincount(self._model[first:end], minlength=self._models).astype(np.float64)

    def chance(self, time_s: float, within_s: float) -> FloatArray:
        """1 where there is one, `(M,)`."""
        return np.minimum(self.expected(time_s, within_s), 1.0)


def makers(case: Case, workload: Workload) -> dict[str, Making]:
    """All forecasters of an episode by name, and the one that knows."""
    known = Future.of(case.tables, workload)
    return {**FORECASTERS, TRUTH: lambda _: Knowing(known, workload.model.astype(np.int64))}


def answers(case: Case, workload: Workload, seed: int) -> Answers:
    """What every forecaster says of an episode, and what comes."""
    simulator, _ = run_episode(contestant_of(POLICY), case, workload, seed)
    seen = seen_of(simulator, workload)
    models = case.tables.num_models
    made = {name: make(models) for name, make in makers(case, workload).items()}
    said: Answers = {name: {horizon_s: [] for horizon_s in HORIZONS_S} for name in made}
    events, told = _events(seen), 0
    arrivals_s = [np.sort(seen.arrival_us[seen.model == m]) * 1e-6 for m in range(models)]
    last_s = seen.end_us * 1e-6 - HORIZONS_S[-1]
    for now_s in np.arange(WARM_S, last_s, max(EVERY_S, (last_s - WARM_S) / MOST_QUESTIONS)).tolist():
        before = told
        while told < len(events) and events[told].time_s <= now_s:
            told += 1
        for forecaster in made.values():
            tell(forecaster, events[before:told])
        idle = _idle(seen, now_s, models)
        if not idle.any():
            continue
        next_s = np.array([_next(times, now_s) for times in arrivals_s])
        for name, forecaster in made.items():
            for horizon_s in HORIZONS_S:
                came = next_s <= now_s + horizon_s
                said[name][horizon_s].append((forecaster.chance(now_s, horizon_s)[idle], came[idle]))
    return said


def _next(times_s: FloatArray, now_s: float) -> float:
    """The first time after now; inf if there is none."""
    at = np.searchsorted(times_s, now_s, side="right")
    return float(times_s[at]) if at < len(times_s) else np.inf


def _events(seen: Seen) -> list[Arrived | Finished]:
    """All that is seen of an episode, in order of time."""
    events: list[Arrived | Finished] = [
        Arrived(time_us * 1e-6, *row)
        for time_us, *row in zip(
            seen.arrival_us.tolist(), seen.session.tolist(), seen.model.tolist(), seen.task.tolist(), strict=True
        )
    ]
    finished = zip(seen.finish_us.tolist(), seen.session.tolist(), strict=True)
    events += [Finished(time_us * 1e-6, session) for time_us, session in finished if time_us != NONE]
    return sorted(events, key=lambda event: event.time_s)


def _idle(seen: Seen, now_s: float, models: int) -> npt.NDArray[np.bool_]:
    """Models with no request in flight, `(M,)`."""
    now_us = now_s * 1e6
    busy = (seen.arrival_us <= now_us) & ((seen.finish_us == NONE) | (seen.finish_us > now_us))
    return np.asarray(np.bincount(seen.model[busy], minlength=models) == 0)


def quality(said: Sequence[tuple[FloatArray, npt.NDArray[np.bool_]]]) -> Quality:
    """Scores of all that one forecaster said."""
    chance, came = (np.concatenate(part) for part in zip(*said, strict=True))
    used = float(came.mean())
    sure = np.clip(chance, SURE, 1.0 - SURE)
    surprise = -np.log2(np.where(came, sure, 1.0 - sure)).mean()
    plain = -(used * np.log2(used) + (1.0 - used) * np.log2(1.0 - used)) if 0.0 < used < 1.0 else 0.0
    place = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
    counts = np.maximum(np.bincount(place, minlength=BINS), 1)
    off = np.abs(np.bincount(place, weights=chance - came, minlength=BINS)) / counts
    return Quality(auc(chance, came), float(plain - surprise), float((off * counts).sum() / len(chance)), used)


def contestants(case: Case, workload: Workload, weights: str) -> dict[str, Contestant]:
    """CACE with its own window, and with every forecaster in its place, by name of the forecaster."""
    row = policy(WEIGHTS[weights]).weights
    found = {OWN: contestant_of(WEIGHTS[weights])}
    for name, make in makers(case, workload).items():
        found[name] = contestant_of(DemandScorer(row, make))
    return found


def costs(case: Case, workload: Workload, seed: int, weights: str) -> dict[str, float]:
    """Cost of an episode under each of `contestants`."""
    return {
        name: run_episode(contestant, case, workload, seed)[0].cost()
        for name, contestant in contestants(case, workload, weights).items()
    }
