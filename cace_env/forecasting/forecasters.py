"""Forecasters: told of arrivals and finishes as an orchestrator sees them, asked at any time for what comes next.

All speak one interface, `Forecaster`; `FORECASTERS` names them. Those of this module know rates alone: time is cut
into bins, and what a bin counts is the same per model whoever asked. `cace_env.forecasting.survival` knows sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np

from cace_env.forecasting.survival import Survivors
from cace_env.tables import FloatArray

WINDOW: Final = 5  # bins of the sliding window
ALPHA: Final = 0.3  # weight of the newest bin in EWMA and Holt
BETA: Final = 0.1  # weight of the newest slope in Holt
DAMPING: Final = 0.9  # of Holt's trend; 1 runs away on bursts
DAY_S: Final = 86_400

# Online, bins are short, so that a forecast is never older than this; smoothing is as long as five minutes to an hour.
BIN_S: Final = 30.0
WINDOW_S: Final = 300.0  # that of CACE
HALF_LIFE_S: Final = 600.0
TREND_S: Final = 1800.0  # half-life of the slope, and of its damping


class Forecaster(Protocol):
    """What every forecaster can be told and asked. `M` models; times in seconds never go back."""

    def arrived(self, time_s: float, session: int, model: int, task: int) -> None:
        """A request has arrived."""

    def finished(self, time_s: float, session: int) -> None:
        """The answer to a request of this session has ended."""

    def expected(self, time_s: float, within_s: float) -> FloatArray:
        """Requests that are expected from now on, `(M,)`."""

    def chance(self, time_s: float, within_s: float) -> FloatArray:
        """Probability that each model is asked for at least once from now on, `(M,)`."""


class Binned(Protocol):
    """A forecast of counts per bin, from those of the bins before."""

    def close(self, counts: FloatArray) -> None:
        """A bin has ended with so many requests of each model, `(M,)`."""

    def ahead(self) -> FloatArray:
        """Requests of each model that are expected in the next bin, `(M,)`."""


class MeanSoFar:
    """Mean of all bins before."""

    def __init__(self, models: int) -> None:
        self._total, self._bins = np.zeros(models), 0

    def close(self, counts: FloatArray) -> None:
        self._total += counts
        self._bins += 1

    def ahead(self) -> FloatArray:
        return self._total / max(self._bins, 1)


class SlidingWindow:
    """Mean of the last so many bins."""

    def __init__(self, models: int, bins: int = WINDOW) -> None:
        self._total, self._last, self._most = np.zeros(models), deque[FloatArray](), bins

    def close(self, counts: FloatArray) -> None:
        self._last.append(counts.copy())
        self._total += counts
        if len(self._last) > self._most:
            self._total -= self._last.popleft()

    def ahead(self) -> FloatArray:
        return self._total / max(len(self._last), 1)


class Ewma:
    """Exponentially weighted mean of the bins before; begins with the first."""

    def __init__(self, models: int, alpha: float = ALPHA) -> None:
        self._level, self._alpha, self._begun = np.zeros(models), alpha, False

    def close(self, counts: FloatArray) -> None:
        self._level += (self._alpha if self._begun else 1.0) * (counts - self._level)
        self._begun = True

    def ahead(self) -> FloatArray:
        return self._level.copy()


class Holt:
    """Level and damped trend of the bins before; never below 0."""

    def __init__(self, models: int, alpha: float = ALPHA, beta: float = BETA, damping: float = DAMPING) -> None:
        self._level, self._trend, self._begun = np.zeros(models), np.zeros(models), False
        self._alpha, self._beta, self._damping = alpha, beta, damping

    def close(self, counts: FloatArray) -> None:
        if not self._begun:
            self._level, self._begun = counts.copy(), True
            return
        ahead = self._level + self._damping * self._trend
        level = ahead + self._alpha * (counts - ahead)
        self._trend = self._beta * (level - self._level) + (1.0 - self._beta) * self._damping * self._trend
        self._level = level

    def ahead(self) -> FloatArray:
        return np.maximum(self._level + self._damping * self._trend, 0.0)


class DayProfile:
    """Mean of the same time of the day on all days before; on the first day the mean of all bins before."""

    def __init__(self, models: int, bins_per_day: int) -> None:
        self._by_time, self._mean = np.zeros((bins_per_day, models)), MeanSoFar(models)
        self._bins = 0

    def close(self, counts: FloatArray) -> None:
        self._by_time[self._bins % len(self._by_time)] += counts
        self._mean.close(counts)
        self._bins += 1

    def ahead(self) -> FloatArray:
        days = self._bins // len(self._by_time)
        return self._by_time[self._bins % len(self._by_time)] / days if days else self._mean.ahead()


class BinnedRates:
    """A forecast per bin as a forecaster: whole bins count, and what is expected spreads evenly over the time ahead.

    The chance is that of a Poisson stream, `1 - exp(-expected)`: too high where requests come in bursts.

    Args:
        models: number of models.
        binned: the forecast per bin.
        bin_s: length of a bin [s].
    """

    def __init__(self, models: int, binned: Binned, bin_s: float = BIN_S) -> None:
        self._binned, self._bin_s = binned, bin_s
        self._open, self._ends_s = np.zeros(models), bin_s

    def arrived(self, time_s: float, session: int, model: int, task: int) -> None:
        del session, task
        self._go_to(time_s)
        self._open[model] += 1.0

    def finished(self, time_s: float, session: int) -> None:
        del session
        self._go_to(time_s)

    def expected(self, time_s: float, within_s: float) -> FloatArray:
        self._go_to(time_s)
        return self._binned.ahead() * (within_s / self._bin_s)

    def chance(self, time_s: float, within_s: float) -> FloatArray:
        return -np.expm1(-self.expected(time_s, within_s))

    def _go_to(self, time_s: float) -> None:
        """Closes the bins that have ended."""
        while self._ends_s <= time_s:
            self._binned.close(self._open)
            self._open[:] = 0.0
            self._ends_s += self._bin_s


def over_bins(binned: Binned, counts: FloatArray) -> FloatArray:
    """The forecast of every bin when it begins.

    Args:
        binned: the forecast.
        counts: `(M, bins)` what came.

    Returns:
        `(M, bins)`.
    """
    forecast = np.zeros_like(counts)
    for at in range(counts.shape[1]):
        forecast[:, at] = binned.ahead()
        binned.close(counts[:, at])
    return forecast


def _weight(half_life_s: float) -> float:
    """Of the newest bin."""
    return float(-np.expm1(-np.log(2.0) * BIN_S / half_life_s))


# By name, for so many models. The numbers of those of rates are plain ones, tuned to nothing.
FORECASTERS: Final[Mapping[str, Callable[[int], Forecaster]]] = {
    "mean": lambda models: BinnedRates(models, MeanSoFar(models)),
    "window": lambda models: BinnedRates(models, SlidingWindow(models, round(WINDOW_S / BIN_S))),
    "ewma": lambda models: BinnedRates(models, Ewma(models, _weight(HALF_LIFE_S))),
    "holt": lambda models: BinnedRates(
        models, Holt(models, _weight(HALF_LIFE_S), _weight(TREND_S), 1.0 - _weight(TREND_S))
    ),
    "day": lambda models: BinnedRates(models, DayProfile(models, round(DAY_S / BIN_S))),
    "survival": Survivors,
}
