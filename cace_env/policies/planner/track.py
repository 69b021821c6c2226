"""When sampled futures are believed: as long as about as many requests come as were sampled."""

from __future__ import annotations

from typing import Final

import numpy as np

from cace_env.forecasting import Sampler
from cace_env.forecasting.draws import NUM_STREAMS
from cace_env.kernel.state import CLOCK, LOG, LOGGED
from cace_env.policies.planner.budget import FEWEST
from cace_env.simulation import Simulator

WINDOW_US: Final = 60_000_000  # between a sample and what is held against it
LEAST_WINDOWS: Final = 5  # before there is a verdict
AS_SAMPLED: Final = 50.0  # requests that came as sampled are added: few of them say little
OFF: Final = 2.0  # so many times as many requests as sampled, or as few


class Track:
    """Whether as many requests come as were sampled, over one episode; from the past alone.

    Windows of `WINDOW_US` begin with questions, and no two overlap.
    """

    def __init__(self) -> None:
        self.windows, self.sampled, self.came = 0, 0.0, 0.0
        self._open: tuple[int, float] | None = None  # since, and how many were sampled

    def see(self, simulator: Simulator, sampler: Sampler) -> None:
        """Count what came in the window, if it is over, and begin another one.

        Args:
            simulator: at a question.
            sampler: has looked at it. Its own draws stay as they are.
        """
        state, now_us = simulator.state, int(simulator.state.scalars[CLOCK])
        if self._open is not None:
            since, sampled = self._open
            if now_us < since + WINDOW_US:
                return
            arrivals = state.log[: state.scalars[LOGGED], LOG.arrival_us]
            first, end = np.searchsorted(arrivals, [since, since + WINDOW_US], side="right")
            self.windows, self.sampled, self.came = self.windows + 1, self.sampled + sampled, self.came + end - first
        seeds = np.random.default_rng(now_us).integers(0, 1 << 64, size=(FEWEST, NUM_STREAMS), dtype=np.uint64)
        counts = [len(sampler.draw(each, WINDOW_US * 1e-6).arrivals_us) for each in seeds]
        self._open = now_us, float(np.mean(counts))

    @property
    def off(self) -> bool:
        """Whether futures should not be believed."""
        ratio = (self.sampled + AS_SAMPLED) / (self.came + AS_SAMPLED)
        return self.windows >= LEAST_WINDOWS and not 1.0 / OFF <= ratio <= OFF
