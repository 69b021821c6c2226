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
from cace_env.planning.rollouts import Rollouts
from cace_env.policies import Future, Player, Policy, rule_of
from cace_env.policies.planner.prefetch import NOTHING, hidden, prefetches, prefetches_itself
from cace_env.simulation import Simulator
from cace_env.tables import NONE, Int64Array
from cace_env.workload import Workload

NEAR: Final = 1e-9  # of the cost: what rounding does; so near, the policy's own choice stands


@dataclass(frozen=True)
class Lookahead:
    """An episode that was played with a look ahead."""

    simulator: Simulator  # has played it: costs, metrics
    decisions: int
    changed: int  # of them, those in which the policy alone would have done something else
    plan: Int64Array  # (decisions,) evict model m: `m`; load model m: `M + m`; wait: `2 M`


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
        base: the policy that plays on in every copy, and whose choice stands where nothing is cheaper. It does not
            prefetch unless its order does: agents have not learned to.

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
    itself = prefetches_itself(base)
    decisions = changed = 0
    plan: list[int] = []
    asked = simulator.reset(workload)
    while asked:
        with hidden(simulator, NOTHING if itself else prefetches(simulator)):
            own, _ = player.answer(simulator)
        costs = rollouts.costs(rule, (horizon_s,), prefetches=itself)[:, 0]
        cheapest = int(np.argmin(costs))
        action = cheapest if costs[own] - costs[cheapest] > NEAR * costs[own] else own
        decisions += 1
        changed += action != own
        plan.append(code_of(simulator, action))
        asked = simulator.answer(action)
    return Lookahead(simulator, decisions, changed, np.array(plan, dtype=np.int64))


def code_of(simulator: Simulator, action: int) -> int:
    """What an action is called in a plan (`cace_env.kernel.plan`): models do not lie in the same slots in every run."""
    if action < simulator.max_slots:
        return int(simulator.state.slots[action])
    return action - simulator.max_slots + simulator.tables.num_models


def check_future(case: Case, workload: Workload, future: Future | None) -> Future:
    """The future, which has to be given, and to belong to the workload.

    Raises:
        ConfigError: it is missing, or is that of another workload.
    """
    if future is None:
        raise ConfigError("what looks ahead needs the future; pass future=Future.of(case.tables, workload)")
    known = len(future.nominal_us)
    fits = known == len(workload) and len(future.start) == case.tables.num_models + 1
    opened = workload.after == NONE
    if not fits or not np.array_equal(future.nominal_us[opened], workload.arrival_us[opened]):
        raise ConfigError(
            f"the future, of {known} requests, belongs to another workload than this one of {len(workload)}; make it "
            "from this one: Future.of(case.tables, workload)"
        )
    return future
