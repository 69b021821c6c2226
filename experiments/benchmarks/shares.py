"""Where the time of a batch's step goes.

The borders are functions of `cace_env`, stopped by the clock while a batch plays. Simulation and observation happen in
one compiled call; what the observation takes of it is measured by observing all environments once more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from cace_env.kernel import batch as kernel
from experiments.benchmarks.measures import Figures
from experiments.benchmarks.vector import Baselines, Batch, Setting, settle

STEP, RESET, REQUESTS, METRICS = "step", "reset", "requests", "metrics"
CHOICE, SIMULATION, OBSERVATION, COPIES = (
    "choice of the action",
    "simulation",
    "observation and mask",
    "arrays, checks, infos",
)
RESETS, NEW_REQUESTS, RESULTS = "reset, up to the first question", "requests of new episodes", "metrics of ended ones"
STRETCHES: Final = 20  # of a measurement; everything is observed once more after each


class Clock:
    """Seconds spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, **functions: tuple[object, str]) -> Iterator[None]:
        """Stops the time of `name=(owner, attribute)` while the context lasts."""
        with ExitStack() as stack:
            for name, (owner, attribute) in functions.items():
                stack.enter_context(patch.object(owner, attribute, self._timed(name, getattr(owner, attribute))))
            yield

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - began
            return result

        return timed


def shares(setting: Setting, baselines: Baselines, decisions: int) -> Figures:
    """Microseconds of each part of a step of one environment in a batch, and its share.

    Args:
        setting: of the batch; with one thread, or parts that run at the same time would count twice.
        baselines: of the same scenario.
        decisions: at least so many, and at least an episode of each environment.
    """
    batch = Batch(baselines.scenario, setting)
    stretch = int(np.ceil(max(decisions / setting.num_envs, settle(batch, baselines)) / STRETCHES))
    batch.observe()
    clock, seconds, choosing_s, observing_s = Clock(), 0.0, 0.0, []
    functions = {
        STEP: (kernel, "step_rows"),
        RESET: (kernel, "reset_rows"),
        REQUESTS: (batch.envs.unwrapped.draws, "shelf"),
        METRICS: (batch.envs.unwrapped._writer, "metrics"),
    }
    for _ in range(STRETCHES):
        with clock.on(**functions):
            played = batch.play(stretch)
        seconds += played.seconds
        choosing_s += played.choosing_s
        observing_s.append(batch.observe())
    batch.close()
    stepped_s = stretch * STRETCHES * float(np.median(observing_s))
    parts = {
        SIMULATION: clock.seconds[STEP] - stepped_s,
        OBSERVATION: stepped_s,
        COPIES: seconds - choosing_s - sum(clock.seconds.values()),
        RESULTS: clock.seconds[METRICS],
        NEW_REQUESTS: clock.seconds[REQUESTS],
        RESETS: clock.seconds[RESET],
        CHOICE: choosing_s,
    }
    taken = stretch * STRETCHES * setting.num_envs
    return {
        **setting._asdict(),
        "decisions": taken,
        "us": {part: 1e6 * spent / taken for part, spent in parts.items()},
        "shares": {part: spent / seconds for part, spent in parts.items()},
    }
