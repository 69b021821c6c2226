"""How good forecasts of the next use of a model are, and what CACE saves with each of them as its demand factor.

Forecasts are scored on the models that a policy could evict, those with no request in flight, once a minute or less:
how well they tell which of these will be used within some time (AUC), whether what they call 30 % happens in 30 of 100
cases (reliability), and both at once (log score). All see the same episodes, played by LRU, and are asked where it is:
when something has to leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.evaluation import run_episode
from cace_env.forecasting import SampledCounts
from cace_env.forecasting.demand import MAKINGS, DemandScorer, Making, tell
from cace_env.forecasting.gazette import Gazette
from cace_env.forecasting.survival import Seen
from cace_env.policies import Contestant, Future, Player, contestant_of, policy
from cace_env.simulation import Simulator
from cace_env.tables import NONE, FleetTables, FloatArray, Int64Array
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
BY_HAND: Final = "cace"  # weights, by their name
SHIPPED: Final = "tuned-eviction"

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


def knowing(tables: FleetTables, workload: Workload, seed: int) -> Knowing:
    """The forecaster that knows an episode."""
    del seed
    return Knowing(Future.of(tables, workload), workload.model.astype(np.int64))


def makings() -> dict[str, Making]:
    """All forecasters by name, and the one that knows."""
    return {**MAKINGS, TRUTH: knowing}


def far_sampler(tables: FleetTables, workload: Workload, seed: int) -> SampledCounts:
    """The sampler whose futures reach the last horizon, so that all horizons share them."""
    return SampledCounts(tables, workload, seed, reach_s=HORIZONS_S[-1])


def readable(name: str) -> str:
    """Of a forecaster, for a table."""
    return f"`{name}`" if name in MAKINGS else name


def answers(case: Case, workload: Workload, seed: int) -> Answers:
    """What every forecaster says of an episode, and what comes."""
    simulator, _ = run_episode(contestant_of(POLICY), case, workload, seed)
    seen = seen_of(simulator, workload)
    models, tables = case.tables.num_models, case.tables
    sampler = far_sampler(tables, workload, seed)
    made = {name: make(tables, workload, seed) for name, make in makings().items()} | {"sampler": sampler}
    gazette = Gazette()
    said: Answers = {name: {horizon_s: [] for horizon_s in HORIZONS_S} for name in made}
    arrivals_s = [np.sort(seen.arrival_us[seen.model == m]) * 1e-6 for m in range(models)]
    last_s = seen.end_us * 1e-6 - HORIZONS_S[-1]
    every_s, next_question_s = max(EVERY_S, (last_s - WARM_S) / MOST_QUESTIONS), WARM_S
    for asked in _questions(case, workload, seed):
        sampler.look(asked)
        news = gazette.news(asked)
        for forecaster in made.values():
            tell(forecaster, news.events)
        now_s, idle = news.now_s, _idle(seen, news.now_s, models)
        if not next_question_s <= now_s < last_s or not idle.any():
            continue
        next_question_s = now_s + every_s
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


def _questions(case: Case, workload: Workload, seed: int) -> Iterator[Simulator]:
    """The simulator at each question of an episode, which is then answered."""
    player = Player(POLICY, policy(POLICY), case.tables, workload, seed)
    simulator = Simulator(case.tables, player.limits)
    asked = simulator.reset(workload)
    while asked:
        yield simulator
        asked = simulator.answer(player.answer(simulator)[0])


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


def with_demand(weights: Sequence[float], name: str) -> Contestant:
    """CACE with some weights and a forecaster of its demand factor, or its own window."""
    if name == OWN:
        return contestant_of(replace(policy("cace"), name=name, weights=tuple(weights)))
    return Contestant(name, DemandScorer(weights, makings()[name]))
