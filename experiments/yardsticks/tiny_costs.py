"""The optimum of the scenario `tiny`, and the costs beside it.

`--write cace_env/data/suites/tiny-v1-costs.csv` writes the costs that ship with the suite tiny-v1: of LRU, of CACE as
it is and tuned, and of the optimum in place of the reference, on validation and test seeds. The planner's cheapest plan
of several starts bounds the search for the optimum (`cace_env.planning.merged_optimum`), and is held against it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.cases import Case
from cace_env.config import MOST_THREADS, Frozen
from cace_env.evaluation import load_suite, run_seed
from cace_env.evaluation.episodes import in_order, seed_result
from cace_env.evaluation.results import Header, Results, Row, row_of, write_results
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.evaluation.suite import TINY
from cace_env.planning import find_reference, merged_optimum
from cace_env.planning.planner import plan_action
from cace_env.policies import Future, contestant_of
from cace_env.scenarios import Split, seeds
from cace_env.simulation import Simulator, lower_bound
from experiments.running.progress import progress_bar
from experiments.running.run_folder import surroundings
from experiments.yardsticks.tiny_episodes import decision_bases

POLICIES: Final = (BASELINE, "cace", "cace:tuned-eviction")
SPLITS: Final[tuple[Split, ...]] = ("validation", "test")
STARTS: Final = 4  # of the plan that bounds the search
ABOVE: Final = 1e-9  # so much above the planner's cost the search begins, so that it finds a plan of its own


class Tiny(Frozen):
    """Solve the episodes of the scenario tiny."""

    seeds: int = Field(default=100, ge=1, description="how many of each split")
    max_nodes: int = Field(
        default=4_000_000, description="decisions after which a search ends unproven; nothing is written then"
    )
    workers: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads")
    write: Path | None = Field(default=None, description="file for the costs; an existing one is replaced")

    def run(self, console: Console) -> int:
        """Solves, prints what was found, and writes the costs; the exit status."""
        entry = load_suite(TINY).entries[0]
        case = entry.case()
        jobs = [seed for split in SPLITS for seed in seeds(split, self.seeds)]
        with progress_bar(Console(stderr=True)) as progress:
            found = in_order(lambda seed: solve(case, seed, self.max_nodes), jobs, self.workers)
            solved = list(progress.track(found, total=len(jobs), description="optimum"))
        planned, optimum = (np.array([getattr(row, name) for row in solved]) for name in ("planned", "optimum"))
        nodes = sorted(row.nodes for row in solved)
        unproven = sum(not row.proven for row in solved)
        gap = planned / optimum - 1.0
        console.print(
            f"{len(solved)} episodes, {unproven} of them unproven; {nodes[len(nodes) // 2]:,} decisions tried in the "
            f"median, {nodes[-1]:,} at most. The planner with {STARTS} starts finds the optimum of "
            f"{100 * np.mean(gap <= ABOVE):.0f} %; it is {100 * np.mean(gap):.2f} % above it on average, "
            f"{100 * np.max(gap):.1f} % at most.",
            soft_wrap=True,
        )
        if unproven or self.write is None:
            return int(unproven > 0)
        git = surroundings()["git"]
        commit = f", commit {git['commit'][:12]}" if git else ""
        header = Header(
            suite=TINY,
            policy=REFERENCE,
            description="the optimum: the cheapest of all sequences of decisions, proven on every seed",
            clairvoyant=True,
            trained_on="nothing",
            simulated_requests=0,
            code=f"cace-env {cace_env.__version__}{commit}",
            cace_env=cace_env.__version__,
            fingerprints={entry.id: entry.fingerprint()},
        )
        rows = sorted((row for one in solved for row in one.rows), key=lambda row: (row.policy, row.seed))
        write_results(self.write, Results(header, tuple(rows)))
        return 0


class Solved(NamedTuple):
    """An episode."""

    rows: tuple[Row, ...]
    planned: float  # cost of the planner's plan
    optimum: float
    nodes: int
    proven: bool


def solve(case: Case, seed: int, max_nodes: int) -> Solved:
    """The optimum of an episode, and what the policies cost."""
    workload = case.workload(seed)
    planned = find_reference(
        case, workload, Future.of(case.tables, workload), seed, bases=decision_bases(case.tables), starts=STARTS
    ).cost
    optimum = merged_optimum(case.tables, workload, at_most=planned * (1.0 + ABOVE), max_nodes=max_nodes)
    results = run_seed(case, [contestant_of(name) for name in POLICIES], seed)
    if optimum.plan is not None:
        simulator = Simulator(case.tables)
        simulator.reset(workload)
        for code in optimum.plan.tolist():
            simulator.answer(plan_action(simulator, code))
        bound = lower_bound(case.tables, workload).cost
        results.append(seed_result(REFERENCE, case, workload, seed, simulator, bound))
    rows = tuple(row_of(case.name, result.row) for result in results)
    return Solved(rows, planned, optimum.cost, optimum.nodes, optimum.proven)
