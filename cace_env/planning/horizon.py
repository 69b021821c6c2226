"""Acting with the true future of the next so many seconds, and then as a policy would: what a look ahead is worth.

At each question every legal action is tried in a copy of the simulation with the requests that do come, and the policy
plays on. The action that is cheapest after `horizon_s` is taken (one-step lookahead: a rollout with one base policy,
[Bertsekas and Castanon 1999](https://doi.org/10.1023/A:1009634810396)). No forecast of that reach, used in this way,
knows more. It is a yardstick and no bound: decisions are priced one at a time, and what comes after the horizon counts
for nothing, so a longer one can be worse.

Like every other clairvoyant policy it is refused without `cace_env.policies.Future`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.planning.planner import check_future
from cace_env.planning.rollouts import Rollouts
from cace_env.policies import Future, Player, Policy, rule_of
from cace_env.simulation import Simulator
from cace_env.workload import Workload

NEAR: Final = 1e-9  # of the cost: what rounding does; so near, the policy's own choice stands


@dataclass(frozen=True)
class Lookahead:
    """An episode that was played with a look ahead."""

    simulator: Simulator  # has played it: costs, metrics
    decisions: int
    changed: int  # of them, those in which the policy alone would have done something else


def play_knowing(
    case: Case, workload: Workload, future: Future | None, seed: int, *, horizon_s: float, base: Policy
) -> Lookahead:
    """Play an episode with the true future of the next seconds at each decision.

    Args:
        case: the fleet.
        workload: the requests.
        future: `Future.of(case.tables, workload)`.
        seed: of the episode.
        horizon_s: how far each decision looks ahead [s]; inf: to the end of the episode.
        base: the policy that plays on in every copy, and whose choice stands where nothing is cheaper.

    Raises:
        ConfigError: the future is missing or belongs to another workload, the policy cannot play on this fleet, or the
            horizon is not above 0.
    """
    if not horizon_s > 0:
        raise ConfigError(f"horizon_s is {horizon_s}; it has to be above 0")
    known, training = check_future(case, workload, future), case.training
    player = Player(base.name, base, case.tables, workload, seed, future=known, training=training)
    rule = rule_of(base, case.tables, seed=seed, workload=workload, future=known, training=training)
    simulator = Simulator(case.tables, player.limits)
    rollouts = Rollouts(simulator)
    decisions = changed = 0
    asked = simulator.reset(workload)
    while asked:
        own, _ = player.answer(simulator)
        costs = rollouts.costs(rule, (horizon_s,))[:, 0]
        cheapest = int(np.argmin(costs))
        action = cheapest if costs[own] - costs[cheapest] > NEAR * costs[own] else own
        decisions += 1
        changed += action != own
        asked = simulator.answer(action)
    return Lookahead(simulator, decisions, changed)
