"""Comparison of two policies on the same requests: gains with intervals, and shares of a gap.

Seeds of generated requests are drawn independently of each other. Windows of a log are not: a busy hour follows a busy
hour. So whole blocks of consecutive windows are drawn again (`block`), and what so few blocks make too narrow is
widened (`widened`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.tables import FloatArray

RESAMPLES: Final = 10_000  # 250 of them beyond each bound of a 95 % interval
SMALLEST_GAP: Final = 0.01  # share of the baseline's cost; below it, a share of the gap means nothing
ATTACHED: Final = 1_000_003  # added to the number of a random stream, for draws of what is attached to a log
FEWEST_WINDOWS: Final = 8  # of a log, for an interval: below, there are not even four blocks
MOST_WINDOWS: Final = 30  # where nobody says
# Decisions of LRU in a window: where there are enough of them, and at least; with fewer, they make no window's cost.
DECISIONS, FEWEST_DECISIONS = 20, 10


class Gain(NamedTuple):
    """How much less a policy needs than a baseline [%], and its interval; NaN if undefined."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format for readers: `+7.2 % (+5.6 to +8.9)`, or `+7.2 % (no interval)`."""
        if math.isnan(self.low):
            return f"{self.percent:+.1f} % (no interval)"
        return f"{self.percent:+.1f} % ({self.low:+.1f} to {self.high:+.1f})"


def paired_gain(
    baseline: npt.ArrayLike,
    policy: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    block: int | None = None,
) -> Gain:
    """Compute by how much the sum over seeds is below the baseline's, with a percentile bootstrap interval.

    `100 * (sum(baseline) - sum(policy)) / sum(baseline)`. Seeds are drawn again with replacement, the same for both, so
    the effect of a hard seed on both cancels out (percentile interval: Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). The draws are always the same: equal results have equal intervals.

    Args:
        baseline: (seeds,) values of the policy to compare with; with `block`, (windows,) in order of time, or
            (draws, windows) where what is attached to the log was drawn several times.
        policy: the same of the policy; seeds, or windows, where either is NaN are left out.
        level: confidence level of the interval.
        resamples: number of bootstrap draws.
        block: of windows of a log, how many consecutive ones are drawn together (`block_of`); None: seeds, which are
            independent of each other.

    Returns:
        The gain; bounds are NaN with fewer than two seeds or `FEWEST_WINDOWS` windows, all are NaN if the baseline's
        sum is 0.

    Raises:
        ValueError: the two differ in length.
    """
    pairs = np.stack([np.asarray(baseline, dtype=np.float64), np.asarray(policy, dtype=np.float64)])
    pairs = pairs[..., ~np.isnan(pairs).any(axis=tuple(range(pairs.ndim - 1)))]
    if pairs.size == 0 or pairs[0].sum() == 0:
        return Gain(np.nan, np.nan, np.nan)
    percent = 100 * (1 - pairs[1].sum() / pairs[0].sum())
    if pairs.shape[-1] == 1:
        return Gain(float(percent), np.nan, np.nan)

    def gain(sums: FloatArray) -> FloatArray:
        return np.asarray(100 * (1 - sums[..., 1] / sums[..., 0]))

    with np.errstate(divide="ignore", invalid="ignore"):
        gains = drawn(pairs, gain, resamples=resamples, level=level, block=block)
    there = gains[np.isfinite(gains)]
    if not there.size:
        return Gain(float(percent), np.nan, np.nan)
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return Gain(float(percent), float(low), float(high))


def drawn(
    values: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    resamples: int,
    level: float,
    stream: int = 0,
    block: int | None = None,
) -> FloatArray:
    """Draws of a bootstrap of a statistic of sums, `(resamples,)`.

    On a log two things are uncertain: what another time would bring, and what was made up for it. Blocks of windows are
    drawn again for the first. For the second, draws of what is attached are drawn again, each as a whole log. Both
    deviations from the value add up, as if they were independent of each other.

    Args:
        values: (N, seeds); with `block`, (N, windows) in order of time, or (N, draws, windows).
        statistic: of sums over seeds, `(..., N)`, to `(...)`.
        resamples: number of bootstrap draws.
        level: confidence level of the interval that is wanted.
        stream: number of the random stream.
        block: windows drawn together; None: seeds.

    Returns:
        Draws; with `block`, NaN with fewer than `FEWEST_WINDOWS` windows.
    """
    if block is None:
        return statistic(seed_draws(values.shape[-1], resamples, stream) @ values.T)
    logs = values if values.ndim == 3 else values[:, None]
    draws, windows = logs.shape[1:]
    value = float(statistic(logs.sum(axis=(1, 2))))
    of_windows = statistic(seed_draws(windows, resamples, stream, block) @ logs.sum(axis=1).T)
    found = widened(of_windows, value, windows, block, level)
    if draws == 1:
        return found
    again = statistic(seed_draws(draws, resamples, stream + ATTACHED) @ logs.sum(axis=2).T)
    return found + _wider(again, value, draws, level) - value


@lru_cache(maxsize=24)  # a stream for each scenario of a suite, 8 MB for 100 seeds
def seed_draws(count: int, resamples: int, stream: int = 0, block: int | None = None) -> FloatArray:
    """How often each seed is drawn, `(resamples, count)`: sums by counts equal sums by indices, without a gather.

    Equal arguments give equal draws; draws of different streams are independent of each other. With `block`, blocks of
    so many consecutive windows are drawn, which go on at the first after the last (circular block bootstrap: Politis
    and Romano 1992, after Kuensch 1989), and the last block is cut so that as many windows are drawn as there are.
    """
    rng = np.random.default_rng(stream)
    if block is None:
        return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    starts = rng.integers(0, count, size=(resamples, math.ceil(count / block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :count] % count
    places = drawn + count * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=count * resamples).reshape(resamples, count).astype(np.float64)


def windows_for(decisions: int) -> int:
    """How many windows the results on a log are told apart by, if nobody says.

    Args:
        decisions: of LRU on the whole log.

    Returns:
        As many as have `DECISIONS` each, from `FEWEST_WINDOWS` to `MOST_WINDOWS`; 1 where even the fewest would have
        under `FEWEST_DECISIONS`, because the log is too short for an interval.
    """
    if decisions < FEWEST_WINDOWS * FEWEST_DECISIONS:
        return 1
    return min(MOST_WINDOWS, max(FEWEST_WINDOWS, decisions // DECISIONS))


def block_of(windows: int) -> int:
    """How many consecutive windows are drawn together: the cube root of their number, rounded up.

    For the variance of a mean that is the order of the best length (Kuensch 1989; Hall, Horowitz and Jing 1995).
    """
    return math.ceil(round(math.cbrt(windows), 9))  # of 27 it is 3


def widened(draws: FloatArray, value: float, count: int, block: int | None, level: float) -> FloatArray:
    """Draws of a statistic, further away from its value by what few blocks make a bootstrap too narrow.

    By `sqrt(k / (k - 1)) * t / z` with `k = count / block` blocks, where t and z are the quantiles of Student's t with
    k - 1 degrees of freedom and of the normal distribution (Hesterberg, The American Statistician 69, 2015, expands
    percentiles by the same; here the width, as few blocks have no such percentiles). Without `block` nothing changes.

    Args:
        draws: (resamples,).
        value: of the statistic itself.
        count: windows.
        block: windows drawn together, or None.
        level: confidence level of the interval.

    Returns:
        (resamples,); NaN with fewer than `FEWEST_WINDOWS` windows or two blocks.
    """
    if block is None:
        return draws
    if count < FEWEST_WINDOWS or count < 2 * block:
        return np.full_like(draws, np.nan)
    return _wider(draws, value, count / block, level)


def _wider(draws: FloatArray, value: float, number: float, level: float) -> FloatArray:
    """Draws further away from their value, by as much as a bootstrap of so few is too narrow."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    return value + math.sqrt(number / (number - 1)) * _student(z, number - 1) / z * (draws - value)


def _student(z: float, freedom: float) -> float:
    """The quantile of Student's t that belongs to one of the normal distribution.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5; within 1 % from two degrees of freedom on.
    """
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


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
