"""The cheapest way to play a tiny episode, with proof: branch and bound over the simulator itself.

What is decided is searched exhaustively, so that the effort grows with the number of alternatives to the power of the
number of decisions: a dozen decisions take milliseconds, some dozens more than there is time for. It says how good the
reference (`cace_env.planner`) is where that can be known: `python -m experiments.optimality_gap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.kernel import optimum as kernel
from cace_env.kernel import state as layout
from cace_env.kernel.plan import Game
from cace_env.kernel.state import Int64Array
from cace_env.lower_bound import lower_bound
from cace_env.simulator import NO_LIMITS, Limits, Simulator
from cace_env.tables import FleetTables
from cace_env.workload import Workload

MAX_NODES: Final = 5_000_000
FIRST_DEPTH: Final = 64
MOST_BYTES: Final = 1 << 28  # a state is kept for each decision on the way


@dataclass(frozen=True)
class Optimum:
    """The cheapest way to play an episode."""

    cost: float  # of the cheapest sequence of decisions that was found, or `at_most`
    proven: bool  # nothing is cheaper; False: the search ran out of nodes
    nodes: int  # decisions that were tried out
    plan: Int64Array | None  # its decisions, as in `Reference.plan`; None: none was found that is below `at_most`


def exact_optimum(
    tables: FleetTables,
    workload: Workload,
    *,
    at_most: float = np.inf,
    limits: Limits = NO_LIMITS,
    max_nodes: int = MAX_NODES,
) -> Optimum:
    """The cheapest of all sequences of decisions.

    Rules that carry a keep-alive or a count limit play by other rules than those who only decide; pass their `limits`
    to compare with them.

    Args:
        tables: the fleet, of either protocol.
        workload: its requests, all of which are known.
        at_most: a cost that is known to be reached, such as that of the reference: the search looks below it only.
        limits: keep-alive, count limit and patience under which is decided.
        max_nodes: the search ends unproven after so many decisions.

    Raises:
        ConfigError: so many decisions in one episode that their states do not fit into memory, or `max_nodes` below 1.
    """
    if max_nodes < 1:
        raise ConfigError(f"max_nodes is {max_nodes}; it has to be at least 1")
    simulator = Simulator(tables, limits)
    simulator.load(workload)
    _, at, fleet, fleet_at, requests = simulator.arguments
    game = Game(at, fleet, fleet_at, requests, simulator.limits, simulator.trace)
    least = lower_bound(tables, workload)
    found = np.zeros(3, dtype=np.int64)
    depth = FIRST_DEPTH
    while True:
        rows = layout.arena(depth, int(at[-1]))
        if rows.nbytes > MOST_BYTES:
            raise ConfigError(
                f"the episode has {depth} decisions or more, whose states take more than {MOST_BYTES >> 20} MiB; "
                "exact_optimum is for tiny episodes, find_reference for others"
            )
        tried, path, plan = (np.zeros(depth, dtype=np.int64) for _ in range(3))
        cost = kernel.branch_and_bound(
            rows, game, least.ttft_us, least.e2e_us, tried, path, plan, found, max_nodes, float(at_most)
        )
        decisions, nodes, end = found.tolist()
        if end != kernel.OUT_OF_DEPTH:
            break
        depth *= 2
    return Optimum(float(cost), bool(end == kernel.PROVEN), nodes, plan[:decisions].copy() if decisions >= 0 else None)
