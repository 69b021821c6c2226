"""Priced decisions: what every action at the questions of an episode would have cost, at each of some horizons.

Each legal action is tried in a copy of the simulation, which is played on: with the requests that do come
(`cace_env.planning.Rollouts`), or in futures sampled from what has happened so far (`SampledRollouts`). The true future
is one of many, so it is mostly chance which action it favours; the mean over sampled ones is what could be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from agents.imitation.config import LEARNER, ImitationConfig
from agents.imitation.demonstrations import PARTS, Classroom, Labelled, begun, seen_as
from cace_env.config import ConfigError
from cace_env.evaluation.feature_ranges import Limits
from cace_env.evaluation.held_out import problems_of_seeds
from cace_env.forecasting import Habits, load_habits
from cace_env.kernel.pick import pick
from cace_env.planning import Rollouts
from cace_env.policies import Future, policy
from cace_env.policies.built_in import Policy
from cace_env.policies.planner import SampledRollouts
from cace_env.simulation import new_scratch
from cace_env.tables import FloatArray

SHARE_STREAM: Final = 9  # spawn key of the draws that say which decisions are labelled


@dataclass(frozen=True)
class Pricing:
    """How decisions are priced."""

    others: tuple[Policy | None, ...]  # continue the copies, None = who plays; a price is the mean over them
    horizons_s: tuple[float, ...]  # ascending times after the decision at which costs are read
    share: float = 1.0  # of the decisions
    futures: int = 0  # sampled at each decision; 0 = the true one
    habits: Habits | None = None  # what they are sampled from


class Priced(NamedTuple):
    """Decisions with more than one legal action of one episode, `n` of them."""

    case: int  # index of the classroom
    observations: npt.NDArray[np.float16]  # (n, size) in the layout of the classroom
    extra: npt.NDArray[np.float32]  # (n, actions, horizons) cost over the mean of the legal ones; 0 where not legal
    limits: Limits  # of the observations before they were rounded
    requests: int  # simulated for them

    def labelled(self, room: Classroom, horizons: Sequence[int]) -> Labelled:
        """With the mean over some of the horizons, by their numbers, as the label."""
        prices = self.extra[:, :, list(horizons)].mean(axis=2) * np.float32(PARTS / room.lru_cost)
        return Labelled(self.case, self.observations, prices, self.limits)


def pricing_of(config: ImitationConfig) -> Pricing:
    """How a configuration prices decisions.

    Raises:
        ConfigError: there is no such policy, it knows the true future where futures are sampled, or there are no such
            habits, or they were counted in seeds that judge agents.
    """
    others = tuple(None if name == LEARNER else policy(name) for name in config.continued_by)
    knowing = [other.name for other in others if other is not None and other.clairvoyant]
    if config.futures and knowing:
        raise ConfigError(
            f"play_on: {knowing[0]!r} knows the true future, and with futures: {config.futures} it has to continue in "
            f"sampled ones; name policies that do not, or {LEARNER!r} alone"
        )
    habits = _habits(config.habits) if config.futures else None
    return Pricing(others, config.priced_horizons_s, config.share, config.futures, habits)


def _habits(folder: str) -> Habits:
    """What futures are sampled from: counted in what may be learned from."""
    habits, card = load_habits(folder or None)
    problems = [] if card.part else problems_of_seeds(card.train_seeds, who="they were")  # parts of a log are no seeds
    if problems:
        raise ConfigError(f"habits: {folder}: {problems[0]}; fit them on training seeds")
    return habits


def price_episode(room: Classroom, seed: int, player: Policy, pricing: Pricing) -> Priced:
    """Price every action at decisions of an episode that `player` plays.

    Args:
        room: the classroom.
        seed: of the workload.
        player: policy that decides in the episode.
        pricing: how.
    """
    simulator, rule, asked = begun(room, seed, player)
    workload = room.case.workload(seed)
    others = [other or player for other in pricing.others]
    future = Future.of(room.case.tables, workload) if any(other.clairvoyant for other in others) else None
    rules = [room.rule(other, workload, seed, future) for other in others]
    known, sampled = Rollouts(simulator), None
    if pricing.futures:
        assert pricing.habits is not None and future is None
        sampled = SampledRollouts(room.case.tables, workload, pricing.habits, rules, seed)
    scratch = new_scratch(simulator.max_slots, room.case.tables.num_models, rule.network)
    draws = np.random.default_rng(np.random.SeedSequence([seed, room.number], spawn_key=(SHARE_STREAM,)))
    seen, extra = [], []
    while asked:
        if sampled is not None:
            sampled.look(simulator)
        if np.count_nonzero(simulator.state.legal) > 1 and draws.random() < pricing.share:
            seen.append(simulator.observation(room.layout))
            if sampled is None:
                costs = np.mean([known.costs(other, pricing.horizons_s) for other in rules], axis=0)
            else:
                costs = sampled_costs(sampled, pricing)
            extra.append(over_the_mean(costs))
        asked = simulator.answer(int(pick(*simulator.arguments, rule, scratch)))
    tried = known.requests if sampled is None else sampled.requests
    requests = (1 if future is None else 2) * len(workload) + tried
    labels = np.array(extra, dtype=np.float32).reshape(len(seen), room.actions, len(pricing.horizons_s))
    observations, limits = seen_as(room, seen)
    return Priced(room.number, observations, labels, limits, requests)


def sampled_costs(rollouts: SampledRollouts, pricing: Pricing) -> FloatArray:
    """Mean over sampled futures and over who plays on, `(actions, horizons)`; inf where not legal."""
    seeds = rollouts.seeds(pricing.futures)
    costs: FloatArray = np.mean([rollouts.costs(each, pricing.horizons_s).mean(axis=0) for each in seeds], axis=0)
    return costs


def over_the_mean(costs: FloatArray) -> npt.NDArray[np.float32]:
    """What each action costs over the mean of the legal ones, 0 where not legal, `(actions, horizons)`.

    Args:
        costs: `(actions, horizons)`; inf where not legal.
    """
    legal = np.isfinite(costs[:, 0])
    extra = np.zeros(costs.shape, dtype=np.float32)
    extra[legal] = costs[legal] - costs[legal].mean(axis=0)
    return extra
