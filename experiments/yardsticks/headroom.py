"""Looks for the reference of scenarios: how much better than LRU it is possible to be.

What was found is kept, so that the same command goes on where it was stopped, and costs nothing the next time. The
suite's references are those of `python -m experiments.suite`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import MOST_THREADS, ConfigError, Frozen
from cace_env.evaluation.episodes import in_order
from cace_env.files import csv_text, replace_file
from cace_env.planning import Reference
from cace_env.scenarios import Split, compared_scenarios, seeds
from cace_env.simulation import lower_bound
from experiments.reading.markdown import number, table
from experiments.running.command_line import split_names
from experiments.running.progress import progress_bar
from experiments.running.reference_cache import cached_reference, default_folder
from experiments.running.reference_rows import reference_options

BASELINES: Final = {"eviction": "lru", "swap": "fifo+lru"}


class Headroom(Frozen):
    """Look for the reference of scenarios, and print how much better than LRU it is possible to be."""

    scenarios: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = Field(
        default=(), description="by name or YAML file; all shipped ones by default"
    )
    env: Literal["eviction", "swap"] = Field(
        default="eviction", description="what is decided: whom to evict, or also which model to load"
    )
    seeds: int = Field(default=10, ge=1, description="episodes of each scenario")
    split: Split = Field(default="train", description="where the seeds come from")
    workers: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads; an episode each")
    reference_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(), description="how hard it is looked for: starts, max_rounds, max_replays, gain of find_reference"
    )
    cache: Path | None = Field(
        default=None, description="where references are kept; $XDG_CACHE_HOME/cace_env/reference by default"
    )
    out: Path | None = Field(default=None, description="a CSV file with a row for each episode; must not exist")

    def run(self, console: Console) -> int:
        """Looks for what is not kept yet; prints the table and writes the rows; the exit status.

        Raises:
            ConfigError: options that cannot be used, or a file in the way.
        """
        if self.out is not None and self.out.exists():
            raise ConfigError(f"{self.out} is there already; name another file, or remove it")
        search = reference_options(split_names(self.reference_option))
        folder = self.cache if self.cache is not None else default_folder()
        cases = [case_of(name, self.env) for name in split_names(self.scenarios) or compared_scenarios()]
        jobs = [(case, seed) for case in cases for seed in seeds(self.split, self.seeds)]
        with progress_bar(Console(stderr=True)) as progress:
            found = in_order(lambda job: found_of(*job, search, folder), jobs, self.workers)
            rows = list(progress.track(found, total=len(jobs), description="reference"))
        console.print(summary(rows), soft_wrap=True)
        if self.out is not None:
            replace_file(self.out, csv_text(Found._fields, rows))
        return 0


class Found(NamedTuple):
    """A row of the CSV file."""

    scenario: str
    env: str
    seed: int
    lru: float
    base: str
    base_cost: float
    reference: float
    lower_bound: float
    rounds: int
    replays: int
    decisions: int
    wall_s: float


def found_of(case: Case, seed: int, options: dict[str, Any], folder: Path) -> Found:
    """Looks for the reference of one episode, unless it is kept.

    Raises:
        ConfigError: options out of range.
    """
    workload = case.workload(seed)
    reference, _ = cached_reference(folder, case, workload, seed, options)
    return _row(case, seed, reference, lower_bound(case.tables, workload).cost)


def _row(case: Case, seed: int, reference: Reference, least: float) -> Found:
    return Found(
        scenario=case.name,
        env=case.tables.protocol,
        seed=seed,
        lru=reference.costs[BASELINES[case.tables.protocol]],
        base=reference.base,
        base_cost=reference.base_cost,
        reference=reference.cost,
        lower_bound=least,
        rounds=len(reference.rounds),
        replays=reference.replays,
        decisions=len(reference.plan),
        wall_s=reference.wall_s,
    )


def summary(rows: list[Found]) -> str:
    """Costs summed over the seeds of each scenario, as Markdown."""
    lines = []
    for name in dict.fromkeys(row.scenario for row in rows):
        mine = [row for row in rows if row.scenario == name]
        lru, base, reference, least = (
            sum(getattr(row, column) for row in mine) for column in ("lru", "base_cost", "reference", "lower_bound")
        )
        often = max({row.base for row in mine}, key=[row.base for row in mine].count)
        lines.append(
            [
                name,
                str(len(mine)),
                *(number(cost / len(mine)) for cost in (lru, base, reference, least)),
                f"`{often}`",
                f"{100 * (lru - base) / lru:.1f} %",
                f"{100 * (lru - reference) / lru:.1f} %",
                f"{np.mean([row.wall_s for row in mine]):.1f}",
            ]
        )
    header = (
        "scenario", "seeds", "LRU", "cheapest base", "reference", "lower bound", "most often the cheapest base",
        "LRU to base", "headroom", "s per episode",
    )  # fmt: skip
    return table(header, lines, numbers="right")
