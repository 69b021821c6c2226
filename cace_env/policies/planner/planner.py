"""The planner: sampled futures, every legal action in each, and a rule for when to trust them."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError, did_you_mean
from cace_env.forecasting import Habits, HabitsCard, load_habits
from cace_env.policies.agent import PREFIX, Agent, shipped_agents
from cace_env.policies.base import Policy, Training, rule_of
from cace_env.policies.built_in import POLICIES
from cace_env.policies.built_in import policy as find_policy
from cace_env.policies.clairvoyant import Future
from cace_env.policies.orders import Order
from cace_env.policies.planner.budget import BETWEEN, FEWEST, Budget, budget_of
from cace_env.policies.planner.prefetch import (
    NOTHING,
    hidden,
    prefetches,
    prefetches_itself,
    worth_pricing,
)
from cace_env.policies.planner.sampled import SampledRollouts
from cace_env.policies.planner.track import Track
from cace_env.policies.player import Player
from cace_env.simulation import Limits, Simulator
from cace_env.tables import FleetTables, FloatArray, Int64Array
from cace_env.workload import Workload

PLANNER: Final = "planner:"  # in front of a policy's name
CHANGED: Final = "planner_changed"  # name of a column: share of the decisions that are not the policy's
LEAST_GAIN: Final = 1e-9  # of cost: less is rounding


class Priced(NamedTuple):
    """What decided, where the planner chose otherwise than its policy."""

    policy: None
    extra: FloatArray  # (actions,) mean cost beyond that of the policy's choice; NaN = not legal

    def scores(self, simulator: Simulator) -> FloatArray:
        """Scores of all actions: the highest is chosen."""
        del simulator
        return -self.extra


class Planner:
    """A policy that plays its choices on in sampled futures; `cace_env.evaluate` takes it like any other.

    It plays one episode at a time. Where twice as many requests were sampled as came, or half as many, over the episode
    so far, its policy decides alone.

    Args:
        policy: a built-in policy or an agent: it decides where the planner is in doubt, and plays on in the futures.
        budget: how much it may think.
        habits: what futures are drawn from; by default those of `budget.habits`, or those that ship.
        name: its own by default.

    Attributes:
        habits_card: where its habits come from; None where `habits` were given.
        decisions: all decisions with more than one legal action, over all episodes.
        changed: of those the ones that differ from the policy's.
        aside: of those the ones that were left to the policy because futures were off.
        futures: sampled futures, over all episodes.
        rollouts: of the present episode.

    Raises:
        ConfigError: the policy knows the future or is no built-in one, or there are no such habits.
    """

    def __init__(
        self,
        policy: Policy | Agent,
        budget: Budget | None = None,
        *,
        habits: Habits | None = None,
        name: str | None = None,
    ) -> None:
        self.policy = policy.policy() if isinstance(policy, Agent) else policy
        if not isinstance(self.policy, Policy):
            raise ConfigError("a planner needs a built-in policy or an agent, which plays on in compiled code")
        if self.policy.clairvoyant:
            raise ConfigError(f"{self.policy.name!r} knows the future, and a planner does not; name another policy")
        self.name = name or f"{PLANNER}{self.policy.name}"
        self.order: Order | None = None  # the policy has its own
        self.budget = budget or Budget()
        self.decisions = self.changed = self.aside = self.futures = 0
        self.last: dict[str, str] = {}
        self._prefetches = prefetches_itself(self.policy)
        card: HabitsCard | None = None
        if habits is None:
            habits, card = load_habits(self.budget.habits or None)
        self._habits, self.habits_card = habits, card
        self._pool = ThreadPoolExecutor(self.budget.threads) if self.budget.threads > 1 else None

    def __getstate__(self) -> dict[str, Any]:  # another process has threads of its own
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pool = ThreadPoolExecutor(self.budget.threads) if self.budget.threads > 1 else None

    def begin(
        self,
        tables: FleetTables,
        workload: Workload,
        seed: int,
        *,
        future: Future | None = None,
        training: Training | None = None,
    ) -> Limits:
        """Begins an episode; arguments and errors as for `cace_env.policies.Player`. `future` is not looked at.

        Returns:
            The limits that the simulator needs for the policy.
        """
        del future
        self._player = Player(self.name, self.policy, tables, workload, seed, training=training)
        rule = rule_of(self.policy, tables, seed=seed, training=training)
        self.rollouts = SampledRollouts(
            tables, workload, self._habits, [rule], seed, self.budget.threads, prefetches=self._prefetches
        )
        self.track = Track()
        self._priced: Priced | None = None
        self._episode = [0, 0]  # decisions that could be changed, and that were
        return self._player.limits

    def answer(self, simulator: Simulator) -> tuple[int, float]:
        """The action at the open question, and the seconds it took to decide."""
        began = time.perf_counter()
        ahead = prefetches(simulator)
        with hidden(simulator, NOTHING if self._prefetches else ahead):
            action, _ = self._player.answer(simulator)
        self._priced = None
        self.rollouts.look(simulator)
        self.track.see(simulator, self.rollouts.sampler)
        wanted = NOTHING if self.track.off else self._wanted(simulator, ahead, began)
        left_out = np.setdiff1d(ahead, [*wanted, action]) if len(ahead) else NOTHING
        with hidden(simulator, left_out):
            legal = np.flatnonzero(simulator.state.legal)
            if len(legal) > 1:
                self.decisions += 1
                self._episode[0] += 1
                if self.track.off:
                    self.aside += 1
                else:
                    action = self._choose(simulator, legal, action, began, wanted)
        return action, time.perf_counter() - began

    def _wanted(self, simulator: Simulator, ahead: Int64Array, began: float) -> Int64Array:
        """Of these prefetches those that are priced."""
        budget = self.budget
        if not len(ahead) or math.isinf(budget.prefetch_sure):
            return NOTHING
        used, count = np.zeros(simulator.tables.num_models), 0
        for seeds in self.rollouts.seeds(budget.futures):
            used[np.unique(self.rollouts.sampler.draw(seeds, budget.horizons[-1]).models)] += 1
            count += 1
            # half of the time is for the prices
            if budget.ms and count >= FEWEST and (time.perf_counter() - began) * 2e3 > budget.ms:
                break
        return worth_pricing(simulator, ahead, used / count)

    def _choose(self, simulator: Simulator, legal: Int64Array, own: int, began: float, ahead: Int64Array) -> int:
        """The policy's own choice, or one that is cheaper for sure; `ahead` are prefetches."""
        extra = self.extra_costs(simulator, own, began)[:, legal]
        means, count = extra.mean(axis=0), len(extra)
        errors = extra.std(axis=0, ddof=1) / math.sqrt(count)
        sure = np.where(np.isin(legal, ahead), self.budget.prefetch_sure, self.budget.sure)
        means[means + sure * errors >= -LEAST_GAIN] = 0.0
        best = int(means.argmin())
        if means[best] == 0.0:
            return own
        self.changed += 1
        self._episode[1] += 1
        priced = np.full(len(simulator.state.legal), np.nan)
        priced[legal] = extra.mean(axis=0)
        self._priced = Priced(None, priced)
        self.last["planner"] = f"costs {-means[best]:.3g} ({errors[best]:.2g}) less in {count} sampled futures"
        return int(legal[best])

    def extra_costs(self, simulator: Simulator, own: int, began: float | None = None) -> FloatArray:
        """Cost of each action beyond that of `own`, mean of the horizons, `(futures, actions)`; inf where not legal.

        `answer` has looked at the question.
        """
        budget = self.budget
        seeds = self.rollouts.seeds(budget.futures)
        extra = np.empty((budget.futures, len(simulator.state.legal)))

        def price(place: int, numbers: range) -> None:
            for number in numbers:
                costs = self.rollouts.costs(seeds[number], budget.horizons, place)[0].mean(axis=1)
                extra[number] = costs - costs[own]

        done = 0
        # Without a limit of time all at once.
        portion = budget.futures if not budget.ms else max(FEWEST, budget.threads)
        while done < budget.futures:
            numbers = range(done, min(done + portion, budget.futures))
            if self._pool is None:
                price(0, numbers)
            else:
                shares = [numbers[place :: budget.threads] for place in range(budget.threads)]
                list(self._pool.map(price, range(budget.threads), shares))
            done = numbers.stop
            if budget.ms and began is not None and (time.perf_counter() - began) * 1e3 > budget.ms:
                break
        self.futures += done
        return extra[:done]

    @property
    def reason(self) -> str | None:
        """The word "planner" if the last decision is not the policy's, else None."""
        return None if self._priced is None else "planner"

    @property
    def decider(self) -> Player | Priced:
        """Who took the last decision: the policy, or the futures."""
        return self._player if self._priced is None else self._priced

    def columns(self) -> dict[str, float]:
        """The share of decisions that were changed in this episode, as a column of a row of results."""
        return {CHANGED: self._episode[1] / max(self._episode[0], 1)}


def planner_of(name: str) -> Planner:
    """The planner by its name: `planner:POLICY`, with options behind it: `planner:eviction@futures=64@ms=80`.

    Raises:
        ConfigError: there is no such policy or option.
    """
    inner, *options = name.removeprefix(PLANNER).split(BETWEEN)
    agents = shipped_agents()
    first, colon, rest = inner.partition(":")
    if colon and first in agents:
        raise ConfigError(f"policy {name!r}: options stand behind {BETWEEN}, as in {PLANNER}{first}{BETWEEN}{rest}")
    if not colon and inner not in (*agents, *POLICIES) and (hint := did_you_mean(inner, agents)):
        raise ConfigError(f"policy {name!r}: no policy or agent called {inner!r}{hint}")
    policy = find_policy(PREFIX + inner if inner in agents else inner)
    return Planner(policy, budget_of(options, f"policy {name!r}"), name=name)
