"""Looks for the reference of scenarios: how much better than LRU it is possible to be.

What was found is kept, so that the same command goes on where it was stopped, and costs nothing the next time. The
suite's references are those of `python -m experiments.suite`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.executor import Executor, movable
from cace_env.files import csv_text, replace_file
from cace_env.planning import Reference, find_reference
from cace_env.policies import Future
from cace_env.scenarios import Split, compared_scenarios, seeds
from cace_env.simulation import lower_bound
from cace_env.workload import Workload
from experiments.reading.markdown import number, table
from experiments.running.command_line import split_names
from experiments.running.options import Executed
from experiments.running.progress import progress_bar
from experiments.running.reference_cache import default_folder, keep_reference, kept_reference, key_of
from experiments.running.reference_rows import reference_options

BASELINES: Final = {"eviction": "lru", "swap": "fifo+lru"}


class Headroom(Executed):
    """Look for the reference of scenarios, and print how much better than LRU it is possible to be."""

    scenarios: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = Field(
        default=(), description="by name or YAML file; all shipped ones by default"
    )
    env: Literal["eviction", "swap"] = Field(
        default="eviction", description="what is decided: whom to evict, or also which model to load"
    )
    seeds: int = Field(default=10, ge=1, description="episodes of each scenario")
    split: Split = Field(default="train", description="where the seeds come from")
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
            ConfigError: options that cannot be used, a file in the way, or no such cluster.
            TaskLostError: what looked for a reference was lost again and again.
        """
        if self.out is not None and self.out.exists():
            raise ConfigError(f"{self.out} is there already; name another file, or remove it")
        search = reference_options(split_names(self.reference_option))
        folder = self.cache if self.cache is not None else default_folder()
        execution, names = self.execution(), split_names(self.scenarios) or compared_scenarios()
        cases = [case_of(name, self.env) for name in names]
        episodes = [Episode(case, seed) for case in cases for seed in seeds(self.split, self.seeds)]
        with execution.opened() as executor, progress_bar(Console(stderr=True)) as progress:
            found = found_in(episodes, search, folder, executor)
            by_number = dict(progress.track(found, total=len(episodes), description="reference"))
        rows = [by_number[at] for at in range(len(episodes))]
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


class Episode(NamedTuple):
    """What is looked at."""

    case: Case
    seed: int


def found_in(
    episodes: Sequence[Episode], options: dict[str, Any], folder: Path, executor: Executor
) -> Iterator[tuple[int, Found]]:
    """Looks for the references that are not kept; each is kept as soon as it is found.

    Yields:
        The number of an episode, and its row.

    Raises:
        ConfigError: options out of range.
    """
    kept: list[tuple[int, Found]] = []
    looked_for: list[tuple[int, Path]] = []

    def tasks() -> Iterator[tuple[Any, ...]]:
        shared: dict[str, Case] = {}
        for number, (case, seed) in enumerate(episodes):
            workload = case.workload(seed)
            path = folder / f"{key_of(case, workload, seed, options)}.json"
            reference = kept_reference(path)
            if reference is not None:
                kept.append((number, _row(case, seed, reference, lower_bound(case.tables, workload).cost)))
                continue
            if case.name not in shared:
                shared[case.name] = executor.share(movable(case, executor))
            looked_for.append((number, path))
            yield shared[case.name], executor.share(workload), seed, options

    with closing(executor.run(look_for, tasks())) as finished:
        for at, (reference, least) in finished:
            number, path = looked_for[at]
            keep_reference(path, reference)
            yield number, _row(episodes[number].case, episodes[number].seed, reference, least)
    yield from kept


def look_for(case: Case, workload: Workload, seed: int, options: dict[str, Any]) -> tuple[Reference, float]:
    """The reference of an episode, and what no policy costs less than."""
    reference = find_reference(case, workload, Future.of(case.tables, workload), seed, **options)
    return reference, lower_bound(case.tables, workload).cost


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
