"""What prefetch is worth where the future is known: the reference with it against the reference without.

Rules of prefetch may be bad; this asks what a good one could save. Episodes are short, because a plan with prefetch has
several times as many decisions.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Final

import numpy as np
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import Frozen
from cace_env.evaluation import paired_gain
from cace_env.evaluation.episodes import in_order
from cace_env.planning import find_reference
from cace_env.policies import Future
from cace_env.scenarios import load_scenario, seeds
from experiments.reading.markdown import number, percent, table
from experiments.running.progress import progress_bar

SCENARIOS: Final = ("cold-start", "default", "fast-loader", "sleep-mode")  # one of each load engine
REPLAYS: Final = 200_000  # plans with prefetch have more decisions than the planner's default allows for
BASELINE: Final = "fifo+lru"


class Prefetch(Frozen):
    """What prefetch is worth where the future is known."""

    seeds: int = Field(default=10, ge=1, description="test seeds of each scenario")
    requests: int = Field(
        default=500, ge=1, le=1_000_000, description="requests of an episode, which is also the most prefetches"
    )
    workers: int | None = Field(default=None, description="threads; all cores by default")

    def run(self, console: Console) -> int:
        """Looks for both references of every episode, and prints the table; returns the exit status.

        Raises:
            ConfigError: requests out of range.
            SimulationError: an episode failed.
        """
        began = time.perf_counter()
        numbers = list(seeds("test", self.seeds))
        cases = {name: cases_of(name, self.requests) for name in SCENARIOS}
        jobs = [(case, seed) for pair in cases.values() for case in pair for seed in numbers]
        with progress_bar(Console(stderr=True)) as progress:
            found = in_order(lambda job: costs_of(*job), jobs, self.workers or os.cpu_count() or 1)
            costs = list(progress.track(found, total=len(jobs), description="planning"))
        lru, reference = np.moveaxis(np.array(costs).reshape(len(SCENARIOS), 2, len(numbers), 2), -1, 0)
        rows = []
        for s, name in enumerate(SCENARIOS):
            without, with_prefetch = reference[s]
            gains = (
                paired_gain(lru[s, 0], without),
                paired_gain(lru[s, 0], with_prefetch),
                paired_gain(without, with_prefetch),
            )
            rows.append((name, number(lru[s, 0].mean()), *(percent(gain) for gain in gains)))
        header = (
            "scenario",
            "cost of fifo+lru",
            "reference saves",
            "with prefetch",
            "prefetch saves of the reference's cost",
        )
        console.print(table(header, rows), highlight=False, soft_wrap=True)
        took_s = time.perf_counter() - began
        console.print(f"{len(numbers)} test seeds, {self.requests} requests, {took_s:.0f} s", highlight=False)
        return 0


def cases_of(name: str, requests: int) -> tuple[Case, Case]:
    """A scenario in Swap-v0 with so many requests: without and with prefetch.

    Raises:
        ConfigError: requests out of range.
    """
    scenario = load_scenario(name)
    workload = {**scenario.workload_config.model_dump(mode="json"), "requests": requests}
    without = case_of(scenario.replace(workload=workload), "swap")
    return without, replace(without, tables=without.tables.replace(prefetch_limit=requests))


def costs_of(case: Case, seed: int) -> tuple[float, float]:
    """Costs of LRU under FIFO and of the reference."""
    workload = case.workload(seed)
    future = Future.of(case.tables, workload)
    found = find_reference(case, workload, future, seed, max_replays=REPLAYS)
    return found.costs[BASELINE], found.cost
