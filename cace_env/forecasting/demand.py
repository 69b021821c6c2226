"""CACE with another forecast: its terms and weights, the factor `future_demand` from any forecaster.

The scorer is one in Python, so that nothing compiled changes: `cace:demand=survival` is it by name, and
`cace:tuned-eviction:demand=sampler` with other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, did_you_mean
from cace_env.forecasting.forecasters import FORECASTERS, Forecaster
from cace_env.forecasting.habits import load_habits
from cace_env.forecasting.sampled import SampledCounts
from cace_env.forecasting.survival import Survivors
from cace_env.kernel.rules import CACE_TERMS, TERM_COLUMNS, TERM_FALLS
from cace_env.sessions import load_survival
from cace_env.simulation import Simulator
from cace_env.tables import NONE, FleetTables, FloatArray, Int64Array
from cace_env.workload import Workload

Making = Callable[[FleetTables, Workload, int], Forecaster]  # one for an episode: its fleet, requests and seed
WITHIN_S: Final = 300.0  # CACE counts the last five minutes, so the next five are forecast
DEMAND: Final = list(CACE_TERMS).index("future_demand")


class Arrived(NamedTuple):
    """A request that has arrived."""

    time_s: float
    session: int
    model: int
    task: int


class Finished(NamedTuple):
    """A request whose answer has ended."""

    time_s: float
    session: int


class News(NamedTuple):
    """What has happened since the last question, and where it stands; in order of time."""

    now_s: float
    events: Sequence[Arrived | Finished]
    slots: Int64Array  # (S,) the model in each slot, or NONE
    models: int


class DemandScorer:
    """Scores slots by the terms of CACE, one of them from a forecaster (a scorer, see `cace_env.policies.python`).

    Args:
        weights: in the order of `CACE_TERMS`.
        making: makes the forecaster of an episode; None: the sliding window that CACE has.
        within_s: how far it looks ahead [s].
        asks: for the expected requests, or for the chance that there is one.
    """

    def __init__(
        self,
        weights: Sequence[float],
        making: Making | None,
        *,
        within_s: float = WITHIN_S,
        asks: Literal["expected", "chance"] = "expected",
    ) -> None:
        self._weights, self._making, self._within_s, self._asks = tuple(weights), making, within_s, asks
        self._forecaster: Forecaster | None = None
        self._demand: FloatArray | None = None

    def begin(self, tables: FleetTables, workload: Workload, seed: int) -> None:
        """A new episode begins."""
        self._demand = None
        self._forecaster = None if self._making is None else self._making(tables, workload, seed)

    def look(self, simulator: Simulator) -> None:
        """Shown each question before it is asked: a sampler of futures reads more than the news."""
        if isinstance(self._forecaster, SampledCounts):
            self._forecaster.look(simulator)

    def watch(self, news: News) -> None:
        """Told of everything since the last question before each one."""
        if self._forecaster is None:
            return
        tell(self._forecaster, news.events)
        ask = self._forecaster.expected if self._asks == "expected" else self._forecaster.chance
        self._demand = np.append(ask(news.now_s, self._within_s), 0.0)[news.slots]  # the last one stands for NONE

    def __call__(self, features: FloatArray, legal: npt.NDArray[np.bool_]) -> FloatArray:
        """Keep-scores, `(S,)`."""
        scores = np.zeros(len(features))
        for term, (column, falls) in enumerate(zip(TERM_COLUMNS, TERM_FALLS, strict=True)):
            values = features[:, column]
            if term == DEMAND and self._demand is not None:
                values = self._demand
            low, high = values[legal].min(), values[legal].max()
            if self._weights[term] and high > low:
                share = (values - low) / (high - low)
                scores += self._weights[term] * (1.0 - share if falls else share)
        return scores


def tell(forecaster: Forecaster, events: Sequence[Arrived | Finished]) -> None:
    """Tells a forecaster what has happened."""
    for event in events:
        if isinstance(event, Arrived):
            forecaster.arrived(*event)
        else:
            forecaster.finished(*event)


def each_episode(make: Callable[[int], Forecaster]) -> Making:
    """A forecaster that needs to know nothing of an episode but the number of models."""
    return lambda tables, workload, seed: make(tables.num_models)


# By name: those that listen, and the sampler, which looks.
MAKINGS: Final[Mapping[str, Making]] = {
    **{name: each_episode(make) for name, make in FORECASTERS.items()},
    "sampler": SampledCounts,
}


def forecaster_of(name: str) -> Making:
    """The forecaster of a name.

    `survival@FILE` has the curves in a file of `python -m experiments.sessions`, `sampler@FOLDER` the habits in a
    folder of `python -m experiments.planner fit`.

    Raises:
        ConfigError: there is none, or no such file.
    """
    name, at, path = name.partition("@")
    if name not in MAKINGS:
        known = ", ".join(MAKINGS)
        raise ConfigError(f"no forecaster called {name!r}{did_you_mean(name, MAKINGS)}; known are {known}")
    if not at:
        return MAKINGS[name]
    if name not in ("survival", "sampler"):
        raise ConfigError(f"{name}: only survival and sampler read a file; leave out what stands behind the @")
    if not path:
        raise ConfigError(f"{name}@ names no file; give {name}@FILE, or leave the @ out")
    if name == "sampler":
        habits, _ = load_habits(path)
        return lambda tables, workload, seed: SampledCounts(tables, workload, seed, habits=habits)
    curves = load_survival(path)
    return each_episode(lambda models: Survivors(models, curves))


assert NONE == -1  # `slots` as an index
