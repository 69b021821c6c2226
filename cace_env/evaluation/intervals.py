"""Comparison of two policies on the same requests: gains with intervals, and shares of a gap."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RESAMPLES: Final = 10_000
SMALLEST_GAP: Final = 0.01  # share of the baseline's cost; below it, a share of the gap means nothing


class Gain(NamedTuple):
    """How much less a policy needs than a baseline [%], and its interval; NaN if undefined."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format for readers: `+7.2 % (+5.6 to +8.9)`."""
        return f"{self.percent:+.1f} % ({self.low:+.1f} to {self.high:+.1f})"


def paired_gain(
    baseline: npt.ArrayLike, policy: npt.ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES
) -> Gain:
    """Compute by how much the sum over seeds is below the baseline's, with a percentile bootstrap interval.

    `100 * (sum(baseline) - sum(policy)) / sum(baseline)`. Seeds are drawn again with replacement, the same for both, so
    the effect of a hard seed on both cancels out (percentile interval: Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). The draws are always the same: equal results have equal intervals.

    Args:
        baseline: (seeds,) values of the policy to compare with.
        policy: (seeds,) in the same order; seeds where either is NaN are left out.
        level: confidence level of the interval.
        resamples: number of bootstrap draws.

    Returns:
        The gain; bounds are NaN with fewer than two seeds, all are NaN if the baseline's sum is 0.

    Raises:
        ValueError: the two differ in length.
    """
    pairs = np.stack([np.asarray(baseline, dtype=np.float64), np.asarray(policy, dtype=np.float64)])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    count = pairs.shape[1]
    if count == 0 or pairs[0].sum() == 0:
        return Gain(np.nan, np.nan, np.nan)
    percent = 100 * (1 - pairs[1].sum() / pairs[0].sum())
    if count == 1:
        return Gain(float(percent), np.nan, np.nan)
    sums = seed_draws(count, resamples) @ pairs.T
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = 100 * (1 - sums[:, 1] / sums[:, 0])
    low, high = np.quantile(gains[np.isfinite(gains)], [(1 - level) / 2, (1 + level) / 2])
    return Gain(float(percent), float(low), float(high))


@lru_cache(maxsize=8)
def seed_draws(count: int, resamples: int, stream: int = 0) -> FloatArray:
    """How often each seed is drawn, `(resamples, count)`: sums by counts equal sums by indices, without a gather.

    Equal arguments give equal draws; draws of different streams are independent of each other.
    """
    counts = np.random.default_rng(stream).multinomial(count, np.full(count, 1 / count), size=resamples)
    return counts.astype(np.float64)


def share_of_gap(baseline: npt.ArrayLike, policy: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Compute the share of the gap between a baseline and a reference that a policy closes [%]; sums over seeds.

    `100 * (sum(baseline) - sum(policy)) / (sum(baseline) - sum(reference))`; NaN if the reference is less than 1 %
    better than the baseline.
    """
    worst, mine, best = (float(np.sum(np.asarray(costs))) for costs in (baseline, policy, reference))
    return 100 * (worst - mine) / (worst - best) if worst > best and worst - best >= SMALLEST_GAP * worst else np.nan


def mean(values: FloatArray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan
