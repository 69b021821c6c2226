"""Distributions given by quantiles, as tables that compiled code reads."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

POINTS = 1024  # entries of a tabulated quantile function
FloatArray = npt.NDArray[np.float64]
_SCORES = (-1.2815515655446004, 0.0, 1.2815515655446004, 2.3263478740408408)  # normal scores of 10, 50, 90, 99 %


def quantile_table(values: tuple[float, float, float, float]) -> FloatArray:
    """Quantile function at `POINTS` midpoints from p10, p50, p90, p99.

    The logarithm is piecewise linear in the normal score of the level (a chain of log-normal pieces), with the slopes
    of the outer pieces kept outside: monotone, exact at the four quantiles, no maximum but the last midpoint (99.95 %).
    """
    scores, logs = _midpoint_scores(), np.log(values)
    table = np.interp(scores, _SCORES, logs)
    below, above = scores < _SCORES[0], scores > _SCORES[-1]
    table[below] = logs[0] + (scores[below] - _SCORES[0]) * (logs[1] - logs[0]) / (_SCORES[1] - _SCORES[0])
    table[above] = logs[-1] + (scores[above] - _SCORES[-1]) * (logs[-1] - logs[-2]) / (_SCORES[-1] - _SCORES[-2])
    return np.exp(table)


@functools.cache
def _midpoint_scores() -> FloatArray:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / POINTS) for i in range(POINTS)])


@functools.lru_cache(maxsize=256)
def mean_of(values: tuple[float, float, float, float]) -> float:
    """Mean of `quantile_table(values)`."""
    return float(quantile_table(values).mean())


def geometric_table(mean: float) -> FloatArray:
    """Quantile function of a geometric number of requests of at least 1."""
    if mean <= 1:
        return np.ones(POINTS)
    levels = (np.arange(POINTS) + 0.5) / POINTS
    return np.ceil(np.log1p(-levels) / math.log1p(-1 / mean))


def size_biased(table: FloatArray) -> FloatArray:
    """Quantile function of a length met at a random moment: weight in proportion to length."""
    levels = (np.arange(POINTS) + 0.5) / POINTS
    values: FloatArray = table[np.searchsorted(np.cumsum(table) / table.sum(), levels)]
    return values
