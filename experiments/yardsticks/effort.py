"""How the reference's cost falls with the effort spent on it.

On training seeds: the numbers of `cace_env.planning.planner` were chosen by it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import Frozen
from cace_env.planning import find_reference
from cace_env.policies import Future
from cace_env.scenarios import seeds
from cace_env.workload import Workload
from experiments.reading.markdown import table
from experiments.running.command_line import split_names
from experiments.running.progress import progress_bar

ENVS: Final = {"Eviction-v0": "eviction", "Swap-v0": "swap"}
EFFORTS: Final[dict[str, dict[str, Any]]] = {
    "the cheapest base": {"max_rounds": 0},
    "1 start, 1,000 replays": {"starts": 1, "max_replays": 1_000},
    "1 start, 5,000 replays": {"starts": 1, "max_replays": 5_000},
    "1 start, 1 round": {"starts": 1, "max_rounds": 1, "max_replays": None},
    "1 start, 2 rounds": {"starts": 1, "max_rounds": 2, "gain": 0.0, "max_replays": None},
    "1 start, 4 rounds": {"starts": 1, "max_rounds": 4, "gain": 0.0, "max_replays": None},
    "the defaults": {},
    "2 starts": {"starts": 2, "max_replays": None},
    "4 starts": {"starts": 4, "max_replays": None},
}


class Curve(Frozen):
    """Measure the reference's cost against the effort spent on it."""

    scenarios: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = Field(
        default=("fast-loader", "workstation", "cold-start", "sleep-mode"), description="by name or YAML file"
    )
    seeds: int = Field(default=2, ge=1, description="training seeds of each")

    def run(self, console: Console) -> int:
        """Prints a curve for each environment; the exit status."""
        names = split_names(self.scenarios)
        for env, protocol in ENVS.items():
            points: dict[str, list[Point]] = {name: [] for name in EFFORTS}
            jobs = [(case_of(name, protocol), seed) for name in names for seed in seeds("train", self.seeds)]
            with progress_bar(Console(stderr=True)) as progress:
                for case, seed in progress.track(jobs, description=env):
                    workload = case.workload(seed)
                    future = Future.of(case.tables, workload)
                    find_reference(case, workload, future, seed, max_replays=1)  # compiles, and trains static-best
                    for effort, settings in EFFORTS.items():
                        points[effort].append(point_of(case, workload, future, seed, settings))
            about = f"{env}: {', '.join(names)}; {self.seeds} training seeds each"
            console.print(f"\n{about}\n\n{curve(points)}", soft_wrap=True)
        return 0


class Point(NamedTuple):
    """One effort on one episode."""

    share: float  # cost over that of the cheapest base
    replays: int
    cpu_s: float


def point_of(case: Case, workload: Workload, future: Future, seed: int, effort: Mapping[str, Any]) -> Point:
    """Looks for the reference of an episode with one effort, by one thread."""
    began_s = time.process_time()
    found = find_reference(case, workload, future, seed, **effort)
    return Point(found.cost / found.base_cost, found.replays, time.process_time() - began_s)


def curve(points: Mapping[str, list[Point]]) -> str:
    """Means by effort, as Markdown."""
    rows = []
    for name, some in points.items():
        share, replays, cpu_s = np.mean(some, axis=0)
        rows.append([name, f"{100 * share:.1f} %", f"{replays:,.0f}", f"{cpu_s:.2f}"])
    return table(("effort", "cost, of the cheapest base's", "replays", "CPU s per episode"), rows, numbers="right")
