"""Costs of all legal actions in sampled futures: each is tried in a copy of the simulation, and played on.

`cace_env.planning.Rollouts` does the same with the true future.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cace_env.forecasting import Habits, Sampler
from cace_env.kernel.rollouts import try_actions
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.state import CLOCK, arena, cut_state
from cace_env.policies.planner.prefetch import without_prefetch
from cace_env.simulation import Simulator, new_scratch
from cace_env.simulation.scratch import largest
from cace_env.tables import FleetTables, FloatArray, Int64Array
from cace_env.workload import Workload


class _Hands:
    """What one thread works with."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.other: Int64Array = arena(1, 1)
        self.requests = 0


class SampledRollouts:
    """Tries the actions at the open questions of one episode in futures that are drawn from its past alone.

    Args:
        tables: the fleet.
        workload: the requests of the episode; those that have not arrived are not read.
        habits: what futures are drawn from.
        rules: that continue the copies, one at a time.
        seed: of the draws.
        threads: places at which futures are played side by side.
        prefetches: False: the copies go on without, even where the scenario allows them.
    """

    def __init__(
        self,
        tables: FleetTables,
        workload: Workload,
        habits: Habits,
        rules: Sequence[Rule],
        seed: int,
        threads: int = 1,
        *,
        prefetches: bool = True,
    ) -> None:
        self.sampler = Sampler(tables, workload, habits, seed)
        self._rules, self._threads, self._prefetches = tuple(rules), threads, prefetches
        self._hands: list[_Hands] = []

    @property
    def requests(self) -> int:
        """Requests simulated so far, in all copies."""
        return sum(hands.requests for hands in self._hands)

    def look(self, simulator: Simulator) -> None:
        """Read what has happened until the open question.

        To be called at every question, whether its actions are tried or not, so that the futures are the same.
        """
        self.sampler.look(simulator)
        self._simulator = simulator
        if not self._hands:
            room = simulator.max_slots, simulator.tables.num_models, largest(self._rules)
            self._hands = [_Hands(new_scratch(*room)) for _ in range(self._threads)]

    def seeds(self, count: int) -> np.ndarray:
        """`(count, streams)` the numbers that as many futures are drawn from."""
        return self.sampler.seeds(count)

    def costs(self, seeds: np.ndarray, horizons_s: Sequence[float], place: int = 0) -> FloatArray:
        """Cost of the episode until some times after the question that was looked at, in one future.

        Args:
            seeds: `(streams,)` one row of `seeds`.
            horizons_s: ascending.
            place: below `threads`; each thread has its own.

        Returns:
            `(rules, actions, horizons)`; inf for illegal actions. All actions and rules meet the same future.
        """
        hands, state = self._hands[place], self._simulator.state
        future = self.sampler.draw(seeds, horizons_s[-1], place)
        if hands.other.shape[1] != len(future.row):
            hands.other = arena(1, len(future.row))
        ends = int(state.scalars[CLOCK]) + np.round(np.array(horizons_s) * 1e6).astype(np.int64)
        game = future.game if self._prefetches else without_prefetch(future.game)
        if self._simulator.tables.prefetch_limit:  # some may be hidden since the present was copied
            cut_state(future.row, game.at).legal[:] = state.legal
        costs = np.empty((len(self._rules), len(state.legal), len(ends)))
        for rule, found in zip(self._rules, costs, strict=True):
            hands.requests += int(try_actions(future.row, hands.other[0], game, rule, hands.scratch, ends, found))
        return costs
