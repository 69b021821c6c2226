"""Claims about the reference: cheaper than every rule, as cheap as it says, and the same however it is computed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.evaluation import evaluate, run_episode
from cace_env.planning import Reference, find_reference, play_knowing, replay
from cace_env.planning.planner import HORIZONS_S, LOOKING_AHEAD, base_names
from cace_env.policies import ORDERS, POLICIES, Future, contestant_of, policy
from cace_env.workload import Workload
from tests.specification.examples import fleet, requests
from tests.specification.invariants import check_run
from tests.support.policy_runs import ask
from tests.support.small import SEVEN

PROTOCOLS = ("eviction", "swap")
SOME_BASES = {"eviction": ["lru", "gdsf", "belady"], "swap": ["fifo+lru", "patient-wsjf+gdsf", "wsjf+belady"]}


@lru_cache
def episode(protocol: str, seed: int = 5) -> tuple[Case, Workload, Future]:
    """A fleet, requests, and what will happen."""
    case = case_of(SEVEN, protocol)
    workload = case.workload(seed)
    return case, workload, Future.of(case.tables, workload)


@lru_cache
def found(protocol: str, seed: int = 5) -> Reference:
    """The reference of an episode, from all bases."""
    return find_reference(*episode(protocol, seed), seed, starts=2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_reference_is_cheaper_than_every_base(protocol: str) -> None:
    reference = found(protocol)
    assert reference.cost < reference.base_cost == min(reference.costs.values()) == reference.costs[reference.base]
    assert reference.rounds[-1] == reference.cost
    assert list(reference.rounds) == sorted(reference.rounds, reverse=True)


@pytest.mark.parametrize("seed", range(6, 12))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_reference_is_never_dearer_than_a_base(protocol: str, seed: int) -> None:
    reference = find_reference(*episode(protocol, seed), seed, bases=SOME_BASES[protocol], max_rounds=1, starts=1)
    assert reference.cost <= min(reference.costs.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bases_are_all_rules_and_in_swap_v0_all_orders(protocol: str) -> None:
    tables = episode(protocol)[0].tables
    orders = [f"{order}+" for order in ORDERS] if protocol == "swap" else [""]
    able = [name for name in POLICIES if name != "llama-swap-one"]  # one of them may not fit
    assert set(found(protocol).costs) == set(base_names(tables))
    assert {f"{order}{name}" for name in able for order in orders} <= set(base_names(tables))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_costs_of_bases_are_those_of_the_comparison(protocol: str) -> None:
    case, workload, future = episode(protocol)
    for name in SOME_BASES[protocol]:
        simulator, _ = run_episode(contestant_of(name), case, workload, 5, future=future)
        assert found(protocol).costs[name] == simulator.cost()


def test_where_models_may_be_prefetched_plans_of_a_look_ahead_are_tried() -> None:
    case = case_of(SEVEN | {"rules": {"prefetch_limit": 100}}, "swap")
    workload = case.workload(5)
    future = Future.of(case.tables, workload)
    reference = find_reference(case, workload, future, 5, max_rounds=0)
    ahead = (play_knowing(case, workload, future, 5, horizon_s=h, base=policy(LOOKING_AHEAD)) for h in HORIZONS_S)
    assert reference.cost == min(each.simulator.cost() for each in ahead) < reference.base_cost
    assert (reference.start, reference.rounds[-1]) == (LOOKING_AHEAD, reference.cost)
    simulator = replay(case, workload, reference)
    assert (simulator.cost(), simulator.totals().prefetches > 0) == (reference.cost, True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_replayed_plan_costs_what_was_promised(protocol: str) -> None:
    case, workload, _ = episode(protocol)
    simulator = replay(case, workload, found(protocol), trace=True)
    assert simulator.cost() == found(protocol).cost
    assert simulator.totals().decisions == len(found(protocol).plan)
    check_run(case.tables, workload, simulator.episode())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_number_of_threads_changes_nothing(protocol: str) -> None:
    one = find_reference(*episode(protocol), 5, bases=SOME_BASES[protocol], max_rounds=2, starts=3)
    for threads in (2, 3, 8):
        other = find_reference(
            *episode(protocol), 5, bases=SOME_BASES[protocol], max_rounds=2, starts=3, threads=threads
        )
        assert np.array_equal(one.plan, other.plan)
        assert (one.cost, one.costs, one.rounds, one.replays, one.start) == (
            other.cost, other.costs, other.rounds, other.replays, other.start
        )  # fmt: skip


def test_without_rounds_it_is_the_cheapest_base() -> None:
    reference = find_reference(*episode("eviction"), 5, max_rounds=0)
    assert reference.cost == reference.base_cost
    assert (reference.rounds, reference.replays, reference.start) == ((), 0, reference.base)


def test_no_more_replays_than_allowed() -> None:
    for most in (0, 7, 100):
        reference = find_reference(*episode("eviction"), 5, max_replays=most, starts=2)
        assert reference.replays <= most


@pytest.mark.nojit
def test_an_episode_without_questions_has_an_empty_plan() -> None:
    tables, workload = fleet(need=(10, 10), memory=(20,)), ask((0.0, 0), (1.0, 1))
    case = Case("roomy", tables, lambda seed: workload)
    reference = find_reference(case, workload, Future.of(tables, workload), 0)
    assert reference.cost == reference.base_cost > 0
    assert len(reference.plan) == 0
    assert replay(case, workload, reference).cost() == reference.cost


@pytest.mark.nojit
def test_one_bad_eviction_of_every_rule_is_found() -> None:
    """Model 2 is needed soonest but makes no request wait for long; Belady, which sees only times, keeps it."""
    tables = fleet(need=(10, 10, 10), memory=(20,), load_us=np.array([[[5_000_000] * 2, [100_000] * 2, [100_000] * 2]]))
    workload = ask((0.0, 0), (10.0, 1), (20.0, 2), (30.0, 1), (31.0, 0))
    case = Case("trap", tables, lambda seed: workload)
    reference = find_reference(case, workload, Future.of(tables, workload), 0, bases=["belady"])
    assert reference.plan.tolist()[0] == 1  # model 1 leaves for model 2, and comes back soon enough
    assert reference.cost < reference.costs["belady"]


# ---------------------------------------------------------------------------------------------------------------------
# The door to the future, and other mistakes


def test_without_the_future_there_is_no_reference() -> None:
    case, workload, _ = episode("eviction")
    with pytest.raises(ConfigError, match=r"needs the future; pass future=Future\.of"):
        find_reference(case, workload, None, 5)


def test_the_future_of_another_workload_is_refused() -> None:
    case, workload, _ = episode("eviction")
    for other in (case.workload(6), requests({}, {})):
        with pytest.raises(ConfigError, match="belongs to another workload"):
            find_reference(case, workload, Future.of(case.tables, other), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": -0.1}, "gain is -0.1; it has to be at least 0"),
        ({"max_rounds": -1}, "max_rounds is -1"),
        ({"max_replays": -1}, "max_replays is -1"),
        ({"starts": 0}, "starts is 0; it has to be at least 1"),
        ({"threads": 0}, "threads is 0"),
        ({"bases": []}, "no base to start from"),
        ({"bases": ["wsjf+lru"]}, "Eviction-v0 does not ask for one"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_reference(*episode("eviction"), 5, **options)


def test_a_base_that_learns_is_left_out_where_there_is_nothing_to_learn_from() -> None:
    case, workload, future = episode("eviction")
    log = Case(case.name, case.tables, case.workload)
    assert "static-best" not in find_reference(log, workload, future, 5, max_rounds=0).costs
    with pytest.raises(ConfigError, match="learns from training seeds"):
        find_reference(log, workload, future, 5, bases=["static-best"])


def test_a_plan_of_another_episode_is_refused() -> None:
    case, _, _ = episode("eviction")
    with pytest.raises(ConfigError, match="for another episode"):
        replay(case, case.workload(6), found("eviction"))
    workload = episode("swap")[1]
    with pytest.raises(ConfigError, match="for another episode"):
        replay(case, workload, found("swap"))


def test_truncated_bases_are_no_bases() -> None:
    case, workload, future = episode("eviction")
    short = Case(case.name, case.tables.replace(max_decisions=3), case.workload, case.training)
    with pytest.raises(ConfigError, match="truncated at 3 decisions"):
        find_reference(short, workload, future, 5, bases=["lru", "belady"])
    needed = evaluate("belady", case, [5]).rows[0]["decisions"]
    enough = Case(case.name, case.tables.replace(max_decisions=int(needed)), case.workload, case.training)
    reference = find_reference(enough, workload, future, 5)
    assert np.isfinite(reference.cost)
    assert len(reference.plan) <= needed
