"""Claims about the optimum: as cheap as the cheapest of all sequences of decisions, and near it the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.planning import exact_optimum, find_reference, merged_optimum
from cace_env.planning import optimum as module
from cace_env.planning.optimum import MAX_NODES, Optimum
from cace_env.policies import Future, policy
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import seeds
from cace_env.simulation import NO_LIMITS, Limits, Simulator, lower_bound, run_rule
from cace_env.tables import FOREVER, FleetTables
from cace_env.workload import Workload
from experiments.yardsticks.optimality import SHOWN, gaps_of
from experiments.yardsticks.tiny_episodes import DECISIONS, tiny_episodes
from tests.specification import strategies
from tests.specification.examples import fleet
from tests.support.policy_runs import ask

PROTOCOLS = ("eviction", "swap")
MOST_DECISIONS = 400  # of an exhaustive search in Python
ROUNDING = 1e-9


@lru_cache
def tiny(protocol: str, count: int) -> list[tuple[Case, Workload]]:
    return list(tiny_episodes(count, protocol))


def cheapest_of_all(tables: FleetTables, workload: Workload) -> float | None:
    """The least cost of all sequences of decisions, tried one by one; None where there are too many."""
    simulator = Simulator(tables)
    costs = []
    waiting = [(simulator.snapshot(), simulator.state.legal.copy())] if simulator.reset(workload) else []
    if not waiting:
        return simulator.cost()
    decisions = 0
    while waiting:
        snapshot, legal = waiting.pop()
        for action in np.flatnonzero(legal):
            decisions += 1
            if decisions > MOST_DECISIONS:
                return None
            simulator.restore(snapshot)
            if simulator.answer(int(action)):
                waiting.append((simulator.snapshot(), simulator.state.legal.copy()))
            else:
                costs.append(simulator.cost())
    return min(costs)


def check(tables: FleetTables, workload: Workload) -> bool:
    """Compares with the exhaustive search; False where that would take too long."""
    cheapest = cheapest_of_all(tables, workload)
    if cheapest is None:
        return False
    for optimum in (exact_optimum(tables, workload), merged_optimum(tables, workload)):
        assert optimum.proven
        assert optimum.cost == pytest.approx(cheapest, rel=ROUNDING)
    return True


@settings(max_examples=150)
@given(strategies.cases())
def test_nothing_is_cheaper_in_eviction_v0(case: tuple[FleetTables, Workload, object]) -> None:
    check(case[0].replace(max_decisions=FOREVER), case[1])


@settings(max_examples=150)
@given(strategies.swap_cases())
def test_nothing_is_cheaper_in_swap_v0(case: tuple[FleetTables, Workload, object]) -> None:
    check(case[0].replace(max_decisions=FOREVER), case[1])


def test_nothing_is_cheaper_in_tiny_episodes() -> None:
    assert sum(check(case.tables, workload) for case, workload in tiny("eviction", 30)) >= 10


@pytest.mark.parametrize("search", [exact_optimum, merged_optimum])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_plan_costs_what_was_promised(protocol: str, search: Callable[..., Optimum]) -> None:
    for case, workload in tiny(protocol, 5):
        optimum = search(case.tables, workload)
        assert optimum.plan is not None
        simulator = Simulator(case.tables)
        asked = simulator.reset(workload)
        models = case.tables.num_models
        for code in optimum.plan.tolist():
            assert asked
            slot = simulator.max_slots + code - models if code >= models else simulator.state.slots.tolist().index(code)
            asked = simulator.answer(slot)
        assert not asked
        assert simulator.cost() == optimum.cost


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tiny_episodes_are_the_same_every_time_and_something_is_decided(protocol: str) -> None:
    again = list(tiny_episodes(5, protocol))
    for (case, workload), (other, same) in zip(tiny(protocol, 5), again, strict=True):
        assert case.name == other.name
        assert np.array_equal(workload.arrival_us, same.arrival_us)
        lru = run_rule(case.tables, workload, rule_of(policy("lru"), case.tables))
        assert DECISIONS[0] <= lru.decisions <= DECISIONS[1]


# ---------------------------------------------------------------------------------------------------------------------
# Merging states


@pytest.mark.parametrize(("protocol", "episodes"), [("eviction", 40), ("swap", 12)])
@pytest.mark.parametrize("limited", [False, True])
def test_to_go_on_once_from_equal_states_finds_the_same_optimum(protocol: str, episodes: int, limited: bool) -> None:
    tried = np.zeros(2)
    for case, workload in tiny(protocol, episodes):
        limits = Limits(np.full(case.tables.num_models, 20_000_000), None, 5_000_000) if limited else NO_LIMITS
        alone = exact_optimum(case.tables, workload, limits=limits)
        merged = merged_optimum(case.tables, workload, at_most=alone.cost * (1 + ROUNDING), limits=limits)
        assert alone.proven and merged.proven
        assert merged.cost == pytest.approx(alone.cost, rel=ROUNDING)
        tried += alone.nodes, merged.nodes
    assert tried[1] < tried[0]


def test_the_scenario_tiny_is_solved_and_its_reference_is_at_most_a_few_percent_above() -> None:
    case = case_of("tiny")
    for seed in seeds("validation")[1:3]:
        workload = case.workload(seed)
        reference = find_reference(case, workload, Future.of(case.tables, workload), seed, starts=4)
        optimum = merged_optimum(case.tables, workload, at_most=reference.cost)
        assert optimum.proven
        assert lower_bound(case.tables, workload).cost < optimum.cost <= reference.cost < 1.05 * optimum.cost


def test_a_merged_search_that_runs_out_of_decisions_proves_nothing() -> None:
    case, workload = tiny("eviction", 1)[0]
    optimum = merged_optimum(case.tables, workload, at_most=1e9, max_nodes=1)
    assert (optimum.proven, optimum.cost, optimum.nodes, optimum.plan) == (False, 1e9, 1, None)
    with pytest.raises(ConfigError, match="max_nodes is 0; it has to be at least 1"):
        merged_optimum(case.tables, workload, max_nodes=0)


# ---------------------------------------------------------------------------------------------------------------------
# The reference beside it


@pytest.mark.parametrize(("protocol", "episodes", "belady"), [("eviction", 30, "belady"), ("swap", 12, "fifo+belady")])
def test_the_reference_is_near_the_optimum_and_belady_is_not(protocol: str, episodes: int, belady: str) -> None:
    gaps = [gaps_of(case, workload, MAX_NODES, {"starts": 4}) for case, workload in tiny(protocol, episodes)]
    assert all(gap.proven for gap in gaps)
    assert all(gap.bound < 0 <= gap.reference <= gap.best_base <= min(gap.shown) for gap in gaps)
    shown = SHOWN[protocol].index(belady)
    assert np.mean([gap.reference for gap in gaps]) < 0.05 < np.mean([gap.shown[shown] for gap in gaps])


@pytest.mark.nojit
def test_a_cost_that_is_the_optimum_is_confirmed_without_another_plan() -> None:
    case, workload = tiny("eviction", 1)[0]
    first = exact_optimum(case.tables, workload)
    again = exact_optimum(case.tables, workload, at_most=first.cost)
    assert (again.cost, again.proven, again.plan) == (first.cost, True, None)
    assert again.nodes <= first.nodes


# ---------------------------------------------------------------------------------------------------------------------
# Limits


def test_without_questions_the_optimum_is_the_only_way() -> None:
    tables, workload = fleet(need=(10, 10), memory=(20,)), ask((0.0, 0), (1.0, 1))
    optimum = exact_optimum(tables, workload)
    assert optimum.proven
    assert merged_optimum(tables, workload).cost == optimum.cost
    assert optimum.nodes == 0
    assert optimum.plan is not None
    assert optimum.plan.tolist() == []
    assert optimum.cost == run_rule(tables, workload, rule_of(policy("lru"), tables)).cost


def test_out_of_nodes_nothing_is_proven() -> None:
    case, workload = tiny("eviction", 1)[0]
    optimum = exact_optimum(case.tables, workload, at_most=1e9, max_nodes=1)
    assert (optimum.proven, optimum.cost, optimum.nodes) == (False, 1e9, 1)


def test_a_longer_episode_gets_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    case, workload = tiny("eviction", 1)[0]
    enough = exact_optimum(case.tables, workload)
    monkeypatch.setattr(module, "FIRST_DEPTH", 2)
    assert exact_optimum(case.tables, workload).cost == enough.cost


def test_too_long_an_episode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case, workload = tiny("eviction", 1)[0]
    monkeypatch.setattr(module, "FIRST_DEPTH", 2)
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    with pytest.raises(ConfigError, match=r"2 decisions or more.*find_reference for others"):
        exact_optimum(case.tables, workload)


def test_no_nodes_are_refused() -> None:
    case, workload = tiny("eviction", 1)[0]
    with pytest.raises(ConfigError, match="max_nodes is 0; it has to be at least 1"):
        exact_optimum(case.tables, workload, max_nodes=0)
