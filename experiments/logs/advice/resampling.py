"""Intervals of numbers over the windows of a log: blocks of consecutive windows are drawn again.

All numbers of a report share the draws, so a hard hour is hard for every policy and every fleet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cace_env.evaluation import Gain
from cace_env.evaluation.intervals import RESAMPLES, block_of, paired_gain, seed_draws, widened
from cace_env.evaluation.scores import LEVEL, Estimate
from cace_env.tables import FloatArray


@dataclass(frozen=True)
class Draws:
    """How often each window is drawn."""

    counts: FloatArray  # (resamples, W)
    block: int  # windows drawn together

    @classmethod
    def of(cls, windows: int, stream: int = 0) -> Draws:
        """Draws of so many windows; those of different streams are independent of each other."""
        block = block_of(windows)
        return cls(seed_draws(windows, RESAMPLES, stream, block), block)

    @property
    def windows(self) -> int:
        return self.counts.shape[1]

    def interval(self, value: float, draws: FloatArray) -> Estimate:
        """A number and the interval of its draws, `(resamples,)`; without one where windows are too few."""
        draws = draws[np.isfinite(draws)]
        if not (len(draws) and np.isfinite(value)):
            return Estimate(value, np.nan, np.nan)
        wide = widened(draws, value, self.windows, self.block, LEVEL)
        low, high = np.quantile(wide, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high))

    def ratio(self, above: FloatArray, below: FloatArray) -> Estimate:
        """A ratio of sums over windows; NaN where the sum below is 0."""
        if below.sum() <= 0:
            return Estimate(np.nan, np.nan, np.nan)
        return self.interval(float(above.sum() / below.sum()), self.drawn_ratio(above, below))

    def drawn_ratio(self, above: FloatArray, below: FloatArray) -> FloatArray:
        """The ratio of each draw, `(resamples,)`; NaN where its sum below is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.counts @ above) / (self.counts @ below)

    def gain(self, now: FloatArray, then: FloatArray) -> Gain:
        """By how much a sum over windows is below another one [%]; NaN where there is nothing to save."""
        return paired_gain(now, then, block=self.block)
