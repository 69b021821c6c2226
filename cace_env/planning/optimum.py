"""Exact optima: the proven least cost of an episode, by searches over the simulator itself.

`exact_optimum` tries all sequences of decisions, so the effort grows with the number of alternatives to the power of
the number of decisions: a dozen decisions take milliseconds, several dozen more time than there is. `merged_optimum`
continues only once from a state that many sequences reach. If delays die out, as when users ask once and no answer
delays the next question, there are few such states at any time, and hundreds of requests can be solved: the scenario
`tiny` is made for this. Both tell how good the reference (`cace_env.planning.planner`) is on such episodes:
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.kernel import state as layout
from cace_env.kernel.plan import Game
from cace_env.kernel.run import BEGIN
from cace_env.kernel.state import Int64Array
from cace_env.planning import search as kernel
from cace_env.simulation import NO_LIMITS, Limits, Simulator, lower_bound
from cace_env.tables import FleetTables
from cace_env.workload import Workload

MAX_NODES: Final = 5_000_000
MAX_MERGED_NODES: Final = 1_000_000  # about 30 s
FIRST_DEPTH: Final = 64
MOST_BYTES: Final = 1 << 28  # one state is kept for each decision on the path
DIGEST_BYTES: Final = 16  # of everything that a state's future depends on; collisions are negligible

LEGAL: Final = layout.State._fields.index("legal")
FIRST: Final = b""  # stands for the digest of the first question


class Step(NamedTuple):
    """The last decision on the path to a state."""

    before: bytes  # digest of the state before the decision
    code: int


@dataclass(frozen=True)
class Optimum:
    """The result of a search for the least cost of an episode."""

    cost: float  # cost of the cheapest sequence of decisions found, or `at_most`
    proven: bool  # whether nothing is cheaper; False: the search ran out of nodes
    nodes: int  # decisions tried
    plan: Int64Array | None  # its decisions, as in `Reference.plan`; None if nothing below `at_most` was found


def exact_optimum(
    tables: FleetTables,
    workload: Workload,
    *,
    at_most: float = np.inf,
    limits: Limits = NO_LIMITS,
    max_nodes: int = MAX_NODES,
) -> Optimum:
    """Find the cheapest of all sequences of decisions.

    Policies with a keep-alive or a count limit play by other rules than those that only decide; pass their `limits` to
    compare with them.

    Args:
        tables: the fleet, of either protocol.
        workload: its requests, all known in advance.
        at_most: a cost that is known to be possible, such as the reference's: the search looks only below it.
        limits: keep-alive, count limit and patience that hold in the episode.
        max_nodes: number of decisions after which the search ends without proof.

    Raises:
        ConfigError: an episode has too many decisions to keep their states in memory, or `max_nodes` below 1.
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


def merged_optimum(
    tables: FleetTables,
    workload: Workload,
    *,
    at_most: float = np.inf,
    limits: Limits = NO_LIMITS,
    max_nodes: int = MAX_MERGED_NODES,
) -> Optimum:
    """Find the cheapest of all sequences of decisions, if many of them lead to the same state.

    Dynamic programming forward in time: of the sequences with the same possible futures, only the cheapest is continued
    (`cace_env.planning.search.write_future`), and only if it can still end below the best known cost. Open states are
    kept whole, about 40 kB each with 300 requests.

    Args:
        tables: the fleet, of either protocol.
        workload: its requests, all known in advance.
        at_most: a cost that is known to be possible, such as the reference's: the search looks only below it, which
            makes the search short.
        limits: keep-alive, count limit and patience that hold in the episode.
        max_nodes: number of decisions after which the search ends without proof.

    Raises:
        ConfigError: `max_nodes` below 1.
    """
    if max_nodes < 1:
        raise ConfigError(f"max_nodes is {max_nodes}; it has to be at least 1")
    simulator = Simulator(tables, limits)
    simulator.load(workload)
    row, at, fleet, fleet_at, requests = simulator.arguments
    game = Game(at, fleet, fleet_at, requests, simulator.limits, simulator.trace)
    least = lower_bound(tables, workload)
    pairs = requests.columns[:, layout.COLUMN.session_pair]
    again = (np.bincount(pairs)[pairs] > 1).astype(np.int8)
    words = np.zeros(kernel.most_words(tables.num_models, tables.num_accelerators, len(workload)), dtype=np.int64)
    counts, costs = np.zeros(2, dtype=np.int64), np.zeros(2)
    legal = slice(*at[LEGAL : LEGAL + 2].tolist())

    def play(parent: Int64Array, action: int) -> tuple[Int64Array, int]:
        child = np.empty_like(parent)
        status = kernel.try_action(
            parent, child, game, action, least.ttft_us, least.e2e_us, again, words, counts, costs
        )
        return child, int(status)

    start, status = play(row, int(BEGIN))
    if status == layout.DONE and costs[0] < at_most:
        return Optimum(float(costs[0]), True, 0, np.zeros(0, dtype=np.int64))
    best = float(at_most)
    last: Step | None = None  # the last decision of the cheapest sequence
    cheapest: dict[bytes, float] = {FIRST: float(costs[0])}  # least cost up to each state
    steps: dict[bytes, Step] = {}  # last decision on the cheapest path to each state
    # By time: nearly all paths to a state are known before the state is continued.
    waiting = [(int(start[layout.CLOCK]), 0, float(costs[0]), FIRST, start)] if status == layout.ASKED else []
    nodes = 0
    while waiting:
        _, _, until_now, state, parent = heapq.heappop(waiting)
        if cheapest[state] < until_now:
            continue  # a cheaper sequence leads to the same state
        for action in np.flatnonzero(parent[legal]):
            if nodes >= max_nodes:
                return Optimum(best, False, nodes, _plan(steps, last))
            nodes += 1
            child, status = play(parent, int(action))
            cost = float(costs[0])
            if status == layout.DONE and cost < best:
                best, last = cost, Step(state, int(counts[1]))
            elif status == layout.ASKED and costs[1] < best:
                future = hashlib.blake2b(words[: counts[0]].tobytes(), digest_size=DIGEST_BYTES).digest()
                if cost < cheapest.get(future, np.inf):
                    cheapest[future], steps[future] = cost, Step(state, int(counts[1]))
                    heapq.heappush(waiting, (int(child[layout.CLOCK]), nodes, cost, future, child))
    return Optimum(best, True, nodes, _plan(steps, last))


def _plan(steps: Mapping[bytes, Step], last: Step | None) -> Int64Array | None:
    """The codes of all decisions up to the last one."""
    if last is None:
        return None
    codes = [last.code]
    while last.before != FIRST:
        last = steps[last.before]
        codes.append(last.code)
    return np.array(codes[::-1], dtype=np.int64)
