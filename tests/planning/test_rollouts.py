"""Prices of actions are what happens: each is what the same simulation costs if one really acts and plays on so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.kernel.pick import pick
from cace_env.kernel.rules import Rule
from cace_env.planning import Rollouts
from cace_env.policies import Future, policy
from cace_env.policies.built_in import rule_of
from cace_env.simulation import SimulationError, Simulator, new_scratch
from cace_env.tables import NONE
from cace_env.workload import Workload
from tests.support.small import SEVEN

RULES = {"eviction": ("gdsf", "belady-cost"), "swap": ("wsjf+gdsf", "fifo+belady-cost")}


def played_on(simulator: Simulator, action: int, rule: Rule) -> Simulator:
    """A copy of the simulation at the end of the episode, stepped from Python."""
    copy = Simulator(simulator.tables)
    copy.restore(simulator.snapshot())
    scratch = new_scratch(copy.max_slots, copy.tables.num_models, rule.network)
    scratch.next_pointer[:] = rule.future_start[:-1]
    asked = copy.answer(action)
    while asked:
        asked = copy.answer(int(pick(*copy.arguments, rule, scratch)))
    return copy


def waited_until(case: Case, simulator: Simulator, moment_us: int) -> float:
    """Cost of an episode until a moment, request by request."""
    episode = simulator.episode()
    cost = 0.0
    for task, arrival, first, finish in zip(
        episode.task, episode.arrival_us, episode.first_token_us, episode.finish_us, strict=True
    ):
        if first == NONE or arrival > moment_us:
            continue
        cost += case.tables.cost.w_ttft[task] * (min(first, moment_us) - arrival) * 1e-6
        cost += case.tables.cost.w_e2e[task] * (min(finish, moment_us) - arrival) * 1e-6
    return cost


def some_questions(case: Case, workload: Workload, every: int = 9) -> Any:
    """A simulator at some of the questions of an episode; always the first legal action is taken."""
    simulator = Simulator(case.tables)
    asked, number = simulator.reset(workload), 0
    while asked:
        if number % every == 0:
            yield simulator
        number += 1
        asked = simulator.answer(int(np.flatnonzero(simulator.state.legal)[number % int(simulator.state.legal.sum())]))


@pytest.mark.parametrize("protocol", RULES)
def test_a_price_is_what_the_episode_costs_if_one_acts_so(protocol: str) -> None:
    case = case_of(SEVEN, protocol)
    workload = case.workload(3)
    future = Future.of(case.tables, workload)
    tried = 0
    for name in RULES[protocol]:
        known = future if policy(name).clairvoyant else None
        rule = rule_of(policy(name), case.tables, future=known)
        for simulator in some_questions(case, workload):
            now_us, before = int(simulator.question.now_us), simulator.cost()
            costs = Rollouts(simulator).costs(rule, (1.0, 30.0, math.inf))
            assert simulator.cost() == before
            assert np.array_equal(np.isfinite(costs[:, 0]), simulator.state.legal == 1)
            for action in np.flatnonzero(simulator.state.legal).tolist():
                end = played_on(simulator, action, rule)
                assert costs[action, 2] == end.cost()
                for column, horizon_us in enumerate((1_000_000, 30_000_000)):
                    assert costs[action, column] == pytest.approx(waited_until(case, end, now_us + horizon_us))
                tried += 1
    assert tried > 20


def test_requests_are_counted_in_every_copy() -> None:
    case = case_of(SEVEN)
    workload = case.workload(3)
    simulator = next(some_questions(case, workload))
    rollouts = Rollouts(simulator)
    ended = int(np.isfinite(rollouts.costs(rule_of(policy("lru"), case.tables))[:, 0]).sum()) * len(workload)
    assert 0.9 * ended < rollouts.requests <= ended  # less what had ended before the question
    whole = rollouts.requests
    rollouts.costs(rule_of(policy("lru"), case.tables), (10.0,))
    assert whole < rollouts.requests < 1.5 * whole  # a short horizon ends early


def test_rollouts_go_on_with_the_next_episode_of_a_simulator() -> None:
    case = case_of(SEVEN)
    rule = rule_of(policy("gdsf"), case.tables)
    simulator = Simulator(case.tables)
    rollouts = Rollouts(simulator)
    for seed in (3, 4):
        simulator.reset(case.workload(seed))
        assert np.array_equal(rollouts.costs(rule), Rollouts(simulator).costs(rule))


def test_mistakes_are_named() -> None:
    case = case_of(SEVEN)
    rule = rule_of(policy("lru"), case.tables)
    simulator = Simulator(case.tables)
    simulator.run(case.workload(3), rule)
    with pytest.raises(SimulationError, match="there is no open question"):
        Rollouts(simulator).costs(rule)
    simulator.reset(case.workload(3))
    for horizons_s in ((), (0.0,), (5.0, 5.0), (math.nan,)):
        with pytest.raises(ValueError, match="ascend from above 0"):
            Rollouts(simulator).costs(rule, horizons_s)
