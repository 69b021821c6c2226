"""What prefetch is worth to somebody who knows the future: the reference with it against the reference without.

    python -m experiments.prefetch_worth

Rules of prefetch may be bad; this asks what a good one could save. Episodes are short, because a plan with prefetch has
several times as many decisions.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import numpy as np
import tyro
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.evaluation import paired_gain
from cace_env.evaluation.episodes import in_order
from cace_env.planning import find_reference
from cace_env.policies import Future
from cace_env.scenarios import load_scenario, seeds
from experiments.reading.markdown import number, percent, table
from experiments.running.command_line import exit_status
from experiments.running.progress import progress_bar

SCENARIOS: Final = ("cold-start", "default", "fast-loader", "sleep-mode")  # one of each load engine
REPLAYS: Final = 200_000  # plans with prefetch have more decisions than the planner's default allows for
BASELINE: Final = "fifo+lru"


@dataclass(frozen=True)
class Options:
    """What prefetch is worth to somebody who knows the future."""

    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Test seeds of each scenario."""
    requests: Annotated[int, tyro.conf.arg(metavar="N")] = 500
    """Requests of an episode, which is also the most prefetches."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Threads; all cores by default."""


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


def measure(options: Options, console: Console) -> int:
    """Looks for both references of every episode, and prints the table; returns the exit status.

    Raises:
        ConfigError: seeds or requests out of range.
        SimulationError: an episode failed.
    """
    began = time.perf_counter()
    numbers = list(seeds("test", options.seeds))
    cases = {name: cases_of(name, options.requests) for name in SCENARIOS}
    jobs = [(case, seed) for pair in cases.values() for case in pair for seed in numbers]
    with progress_bar(console) as progress:
        bar = progress.add_task("planning", total=len(jobs))
        costs = []
        for pair in in_order(lambda job: costs_of(*job), jobs, options.workers or os.cpu_count() or 1):
            costs.append(pair)
            progress.update(bar, advance=1)
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
    console.print(
        f"{len(numbers)} test seeds, {options.requests} requests, {time.perf_counter() - began:.0f} s", highlight=False
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.prefetch_worth")
    return exit_status(lambda: measure(options, console))


if __name__ == "__main__":
    sys.exit(main())
