"""CACE with another forecast: its terms and weights, the factor `future_demand` from any forecaster.

The scorer is one in Python, so that nothing compiled changes: `cace:demand=survival` is it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, did_you_mean
from cace_env.forecasting.forecasters import FORECASTERS, Forecaster
from cace_env.forecasting.survival import Survivors
from cace_env.kernel.rules import CACE_TERMS, TERM_COLUMNS, TERM_FALLS
from cace_env.sessions import load_survival
from cace_env.tables import NONE, FloatArray, Int64Array

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
        forecaster: made anew for each episode, from the number of models; None: the sliding window that CACE has.
        within_s: how far it looks ahead [s].
        asks: for the expected requests, or for the chance that there is one.
    """

    def __init__(
        self,
        weights: Sequence[float],
        forecaster: Callable[[int], Forecaster] | None,
        *,
        within_s: float = WITHIN_S,
        asks: Literal["expected", "chance"] = "expected",
    ) -> None:
        self._weights, self._make, self._within_s, self._asks = tuple(weights), forecaster, within_s, asks
        self._forecaster: Forecaster | None = None
        self._demand: FloatArray | None = None

    def reset(self, seed: int) -> None:
        """A new episode begins."""
        del seed
        self._forecaster = self._demand = None

    def watch(self, news: News) -> None:
        """Told of everything since the last question before each one."""
        if self._make is None:
            return
        if self._forecaster is None:
            self._forecaster = self._make(news.models)
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


def forecaster_of(name: str) -> Callable[[int], Forecaster]:
    """The forecaster of a name; `survival@FILE` has the curves in a file of `python -m experiments.sessions`.

    Raises:
        ConfigError: there is none, or no such file.
    """
    name, at, path = name.partition("@")
    if name not in FORECASTERS:
        known = ", ".join(FORECASTERS)
        raise ConfigError(f"no forecaster called {name!r}{did_you_mean(name, FORECASTERS)}; known are {known}")
    if not at:
        return FORECASTERS[name]
    if FORECASTERS[name] is not Survivors:
        raise ConfigError(f"{name}: only survival reads a file; leave out what stands behind the @")
    if not path:
        raise ConfigError(f"{name}@ names no file; give {name}@FILE, or leave the @ out")
    curves = load_survival(path)
    return lambda models: Survivors(models, curves)


assert NONE == -1  # `slots` as an index
