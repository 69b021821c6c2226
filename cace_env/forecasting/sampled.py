"""Sampled futures as a forecaster: how often each model is asked for in them."""

from __future__ import annotations

from typing import Final

import numpy as np

from cace_env.forecasting.habits import Habits, load_habits
from cace_env.forecasting.sampler import Sampler
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables, FloatArray, Int64Array
from cace_env.workload import Workload

FUTURES: Final = 16


class SampledCounts:
    """The forecaster: the mean number of requests for each model in sampled futures (`Forecaster`).

    It listens to nobody: the sampler reads what has happened, and what is in flight, from the simulation (`look`).

    Args:
        tables: the fleet.
        workload: the requests of the episode; only what has arrived is read.
        seed: of the draws.
        habits: what is drawn from; those that ship by default.
        futures: sampled at each question that is asked.
        reach_s: they go at least so far [s], so that several questions of one moment can share them.
    """

    def __init__(
        self,
        tables: FleetTables,
        workload: Workload,
        seed: int,
        *,
        habits: Habits | None = None,
        futures: int = FUTURES,
        reach_s: float = 0.0,
    ) -> None:
        self._sampler = Sampler(tables, workload, load_habits()[0] if habits is None else habits, seed)
        self._models, self._futures, self._reach_s = tables.num_models, futures, reach_s
        self._forget()

    def look(self, simulator: Simulator) -> None:
        """Read what has happened until the open question; to be called at each one."""
        self._sampler.look(simulator)
        self._forget()

    def arrived(self, time_s: float, session: int, model: int, task: int) -> None:
        """The sampler has read it."""

    def finished(self, time_s: float, session: int) -> None:
        """The sampler has read it."""

    def expected(self, time_s: float, within_s: float) -> FloatArray:
        return np.asarray(self._counts(time_s, within_s).mean(axis=0))

    def chance(self, time_s: float, within_s: float) -> FloatArray:
        # Half a future more on each side: what comes in none of a few futures may still come.
        found = (self._counts(time_s, within_s) > 0).sum(axis=0)
        return np.asarray((found + 0.5) / (self._futures + 1.0))

    def _forget(self) -> None:
        """Futures of a moment that has passed are of no use."""
        self._drawn_s = -1.0  # how far they go
        self._times_s, self._columns = np.zeros(0), np.zeros(0, dtype=np.int64)

    def _counts(self, time_s: float, within_s: float) -> Int64Array:
        """Requests in each future, `(futures, M)`."""
        if self._drawn_s < within_s:
            self._drawn_s = max(within_s, self._reach_s)
            times, columns = [], []
            for number, seeds in enumerate(self._sampler.seeds(self._futures)):
                future = self._sampler.draw(seeds, self._drawn_s)
                times.append(future.arrivals_us * 1e-6)
                columns.append(future.models + number * self._models)
            self._times_s, self._columns = np.concatenate(times), np.concatenate(columns)
        early = self._times_s <= time_s + within_s
        counts = np.bincount(self._columns[early], minlength=self._futures * self._models)
        return counts.reshape(self._futures, self._models)
