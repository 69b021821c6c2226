"""Costs of all legal actions, each tried in a copy of the simulation that continues with the future requests.

They are labels for learners and planners, not a policy, because they know the future.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from cace_env.kernel import state as layout
from cace_env.kernel.plan import Game
from cace_env.kernel.rollouts import try_actions
from cace_env.kernel.rules import Rule, Scratch
from cace_env.policies.planner.prefetch import without_prefetch
from cace_env.simulation import SimulationError, Simulator, new_scratch
from cace_env.tables import FloatArray


class Rollouts:
    """Tries the actions at one simulator's open questions; reuses its arrays.

    Args:
        simulator: the simulator; it is not changed, and may be stepped and reset in between.

    Attributes:
        requests: requests simulated so far, in all copies.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.requests = 0
        self._simulator = simulator
        self._room = layout.arena(1, 1)
        self._scratches: dict[tuple[int, int, int], Scratch] = {}

    def costs(self, rule: Rule, horizons_s: Sequence[float] = (math.inf,), *, prefetches: bool = True) -> FloatArray:
        """Compute the cost of the episode until some time after the question, for every action.

        Differences between actions are exact; costs before the question cancel out.

        Args:
            rule: the rule that continues the copies, for the same fleet; its keep-alives and count limit do not apply,
                those of the simulator do.
            horizons_s: ascending times after the question at which the cost is read; inf = at the end.
            prefetches: False: the copies go on without, even where the scenario allows them.

        Returns:
            `(actions, horizons)`; inf for illegal actions.

        Raises:
            SimulationError: no question is open.
            ValueError: the horizons do not ascend from above 0.
        """
        simulator = self._simulator
        if simulator.state.scalars[layout.STATUS] != layout.ASKED:
            raise SimulationError("there is no open question; call reset first")
        times = [0.0, *horizons_s]
        if len(times) == 1 or any(not late > early for early, late in pairwise(times)):
            raise ValueError(f"horizons are {tuple(horizons_s)} s; they have to ascend from above 0")
        row, at, fleet, fleet_at, workload = simulator.arguments
        slots, models = simulator.max_slots, simulator.tables.num_models
        if self._room.shape[1] != len(row):
            self._room = layout.arena(1, len(row))
        room_for = (slots, models, rule.network.hidden if len(rule.network.slot_linear) else -1)
        if room_for not in self._scratches:
            self._scratches[room_for] = new_scratch(slots, models, rule.network)
        now = int(simulator.state.scalars[layout.CLOCK])
        moments = np.array([now + round(min(time, 1e12) * 1e6) for time in horizons_s], dtype=np.int64)
        costs = np.empty((len(simulator.state.legal), len(moments)))
        game = Game(at, fleet, fleet_at, workload, simulator.limits, _NO_TRACE)
        if not prefetches:
            game = without_prefetch(game)
        self.requests += int(try_actions(row, self._room[0], game, rule, self._scratches[room_for], moments, costs))
        return costs


_NO_TRACE = np.zeros((0, 4), dtype=np.int64)
