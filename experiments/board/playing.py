"""Episodes of several policies on the test seeds of a suite's entries, with those that they are measured against."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from rich.console import Console

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.evaluation import run_seed
from cace_env.evaluation.episodes import in_order, seed_list
from cace_env.evaluation.results import Row, row_of
from cace_env.evaluation.scores import BASELINE
from cace_env.evaluation.suite import Entry
from cace_env.policies import ORDERS, POLICIES, READINGS, Contestant, Guarded, Planner, Player
from cace_env.policies.agent import PREFIX, shipped_agents
from cace_env.policies.cace import shipped_weights
from cace_env.policies.orders import JOINT
from cace_env.policies.planner import PLANNER
from cace_env.simulation import Simulator
from cace_env.tables import FloatArray, Protocol
from experiments.running.contestants import CACE_PREFIX, default_names
from experiments.running.progress import progress_bar

WARM_UP: Final = 20  # decisions that are not timed
PARTNERS: Final = (BASELINE, "cace", "gdsf", "omlx", "belady-cost")  # whose victims every order of Swap-v0 goes with
TUNED: Final = ("cace:tuned-eviction", "very-patient-wsjf+cace:tuned-swap")
PLANNERS: Final = ("planner:eviction", "planner:swap")  # they ship, but play for hours: only where they are named
TIMED: Final = 1_000  # decisions at most


class Played(NamedTuple):
    """Episodes of several policies."""

    seeds: tuple[int, ...]
    rows: dict[tuple[str, str], list[Row]]  # by entry and policy, in the order of the seeds

    def column(self, entry: str, policy: str, name: str = "cost") -> FloatArray:
        """A column of one policy on one entry, `(seeds,)`."""
        return np.array([getattr(row, name) for row in self.rows[entry, policy]], dtype=np.float64)


def shipped_names() -> list[str]:
    """Policies that ship and belong on the board, by name; without the planners."""
    return [*default_names(Protocol, PARTNERS), *TUNED]


def ships(name: str) -> bool:
    """Whether a policy of this name ships; folders, files and modules that are called so are not looked for."""
    inner = name.removeprefix(PLANNER)
    order, joint, victims = inner.rpartition(JOINT)
    agents = shipped_agents()
    known = {*POLICIES, *READINGS}
    known |= {f"{PREFIX}{agent}" for agent in agents} | {f"{CACE_PREFIX}{weights}" for weights in shipped_weights()}
    if inner != name:
        known |= set(agents)  # a planner takes them without their prefix
    return victims in known and (not joint or order in ORDERS)


def first_seeds(count: int | None) -> tuple[int, ...]:
    """The first test seeds; all of them by default.

    Raises:
        ConfigError: there are not so many.
    """
    every = seed_list("test")
    if count is not None and not 1 <= count <= len(every):
        raise ConfigError(
            f"{count} seeds were asked for; --seeds has to be 1 to {len(every)}, which are all test seeds"
        )
    return tuple(every[:count])


def play(
    contestants: Mapping[Protocol, Sequence[Contestant]],
    entries: Iterable[Entry],
    seeds: Sequence[int],
    workers: int,
    console: Console,
) -> Played:
    """Play every episode, with a progress bar.

    Args:
        contestants: by environment; all play on the same requests.
        entries: of a suite.
        seeds: of the requests.
        workers: threads.
        console: where the bar is shown.

    Raises:
        PolicyError, SimulationError: an episode failed.
    """
    cases = {entry.id: entry.case() for entry in entries}
    jobs = [(name, seed) for name in cases for seed in seeds]
    rows: dict[tuple[str, str], list[Row]] = {}

    def run(job: tuple[str, int]) -> list[Row]:
        name, seed = job
        case = cases[name]
        return [row_of(name, result.row) for result in run_seed(case, contestants[case.tables.protocol], seed)]

    with progress_bar(console) as progress:
        bar = progress.add_task("playing", total=len(jobs))
        for (name, _), results in zip(jobs, in_order(run, jobs, workers), strict=True):
            for row in results:
                rows.setdefault((name, row.policy), []).append(row)
            progress.update(bar, advance=1, description=name)
    return Played(tuple(seeds), rows)


def decision_us(contestant: Contestant, case: Case, seed: int) -> tuple[float, float]:
    """Median and 99th percentile of the time of a decision in an episode, asked from Python [us]; 0: never asked.

    Raises:
        PolicyError: the policy failed.
    """
    workload, policy = case.workload(seed), contestant.policy
    player: Player | Guarded | Planner
    if isinstance(policy, Guarded | Planner):
        player, limits = policy, policy.begin(case.tables, workload, seed, training=case.training)
    else:
        player = Player(
            contestant.name, policy, case.tables, workload, seed, order=contestant.order, training=case.training
        )
        limits = player.limits
    simulator = Simulator(case.tables, limits)
    asked, times = simulator.reset(workload), list[int]()
    while asked and len(times) < TIMED:
        began = time.perf_counter_ns()
        action, _ = player.answer(simulator)
        times.append(time.perf_counter_ns() - began)
        asked = simulator.answer(action)
    kept = np.array(list(islice(times, min(WARM_UP, len(times) // 2), None))) / 1e3
    median, late = np.quantile(kept, [0.5, 0.99]) if len(kept) else (0.0, 0.0)
    return float(median), float(late)
