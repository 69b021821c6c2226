"""Which model is loaded next: every order of Swap-v0 on fleets small enough to work out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import cace_env
from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation.episodes import PolicyError
from cace_env.kernel.state import LIMIT
from cace_env.observation import PENDING, SLOT
from cace_env.policies import ORDERS, POLICIES, Order, order, policy, split_order
from cace_env.policies.built_in import rule_of
from cace_env.simulation import Episode, SimulationError, Simulator
from cace_env.tables import FOREVER, FleetTables, TableError
from cace_env.workload import Workload
from tests.specification import strategies
from tests.specification.examples import MS, fleet, requests, slo
from tests.support.policy_runs import SECOND, ask, run
from tests.support.small import EVERYDAY


def loaded(what: str, tables: FleetTables, workload: Workload) -> list[int]:
    """Models in the order in which their loads begin, under a policy of Swap-v0."""
    return [
        row.subject for row in run(what, tables.replace(protocol="swap"), workload).trace if row.kind == "LOAD_START"
    ]


def small_fleet(**changes: Any) -> FleetTables:
    """Four models, one of which fits at a time; loads take 1, 2, 3 and 4 s."""
    load_us = np.array([[[k * SECOND] * 2 for k in (1, 2, 3, 4)]])
    return fleet(**{"need": (6, 6, 6, 6), "memory": (10,), "load_us": load_us} | changes)


# Model 0 is loaded first; while it loads, the others are asked for: 3, then 2, then 1.
QUEUE = ((0.0, 0), (0.1, 3), (0.2, 2), (0.3, 1))


@pytest.mark.nojit
def test_fifo_loads_in_the_order_of_the_oldest_requests() -> None:
    assert loaded("fifo+lru", small_fleet(), ask(*QUEUE)) == [0, 3, 2, 1]


@pytest.mark.nojit
def test_shortest_load_loads_what_is_loaded_soonest() -> None:
    assert loaded("shortest-load+lru", small_fleet(), ask(*QUEUE)) == [0, 1, 2, 3]


@pytest.mark.nojit
def test_wsjf_loads_where_most_weight_waits_per_second_of_load() -> None:
    # Per second of load wait: 2 / 4 for model 3, 6 / 3 for model 2, 2 / 2 for model 1 (a request weighs 2).
    more = ask(*QUEUE, (0.4, 2), (0.5, 2))
    assert loaded("wsjf+lru", small_fleet(), more) == [0, 2, 1, 3]


@pytest.mark.nojit
def test_wsjf_with_a_max_wait_lets_nobody_starve() -> None:
    tables = small_fleet(protocol="swap")
    # Model 3 is asked for once; models 1 and 2 again and again, always with more weight per second of load.
    workload = ask((0.0, 0), (0.1, 3), *[(0.2 + 1.5 * k, 1 + k % 2) for k in range(20)])
    guarded = dataclasses.replace(ORDERS["wsjf-max-wait"], max_wait_s=5.0)
    starved = run("wsjf+lru", tables, workload)
    spared = run(dataclasses.replace(policy("lru"), order=guarded), tables, workload)
    # Its load takes 4 s, and begins when a load of at most 3 s that was under way after 5 s has ended.
    assert waited_s(starved, 1) > 16.0
    assert waited_s(spared, 1) < 5.0 + 3.0 + 4.0 + 0.1


def waited_s(episode: Episode, request: int) -> float:
    return float(episode.first_token_us[request] - episode.arrival_us[request]) / SECOND


def long_answer() -> Workload:
    """Model 0 answers for ten seconds; model 1 is asked for meanwhile."""
    return requests(
        {"model": 0, "output_tokens": 10_000 - 100, "context_tokens": 100},
        {"arrival_us": 2 * SECOND, "model": 1},
    )


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("what", "drains", "begins_s"), [("fifo+lru", 1, 10.9), ("patient-fifo+lru", 0, 10.9), ("llama-swap+lru", 0, 10.9)]
)
def test_patience_waits_until_a_victim_is_idle(what: str, drains: int, begins_s: float) -> None:
    tables = small_fleet(kv_tokens=20_000, protocol="swap")
    episode = run(what, tables, long_answer())
    assert episode.drains == drains
    assert (episode.waits > 0) == (drains == 0)
    began = [row.time_us for row in episode.trace if row.kind == "LOAD_START"][1]
    assert began == pytest.approx(begins_s * SECOND, abs=0.01 * SECOND)  # a drain ends when the answer does, too


@pytest.mark.nojit
def test_patience_ends_by_itself_though_nothing_happens() -> None:
    tables = small_fleet(kv_tokens=20_000, protocol="swap")
    hurried = dataclasses.replace(ORDERS["patient-fifo"], patience_s=3.0)
    episode = run(dataclasses.replace(policy("lru"), order=hurried), tables, long_answer())
    # Pending since second 2; nothing happens between that and the end of the answer, but the timer.
    assert [row.time_us for row in episode.trace if row.kind == "VICTIM"] == [5 * SECOND]
    assert (episode.drains, episode.waits) == (1, 1)


@pytest.mark.nojit
def test_idle_first_spares_the_busy_model_that_lru_would_evict() -> None:
    # Models 0 and 1 are resident; 0 was used before 1, but is still answering when 2 is asked for.
    tables = fleet(need=(5, 5, 5), memory=(10,), kv_tokens=20_000, protocol="swap")
    workload = requests(
        {"model": 0, "output_tokens": 9_000},
        {"arrival_us": 1 * SECOND, "model": 1},
        {"arrival_us": 3 * SECOND, "model": 2},
    )
    victims = {
        what: [row.subject for row in run(what, tables, workload).trace if row.kind == "VICTIM"]
        for what in ("fifo+lru", "fifo-any-victim+lru")
    }
    assert victims == {"fifo+lru": [1], "fifo-any-victim+lru": [0]}


def test_prefetch_loads_what_is_asked_for_often_while_nobody_waits() -> None:
    # Model 1 is asked for every 20 s, model 2 once, and evicts it; by its next request 1 has been brought back.
    tables = fleet(need=(6, 6), memory=(10,), protocol="swap", load_us=1 * SECOND)
    workload = ask(*[(20.0 * k, 0) for k in range(6)], (90.0, 1), (120.0, 0))
    without = run("patient-wsjf+lru", tables, workload)
    allowed = run("prefetch-wsjf+lru", tables.replace(prefetch_limit=5), workload)
    forbidden = run("prefetch-wsjf+lru", tables, workload)
    assert (without.prefetches, forbidden.prefetches) == (0, 0)
    assert allowed.prefetches >= 1
    assert allowed.cold_requests < without.cold_requests
    assert forbidden.cost == without.cost


def test_prefetches_are_limited() -> None:
    tables = fleet(need=(6, 6), memory=(10,), protocol="swap", load_us=1 * SECOND, prefetch_limit=3)
    simulator = Simulator(tables)
    asked = simulator.reset(ask(*[(20.0 * k, 0) for k in range(20)]))
    while asked:
        question = simulator.question
        asked = simulator.answer(int(np.flatnonzero(question.legal)[0]))  # a victim, else a load, else wait
    assert simulator.totals().prefetches == 3


@pytest.mark.parametrize("scenario", EVERYDAY)
@pytest.mark.parametrize("drain_after_s", [0.0, 30.0])
def test_patient_fifo_is_eviction_v0_on_every_scenario(scenario: str, drain_after_s: float) -> None:
    case = case_of(scenario)
    tables = case.tables.replace(drain_after_us=round(drain_after_s * SECOND))
    workload = case.workload(3)
    patient = dataclasses.replace(ORDERS["fifo"], patience_s=drain_after_s)
    same_latencies(tables, workload, "gdsf", patient)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    strategies.cases(),
    st.sampled_from(["lru", "cace", "gdsf", "lfu", "belady"]),
    st.sampled_from([0.0, 0.01, 1.0, 60.0, math.inf]),
)
def test_patient_fifo_is_eviction_v0_on_any_fleet(
    case: tuple[FleetTables, Workload, strategies.Rules], name: str, patience_s: float
) -> None:
    tables, workload, rules = case
    assume(not tables.unlimited_memory and rules.feasible)
    limit = None if math.isinf(patience_s) else round(patience_s * SECOND)
    order = dataclasses.replace(ORDERS["fifo"], patience_s=patience_s)
    drain_after_us = order.patience_us if limit is None else limit
    tables = tables.replace(drain_after_us=drain_after_us, max_decisions=FOREVER)
    same_latencies(tables, workload, name, order, max_resident=rules.max_resident)


def same_latencies(tables: FleetTables, workload: Workload, name: str, by: Order, **limits: Any) -> None:
    """Every request is answered at the same microsecond, by the same loads and evictions."""
    chosen = dataclasses.replace(policy(name), **limits)
    one = run(chosen, tables, workload)
    other = run(dataclasses.replace(chosen, order=by), tables.replace(protocol="swap"), workload)
    for column in ("arrival_us", "first_token_us", "finish_us", "model_loads"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)
    for number in ("cost", "end_us", "evictions", "loads", "load_us_total", "drains", "prefix_tokens_lost"):
        assert getattr(one, number) == getattr(other, number), number
    assert one.trace == other.trace


# ---------------------------------------------------------------------------------------------------------------------
# Names


def test_an_order_goes_in_front_of_any_policy() -> None:
    joint = policy("wsjf+cace")
    assert (joint.name, joint.order) == ("wsjf+cace", ORDERS["wsjf"])
    assert joint.weights == POLICIES["cace"].weights
    assert split_order("cace") == (None, "cace")
    assert order(ORDERS["fifo"]) is ORDERS["fifo"]


def test_a_policy_without_an_order_goes_by_fifo() -> None:
    plain = cace_env.evaluate("lru", "fast-loader", [0, 1], protocol="swap")
    fifo = cace_env.evaluate("fifo+lru", "fast-loader", [0, 1], protocol="swap")
    np.testing.assert_array_equal(plain.column("cost"), fifo.column("cost"))


def test_unknown_orders_and_orders_where_none_is_asked_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="no order called 'wsfj', did you mean 'wsjf'"):
        policy("wsfj+cace")
    with pytest.raises(ConfigError, match=r"is an order; add a policy .* such as wsjf\+lru"):
        policy("wsjf")
    with pytest.raises(ConfigError, match="Eviction-v0 does not ask for one"):
        cace_env.evaluate("wsjf+cace", "fast-loader", [0])
    with pytest.raises(ConfigError, match="patience_s is -1"):
        Order("impatient", "none", patience_s=-1.0)
    with pytest.raises(ConfigError, match="protocol is 'swaps'"):
        cace_env.evaluate("lru", "fast-loader", [0], protocol="swaps")
    with pytest.raises(TableError, match="protocol is 'both'"):
        small_fleet(protocol="both")
    with pytest.raises(TableError, match="nothing is asked"):
        small_fleet(protocol="swap", unlimited_memory=True)


# ---------------------------------------------------------------------------------------------------------------------
# Python policies


class LeastRecent:
    """LRU in Python; which model to load is `order`'s."""

    def __call__(self, features: Any, legal: Any) -> Any:
        del legal
        return -features[:, SLOT.since_use_s]


class WeightPerLoad(LeastRecent):
    """WSJF without patience in Python, over all victims."""

    def order(self, features: Any, legal: Any) -> Any:
        scores = features[:, PENDING.waiting_weight] / np.maximum(features[:, PENDING.load_s], 1e-9)
        return np.append(scores, -1.0)


def least_recent(features: Any, legal: Any) -> Any:
    del legal
    return -features[:, SLOT.since_use_s]


def test_a_callable_goes_by_an_order_in_front_of_it() -> None:
    for name in ("fifo", "patient-wsjf"):
        built_in = cace_env.evaluate(f"{name}+lru", "fast-loader", [0], protocol="swap")
        python = cace_env.evaluate(
            f"{name}+tests.policies.test_orders:least_recent", "fast-loader", [0], protocol="swap"
        )
        assert python.policy == f"{name}+least_recent"
        assert python.column("cost") == built_in.column("cost")


def test_a_policy_with_an_order_of_its_own_is_asked_for_it() -> None:
    every_victim = dataclasses.replace(ORDERS["wsjf"], idle_first=False)
    built_in = cace_env.evaluate(
        dataclasses.replace(policy("lru"), order=every_victim), "fast-loader", [0], protocol="swap"
    )
    python = cace_env.evaluate(WeightPerLoad(), "fast-loader", [0], protocol="swap")
    assert python.column("cost") == built_in.column("cost")


def test_an_order_that_is_no_number_is_refused() -> None:
    class Lost(LeastRecent):
        def order(self, features: Any, legal: Any) -> Any:
            return np.full(len(legal), np.nan)

    with pytest.raises(PolicyError, match=r"the score of legal model .* is NaN"):
        cace_env.evaluate(Lost(), "fast-loader", [0], protocol="swap")


def test_an_answer_that_is_not_legal_is_refused() -> None:
    simulator = Simulator(small_fleet(protocol="swap"))
    assert simulator.reset(ask(*QUEUE, (0.4, 0), (9.0, 0)))
    with pytest.raises(SimulationError, match=r"action 99 is not legal now; legal are \["):
        simulator.answer(99)


def test_costs_of_swap_v0_count_what_eviction_v0_counts() -> None:
    cost = dataclasses.replace(slo(500 * MS), w_load=1.0)
    tables = small_fleet(cost=cost, protocol="swap")
    episode = run("wsjf+lru", tables, ask(*QUEUE))
    assert episode.load_us_total == 10 * SECOND
    waited = (episode.first_token_us - episode.arrival_us).sum() + (episode.finish_us - episode.arrival_us).sum()
    assert episode.cost == pytest.approx(waited / SECOND + 10.0)
    assert rule_of(policy("wsjf+lru"), tables).limits[LIMIT.patience_us] == 0
