"""Every built-in policy on a fleet small enough to work out by hand, and against a readable twin on random cases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cace_env.cace import TERMS, CaceWeights
from cace_env.clairvoyant import Future
from cace_env.config import ConfigError
from cace_env.evaluation import Case, contestant_of, run_episode
from cace_env.kernel import rules
from cace_env.kernel.state import CLOCK, REQUEST
from cace_env.observation import SLOT
from cace_env.policies import GROUPS, POLICIES, Policy, policies_table, policy, rule_of, weigh
from cace_env.policy_base import DRAWS
from cace_env.scenarios import load_scenario, seeds
from cace_env.simulator import Episode, Simulator, run_rule
from cace_env.tables import NONE, CostTable, FleetTables
from cace_env.workload import Workload
from tests.examples import MS, fleet, requests
from tests.strategies import Rules, cases, typical_us

SECOND = 1000 * MS
DOCS = Path(__file__).resolve().parents[1] / "docs" / "policies.md"
LAST = 3  # the model that room is made for in most examples


def ask(*rows: tuple[float, int] | dict[str, int]) -> Workload:
    """Requests as (second, model), or with all columns."""
    full = [{"arrival_us": round(r[0] * SECOND), "model": r[1]} if isinstance(r, tuple) else r for r in rows]
    return requests(*full)


def equal_fleet(**changes: Any) -> FleetTables:
    """Four models of equal size; three fit."""
    return fleet(**{"need": (10, 10, 10, 10), "memory": (30,)} | changes)


def run(what: str | Policy, tables: FleetTables, workload: Workload, **given: Any) -> Episode:
    """A compiled episode with its event trace."""
    chosen = policy(what)
    if chosen.clairvoyant:
        given.setdefault("future", Future.of(tables, workload))
    return run_rule(tables, workload, rule_of(chosen, tables, workload=workload, **given), trace=True)


def evicted(what: str | Policy, tables: FleetTables, workload: Workload, **given: Any) -> list[int]:
    """Models in the order in which they left, by choice or because their keep-alive ran out."""
    return [row.subject for row in run(what, tables, workload, **given).trace if row.kind == "UNLOAD_START"]


# Models 0, 1 and 2 are loaded in this order, then 0 is used again; 1 is the least recently used, 0 was loaded first.
HISTORY = ((0.0, 0), (1.0, 1), (2.0, 2), (3.0, 0))


# ---------------------------------------------------------------------------------------------------------------------
# Floor


@pytest.mark.nojit
def test_random_evicts_by_the_draws_of_its_seed() -> None:
    tables, workload = equal_fleet(), ask(*HISTORY, (4.0, LAST))
    victims = []
    for seed in range(20):
        draws = rule_of(policy("random"), tables, seed=seed).values
        assert len(draws) == DRAWS
        victims.append(int(np.argmin(draws[:3])))  # the first decision, slots 0 to 2
        assert evicted("random", tables, workload, seed=seed) == [victims[-1]]
    assert set(victims) == {0, 1, 2}


@pytest.mark.nojit
def test_fifo_evicts_what_was_loaded_first_however_recently_it_was_used() -> None:
    assert evicted("fifo", equal_fleet(), ask(*HISTORY, (4.0, LAST))) == [0]


@pytest.mark.nojit
def test_static_best_keeps_what_training_asked_for_most_whatever_happens_now() -> None:
    asked = []

    def training(seed: int) -> Workload:
        asked.append(seed)
        return ask((0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 3))

    # Three requests for 1, two for 0, one for 2: 2 leaves, though it was used last; then 3, asked for as rarely.
    workload = ask(*HISTORY, (4.0, 2), (5.0, LAST), (6.0, 2))
    assert evicted("static-best", equal_fleet(), workload, training=training) == [2, 3]
    assert asked == list(seeds("train", 5))
    # Ten times the reload time makes up for it: then 0 leaves.
    load_us = np.full((1, 4, 2), 100 * MS)
    load_us[0, 2] *= 10
    assert evicted("static-best", equal_fleet(load_us=load_us), workload, training=training) == [0]


@pytest.mark.nojit
def test_static_best_counts_no_request_that_would_be_refused() -> None:
    def training(seed: int) -> Workload:
        return ask((0, 0), {"model": 1, "context_tokens": 1000}, {"model": 1, "context_tokens": 1000}, (1, 2))

    assert evicted("static-best", equal_fleet(), ask(*HISTORY, (4.0, LAST)), training=training) == [1]


# ---------------------------------------------------------------------------------------------------------------------
# Deployed


@pytest.mark.nojit
def test_lru_evicts_what_was_used_longest_ago() -> None:
    assert evicted("lru", equal_fleet(), ask(*HISTORY, (4.0, LAST))) == [1]


@pytest.mark.nojit
def test_a_finish_is_a_use_too() -> None:
    # Model 1 arrives at 1 s but generates until about 2.9 s, after model 2 was used.
    long_answer = {"arrival_us": SECOND, "model": 1, "output_tokens": 800, "context_tokens": 100}
    workload = ask((0.0, 0), long_answer, (2.0, 2), (3.0, 0), (4.0, LAST))
    assert evicted("lru", equal_fleet(), workload) == [1]
    slow = equal_fleet(round_ns=2_000_000)
    assert evicted("lru", slow, workload) == [2]


@pytest.mark.nojit
def test_ties_go_to_the_least_recently_used_then_to_the_lowest_slot() -> None:
    tied = Policy("tied", "all alike", weights=weigh(occupied=1.0))
    assert evicted(tied, equal_fleet(), ask(*HISTORY, (4.0, LAST))) == [1]
    untouched = equal_fleet(resident_on=[0, 0, 0, NONE])
    assert evicted(tied, untouched, ask((4.0, LAST))) == [0]
    assert evicted("lru", untouched, ask((4.0, LAST))) == [0]


NAMES = ("zeta", "alpha", "mid", "omega")


@pytest.mark.nojit
def test_ollama_evicts_the_alphabetically_first_idle_model() -> None:
    tables = equal_fleet(model_names=NAMES)
    assert evicted("ollama", tables, ask((0, 0), (1, 1), (2, 2), (3, 1), (4, LAST))) == [1]  # alpha, though used last
    # While alpha generates, mid is the first idle one.
    busy = {"arrival_us": 3 * SECOND, "model": 1, "output_tokens": 900}
    slow = equal_fleet(model_names=NAMES, round_ns=10_000_000)
    assert evicted("ollama", slow, ask((0, 0), (1, 1), (2, 2), busy, (5, LAST))) == [2]


@pytest.mark.nojit
def test_ollama_drains_the_first_of_its_order_when_nothing_is_idle() -> None:
    busy = [{"arrival_us": m * SECOND, "model": m, "output_tokens": 900} for m in (0, 1, 2)]
    slow = equal_fleet(model_names=NAMES, round_ns=10_000_000, drain_after_us=SECOND)
    assert evicted("ollama", slow, ask(*busy, (4, LAST))) == [1]


@pytest.mark.nojit
def test_ollama_puts_the_shortest_keep_alive_first() -> None:
    own = dataclasses.replace(
        policy("ollama"), keep_alive_s={"zeta": 60.0, "alpha": math.inf, "mid": 300.0, "omega": 1.0}
    )
    assert evicted(own, equal_fleet(model_names=NAMES), ask((0, 0), (1, 1), (2, 2), (3, 0), (4, LAST)))[0] == 0


@pytest.mark.nojit
def test_ollama_holds_three_models_and_llama_cpp_four_and_ray_serve_three_though_memory_is_free() -> None:
    roomy = fleet(need=(10,) * 6, memory=(100,))
    workload = ask((0, 5), (1, 4), (2, 3), (3, 2), (4, 1), (5, 0))
    assert evicted("ollama", roomy, workload) == [3, 2, 1]  # each time the alphabetically first of three
    assert evicted("ray-serve", roomy, workload) == [5, 4, 3]
    assert evicted("llama-cpp", roomy, workload) == [5, 4]
    assert evicted("llama-swap-one", roomy, workload) == [5, 4, 3, 2, 1]
    assert evicted("lru", roomy, workload) == []


@pytest.mark.nojit
@pytest.mark.parametrize(("name", "keep_alive_s"), [("ollama", 300), ("ttl", 600), ("localai", 900)])
def test_an_idle_model_leaves_when_its_keep_alive_runs_out(name: str, keep_alive_s: int) -> None:
    episode = run(name, equal_fleet(), ask((0, 0), (1000, 1)))
    finish_us = int(episode.finish_us[0])
    assert [row[:3] for row in episode.trace if row.kind == "UNLOAD_START"] == [
        (finish_us + keep_alive_s * SECOND, "UNLOAD_START", 0)
    ]
    assert episode.keep_alive_evictions == 1


@pytest.mark.nojit
def test_ttl_evicts_the_next_to_expire_where_memory_is_short() -> None:
    assert evicted("ttl", equal_fleet(), ask(*HISTORY, (4.0, LAST))) == [1]


@pytest.mark.nojit
def test_llama_swap_evicts_the_cheapest_by_hand_set_cost() -> None:
    sizes = equal_fleet(need=(9, 12, 6, 9), memory=(30,))
    assert evicted("llama-swap", sizes, ask(*HISTORY, (4.0, LAST))) == [2]  # by default the smallest
    costs = {"model-0": 5.0, "model-1": 4.0, "model-2": 7.0, "model-3": 1.0}
    own = dataclasses.replace(policy("llama-swap"), values=costs)
    assert evicted(own, sizes, ask(*HISTORY, (4.0, LAST))) == [1]


@pytest.mark.nojit
def test_localai_evicts_the_largest_and_among_equals_the_oldest() -> None:
    assert evicted("localai", equal_fleet(need=(12, 6, 12, 6), memory=(30,)), ask(*HISTORY, (4.0, LAST))) == [2]
    assert evicted("localai", equal_fleet(need=(6, 6, 14, 6), memory=(30,)), ask(*HISTORY, (4.0, LAST))) == [2]


@pytest.mark.nojit
def test_modelmesh_spares_a_young_model_while_there_is_an_older_one() -> None:
    # At 750 s model 2 is the least recently used, but was loaded 550 s ago; 1 is next, and 650 s old.
    workload = ask((0, 0), (100, 1), (200, 2), (590, 1), (600, 0), (750, LAST))
    assert evicted("modelmesh", equal_fleet(), workload) == [1]
    assert evicted("lru", equal_fleet(), workload) == [2]
    # Where all are young, it is LRU.
    assert evicted("modelmesh", equal_fleet(), ask(*HISTORY, (4.0, LAST))) == [1]


@pytest.mark.nojit
def test_serverlessllm_unloads_at_once_and_drains_what_was_loaded_first() -> None:
    episode = run("serverlessllm", equal_fleet(), ask((0, 0), (1, 1)))
    gone = [row.time_us for row in episode.trace if row.kind == "UNLOAD_START"]
    assert gone == episode.finish_us[:1].tolist()  # the second finish ends the episode
    # All busy: 0 was loaded first, though its last request came last.
    busy = [{"arrival_us": t * SECOND, "model": m, "output_tokens": 300} for t, m in ((0, 0), (1, 1), (2, 2), (3, 0))]
    slow = equal_fleet(round_ns=10_000_000, drain_after_us=0)
    trace = run("serverlessllm", slow, ask(*busy, (4, LAST))).trace
    assert [row.subject for row in trace if row.kind == "VICTIM"] == [0]


@pytest.mark.nojit
def test_omlx_evicts_the_coldest_that_alone_makes_room_else_the_largest() -> None:
    resident = (0, 0, 0, NONE)

    def order(need_last: int) -> list[int]:
        # Coldest first: 0 (4 bytes), 1 (20), 2 (10); nothing is free.
        tables = fleet(need=(4, 20, 10, need_last), memory=(34,), resident_on=resident)
        return evicted("omlx", tables, ask((0, 0), (1, 1), (2, 2), (3, LAST)))

    assert order(4) == [0]
    assert order(8) == [1]  # 0 is colder but too small
    assert order(25) == [1, 2]  # none alone: the largest; then 5 are missing, and 0 is too small for them again


# ---------------------------------------------------------------------------------------------------------------------
# Caching and forecast


@pytest.mark.nojit
def test_lfu_evicts_the_least_used_and_an_eviction_forgets() -> None:
    two = equal_fleet(memory=(20,))
    # Four uses of 0 against one of 1.
    workload = ask((0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 2))
    assert evicted("lfu", two, workload) == [1]
    # Uses 1: 2, 0: 3: 1 leaves for 2. It comes back for 2 (2 uses), with one use again: 1 leaves once more, then 2.
    again = ask((0, 1), (1, 1), (2, 0), (3, 0), (4, 0), (5, 2), (6, 2), (7, 1), (8, 2), (9, 2), (10, 3))
    assert evicted("lfu", two, again) == [1, 2, 1, 2]


@pytest.mark.nojit
def test_lru_2_evicts_by_the_last_use_but_one() -> None:
    # Last uses 0: 3.0, 1: 5.0, 2: 4.0; those before 0: 0.0, 1: 1.0, 2: 0.5.
    workload = ask((0, 0), (0.5, 2), (1, 1), (3, 0), (4, 2), (5, 1), (6, LAST))
    assert evicted("lru-2", equal_fleet(), workload) == [0]
    # Who has been used once only goes first.
    assert evicted("lru-2", equal_fleet(), ask((0, 0), (1, 1), (2, 0), (3, 1), (4, 2), (5, LAST))) == [2]


@pytest.mark.nojit
def test_gdsf_ages_what_was_popular_once() -> None:
    # One second per load, 1 GB each: priorities 0: 3 uses -> 3; 1 -> 1. Then 2 takes 1's place (clock 1, priority 2),
    # 3 takes 2's (clock 2, priority 3), and 1 meets 0 and 3 at 3: the least recently used, 0, leaves. LFU keeps 0.
    tables = fleet(need=(10**9,) * 4, memory=(2 * 10**9,), load_us=SECOND)
    workload = ask((0, 0), (10, 0), (20, 0), (30, 1), (40, 2), (50, 3), (60, 1))
    assert evicted("gdsf", tables, workload) == [1, 2, 0]
    assert evicted("lfu", tables, workload) == [1, 2, 3]


@pytest.mark.nojit
def test_gdsf_prefers_what_is_costly_to_load_and_small() -> None:
    load_us = np.full((1, 4, 2), SECOND)
    load_us[0, 1] *= 3  # per GB 1 : 3 : 2, and 0 is used last
    tables = fleet(need=(2 * 10**9, 2 * 10**9, 10**9, 2 * 10**9), memory=(5 * 10**9,), load_us=load_us)
    assert evicted("gdsf", tables, ask((0, 2), (10, 1), (20, 0), (30, LAST))) == [0]


@pytest.mark.nojit
def test_hyperbolic_divides_uses_by_age() -> None:
    # 0: three uses in 100 s; 1 and 2: one use in 10 and 9 s. LFU would take 1.
    workload = ask((0, 0), (1, 0), (2, 0), (90, 1), (91, 2), (100, LAST))
    assert evicted("hyperbolic", equal_fleet(), workload) == [0]
    assert evicted("lfu", equal_fleet(), workload) == [1]


@pytest.mark.nojit
def test_ewma_evicts_the_lowest_demand_and_old_demand_fades() -> None:
    # Three old requests for 0 count 3 * 2^-6 an hour later, less than one of a minute ago.
    workload = ask((0, 0), (1, 0), (2, 0), (3540, 1), (3541, 2), (3541.5, 2), (3600, LAST))
    assert evicted("ewma", equal_fleet(), workload) == [0]
    assert evicted("ewma", equal_fleet(), ask((0, 0), (1, 1), (2, 1), (3, 0), (4, 2), (5, LAST))) == [2]


@pytest.mark.nojit
def test_rate_load_size_weighs_demand_by_reload_time_per_size() -> None:
    workload = ask((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, LAST))
    load_us = np.full((1, 4, 2), 100 * MS)
    load_us[0, 2] *= 3  # one request for 2 outweighs two for 0 and 1; of those, the ones for 0 are older
    assert evicted("rate-load-size", equal_fleet(load_us=load_us), workload) == [0]
    assert evicted("rate-load-size", equal_fleet(need=(10, 15, 5, 10)), workload) == [1]


# ---------------------------------------------------------------------------------------------------------------------
# CACE


def only(term: str) -> Policy:
    """CACE with one term."""
    weights = CaceWeights(**(dict.fromkeys(TERMS, 0.0) | {term: 1.0}))
    return Policy(f"only {term}", "one term", kind=rules.TERMS, weights=weights.row())


def cace_tables(**changes: Any) -> FleetTables:
    """Model 0 loads in 1, 1 in 2, 2 in 3 seconds; completion hurts most."""
    load_us = np.array([SECOND, 2 * SECOND, 3 * SECOND, SECOND])[None, :, None]
    cost = CostTable(
        w_ttft=np.array([1.0, 0.3, 0.0, 0.0]),
        w_e2e=np.array([0.0, 0.1, 0.1, 0.2]),
        slo_us=np.full(4, SECOND),
        slo_on_e2e=np.zeros(4, dtype=bool),
    )
    return equal_fleet(load_us=np.broadcast_to(load_us, (1, 4, 2)), cost=cost, **changes)


def cace_workload() -> Workload:
    """Outputs 0: 1, 1: 9, 2: 5; tasks chat, reasoning, completion; uses 2, 1, 1; last used 1, 2, 0."""
    rows: list[dict[str, int]] = [
        {"arrival_us": 10 * SECOND, "model": 0, "task": 1, "output_tokens": 1},
        {"arrival_us": 20 * SECOND, "model": 1, "task": 2, "output_tokens": 9},
        {"arrival_us": 30 * SECOND, "model": 2, "task": 0, "output_tokens": 5},
        {"arrival_us": 40 * SECOND, "model": 0, "task": 1, "output_tokens": 1},
        {"arrival_us": 50 * SECOND, "model": LAST, "task": 0, "output_tokens": 1},
    ]
    return requests(*rows)


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("term", "victim"),
    [
        ("load_time", 0),  # 1 s against 2 and 3
        ("latency_sensitivity", 1),  # reasoning 0.1, chat 0.4, completion 1.0
        ("output_length", 1),  # 9 tokens against 1 and 5
        ("recency", 1),  # used at 20 s, the others at 30 and 40 s
        ("future_demand", 1),  # one request like 2, and the less recent of the two
    ],
)
def test_each_term_alone_evicts_the_model_that_it_values_least(term: str, victim: int) -> None:
    assert evicted(only(term), cace_tables(), cace_workload()) == [victim]


@pytest.mark.nojit
def test_cace_adds_its_terms_scaled_over_the_candidates() -> None:
    # Terms of 0, 1, 2 at 50 s: load 0, 1/2, 1; latency (0.4 - 0.1) / 0.9 = 1/3, 0, 1; output 1, 0, 1/2;
    # demand 1, 0, 0; recency: last finishes at about 40, 22, 33 s: 1, 0, about 0.6.
    # Equal weights: 3.3, 0.5, 3.1: 1 leaves. Load time alone counting tenfold: 3.3, 5, 13.1: 0 leaves.
    assert evicted("cace", cace_tables(), cace_workload()) == [1]
    weights = CaceWeights(load_time=10, latency_sensitivity=1, output_length=1, recency=1, future_demand=1)
    heavy = dataclasses.replace(policy("cace"), weights=weights.row())
    assert evicted(heavy, cace_tables(), cace_workload()) == [0]


@pytest.mark.nojit
def test_the_demand_term_counts_the_last_five_minutes() -> None:
    workload = ask((0, 0), (1, 0), (2, 0), (250, 1), (251, 1), (260, 2), (290, 0), (299, LAST), (600, 2))
    assert evicted(only("future_demand"), equal_fleet(), workload)[0] == 2
    # 10 s later the three requests at the beginning have left the window: 0 has 1 like 2, and 2 is less recent.
    later = ask((0, 0), (1, 0), (2, 0), (250, 1), (251, 1), (280, 0), (290, 2), (309, LAST), (600, 2))
    assert evicted(only("future_demand"), equal_fleet(), later)[0] == 0


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("name", "term"), list(zip((name for name in POLICIES if name.startswith("cace-no-")), TERMS, strict=True))
)
def test_leaving_one_out_sets_its_weight_to_zero_and_nothing_else(name: str, term: str) -> None:
    full, without = POLICIES["cace"], POLICIES[name]
    index = TERMS[term]
    assert full.weights[index] != 0 and without.weights[index] == 0
    assert [w for i, w in enumerate(full.weights) if i != index] == [
        w for i, w in enumerate(without.weights) if i != index
    ]
    same = {field.name for field in dataclasses.fields(Policy)} - {
        "name",
        "description",
        "source",
        "differs",
        "weights",
    }
    assert all(getattr(full, field) == getattr(without, field) for field in same)
    assert term in without.description


@pytest.mark.nojit
def test_shipped_weights_are_equal_and_every_term_has_one() -> None:
    assert set(POLICIES["cace"].weights) == {1.0} and len(POLICIES["cace"].weights) == rules.NUM_TERMS == len(TERMS)


@pytest.mark.nojit
def test_a_file_of_weights_is_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    terms = "".join(f"  {term}: {i}.0\n" for i, term in enumerate(TERMS))
    file.write_text(f"description: mine\nweights:\n{terms}")
    own = policy(f"cace:{file}")
    assert own.weights == (0.0, 1.0, 2.0, 3.0, 4.0) and own.name == f"cace:{file}"
    assert policy("cace:cace").weights == POLICIES["cace"].weights
    file.write_text(f"weights:\n{terms}  size: 1.0\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: weights.size: unknown key"):
        policy(f"cace:{file}")
    file.write_text("weights: {load_time: 1.0}\n")
    with pytest.raises(ConfigError, match=r"weights\.recency: Field required"):
        policy(f"cace:{file}")
    file.write_text("weights: {" + ", ".join(f"{term}: 0" for term in TERMS) + "}\n")
    with pytest.raises(ConfigError, match="all weights are 0"):
        policy(f"cace:{file}")
    with pytest.raises(ConfigError, match="shipped are cace"):
        policy("cace:unknown")


# ---------------------------------------------------------------------------------------------------------------------
# Clairvoyant


@pytest.mark.nojit
def test_belady_evicts_the_model_whose_next_use_is_furthest_away() -> None:
    workload = ask((0, 0), (1, 1), (2, 2), (3, LAST), (10, 2), (20, 1), (30, 0))
    assert evicted("belady", equal_fleet(), workload)[0] == 0
    never = ask((0, 0), (1, 1), (2, 2), (3, LAST), (10, 2), (30, 0))
    assert evicted("belady", equal_fleet(), never)[0] == 1


@pytest.mark.nojit
def test_belady_size_and_cost_weigh_the_time_to_the_next_use() -> None:
    # At 3.0 s: next uses in 7, 17, 27 s.
    workload = ask((0, 0), (1, 1), (2, 2), (3, LAST), (10, 0), (20, 1), (30, 2))
    sizes = equal_fleet(need=(20, 10, 5, 10), memory=(35,))  # 7 * 20 = 140, 17 * 10 = 170, 27 * 5 = 135
    assert evicted("belady-size", sizes, workload)[0] == 1
    assert evicted("belady", sizes, workload)[0] == 2
    load_us = np.array([SECOND, 2 * SECOND, 8 * SECOND, SECOND])[None, :, None] // 10
    costs = equal_fleet(load_us=np.broadcast_to(load_us, (1, 4, 2)))  # 1 / 7 = 0.14, 2 / 17 = 0.12, 8 / 27 = 0.30
    assert evicted("belady-cost", costs, workload)[0] == 1


@pytest.mark.nojit
def test_the_future_is_that_of_the_run_without_swapping() -> None:
    # Request 1 follows request 0, which without swapping waits for its load only: 100 ms, then 2 rounds of prefill.
    rows: list[dict[str, int]] = [
        {"arrival_us": 0, "model": 0, "context_tokens": 100},
        {"after": 0, "think_us": 5 * SECOND, "model": 1},
        {"arrival_us": SECOND, "model": 1, "context_tokens": 1000},  # refused: longer than its KV cache
        {"arrival_us": 2 * SECOND, "model": 1},
    ]
    tables, workload = equal_fleet(), requests(*rows)
    future = Future.of(tables, workload)
    first_us = int(run("lru", tables, requests(rows[0])).finish_us[0])
    assert future.nominal_us.tolist() == [0, first_us + 5 * SECOND, SECOND, 2 * SECOND]
    assert future.order.tolist() == [0, 3, 1]  # model 0; model 1 by nominal arrival, without the refused one
    assert future.start.tolist() == [0, 1, 3, 3, 3]
    arrived = np.array([True, False, True, False])
    assert future.next_use_us(arrived, SECOND).tolist()[1] == 2 * SECOND
    assert future.next_use_us(arrived, 60 * SECOND).tolist()[1] == 60 * SECOND  # at least now
    assert future.next_use_us(np.ones(4, dtype=bool), 0).tolist() == [1 << 60] * 4


@pytest.mark.nojit
@pytest.mark.parametrize("name", [name for name, row in POLICIES.items() if row.clairvoyant])
def test_a_clairvoyant_policy_without_its_future_is_refused(name: str) -> None:
    tables, workload = equal_fleet(), ask(*HISTORY)
    with pytest.raises(ConfigError, match=r"knows the future; pass future=Future.of\(tables, workload\)"):
        rule_of(policy(name), tables, workload=workload)
    with pytest.raises(ConfigError, match="the future has 4 requests, the workload 1"):
        rule_of(policy(name), tables, workload=ask((0, 0)), future=Future.of(tables, workload))


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_an_unknown_policy_is_answered_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"no policy called 'olama', did you mean 'ollama'.*known are random, fifo"):
        policy("olama")
    assert policy(POLICIES["lru"]) is POLICIES["lru"]


def test_a_count_limit_that_pinned_models_use_up_is_refused() -> None:
    pinned = fleet(need=(10, 10, 10, 10), memory=(100, 15), pinned_on=[0, 0, 0, NONE])
    assert run("ollama", pinned, ask((0, LAST))).loads == 1  # it goes to the other accelerator
    crowded = fleet(need=(10, 10, 10, 20), memory=(100, 15), pinned_on=[0, 0, 0, NONE])
    with pytest.raises(ConfigError, match=r"'ollama' allows 3 models.*'model-3' fits, 3 or more are pinned; allow 4"):
        rule_of(policy("ollama"), crowded)
    allowed = dataclasses.replace(policy("ollama"), max_resident=4)
    assert run(allowed, crowded, ask((0, LAST))).loads == 1


def test_numbers_for_unknown_or_missing_models_are_refused() -> None:
    tables = equal_fleet()
    with pytest.raises(ConfigError, match="values has none for 'model-1'"):
        rule_of(dataclasses.replace(policy("llama-swap"), values={"model-0": 1.0}), tables)
    with pytest.raises(
        ConfigError, match="values names 'modle-0', which is no model of the fleet, did you mean 'model-0'"
    ):
        rule_of(dataclasses.replace(policy("llama-swap"), values={"modle-0": 1.0}), tables)
    with pytest.raises(ConfigError, match="keep_alive_s of 'model-0' is -1"):
        rule_of(dataclasses.replace(policy("ttl"), keep_alive_s=-1.0), tables)
    with pytest.raises(ConfigError, match=r"pass training=scenario\.workload; a log has none"):
        rule_of(policy("static-best"), tables)
    with pytest.raises(ConfigError, match="no slot feature called 'since_usage_s', did you mean 'since_use_s'"):
        weigh(since_usage_s=1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Against a readable twin

Score = Callable[[Any], np.ndarray]  # of a look at the question, see `Look`


@dataclasses.dataclass
class Look:
    """What a twin may look at: the raw features, who is in which slot, and the rest of the world."""

    x: np.ndarray  # (S, NUM_SLOT_FEATURES)
    models: np.ndarray  # (S,)
    legal: np.ndarray  # (S,)
    decision: int
    now_us: int
    next_use_us: np.ndarray  # (M,)
    rule: Any

    def scaled(self, feature: int) -> np.ndarray:
        """Min-max over the candidates."""
        column = self.x[:, feature]
        low, high = column[self.legal].min(), column[self.legal].max()
        return (column - low) / (high - low) if high > low else np.full(len(column), np.nan)

    @property
    def ahead_s(self) -> np.ndarray:
        return (self.next_use_us[self.models] - self.now_us) * 1e-6


def cace(look: Look) -> np.ndarray:
    terms = {
        "load_time": look.scaled(SLOT.reload_s),
        "latency_sensitivity": look.scaled(SLOT.latency_weight),
        "output_length": 1.0 - look.scaled(SLOT.expected_output_tokens),
        "recency": 1.0 - look.scaled(SLOT.since_use_s),
        "future_demand": look.scaled(SLOT.window_requests),
    }
    total = np.zeros(len(look.x))
    for name, term in terms.items():
        if look.rule.weights[TERMS[name]] != 0 and not np.isnan(term[look.legal]).any():
            total += look.rule.weights[TERMS[name]] * term
    return total


def lru(look: Look) -> np.ndarray:
    return -look.x[:, SLOT.since_use_s]


def of_model(look: Look) -> np.ndarray:
    return look.rule.values[look.models]


def omlx(look: Look) -> np.ndarray:
    alone = look.x[:, SLOT.freed_gb] >= look.x[:, SLOT.missing_gb]
    return np.where(alone, -1e9 - look.x[:, SLOT.since_use_s], -look.x[:, SLOT.freed_gb])


TWINS: dict[str, Score] = {
    "random": lambda look: np.resize(np.roll(look.rule.values, -look.decision * len(look.x) % DRAWS), len(look.x)),
    "fifo": lambda look: -look.x[:, SLOT.since_load_s],
    "static-best": of_model,
    "lru": lru,
    "ollama": of_model,
    "ttl": lru,
    "llama-cpp": lru,
    "llama-swap": of_model,
    "llama-swap-one": lru,
    "localai": lambda look: -look.x[:, SLOT.freed_gb],
    "modelmesh": lambda look: lru(look) + np.where(look.x[:, SLOT.since_load_s] < look.rule.weights[0], 1e9, 0.0),
    "ray-serve": lru,
    "serverlessllm": lambda look: -look.x[:, SLOT.since_load_s],
    "omlx": omlx,
    "lfu": lambda look: look.x[:, SLOT.uses_since_load],
    "lru-2": lambda look: -look.x[:, SLOT.since_second_use_s],
    "gdsf": lambda look: look.x[:, SLOT.greedy_dual],
    "hyperbolic": lambda look: look.x[:, SLOT.uses_since_load] / np.maximum(look.x[:, SLOT.since_load_s], 1e-6),
    "rate-load-size": lambda look: look.x[:, SLOT.rate_10m] * look.x[:, SLOT.reload_s] / look.x[:, SLOT.freed_gb],
    "ewma": lambda look: look.x[:, SLOT.rate_10m],
    **{name: cace for name, row in POLICIES.items() if row.kind == rules.TERMS},
    "belady": lambda look: -look.ahead_s,
    "belady-size": lambda look: -look.ahead_s * look.x[:, SLOT.freed_gb],
    "belady-cost": lambda look: look.x[:, SLOT.reload_s] / (np.maximum(look.ahead_s, 1e-6) * look.x[:, SLOT.freed_gb]),
}


def run_twin(name: str, tables: FleetTables, workload: Workload, rule: Any, limits: Any, future: Future) -> Episode:
    """The episode with the twin's answers, question by question."""
    simulator = Simulator(tables, limits, trace=True)
    asked = simulator.reset(workload)
    while asked:
        question = simulator.question
        arrived = simulator.state.requests[:, REQUEST.arrival_us] <= simulator.state.scalars[CLOCK]
        next_use_us = future.next_use_us(arrived, question.now_us)
        x = question.features()
        look = Look(x, question.slot_models, question.legal, question.decision, question.now_us, next_use_us, rule)
        with np.errstate(all="ignore"):  # empty slots
            scores = TWINS[name](look)
        candidates = np.flatnonzero(question.legal)
        best = min(candidates, key=lambda slot: (scores[slot], -x[slot, SLOT.since_use_s], slot))
        asked = simulator.answer(int(best))
    return simulator.episode()


def assert_same_episode(first: Episode, second: Episode) -> None:
    for field in dataclasses.fields(Episode):
        mine, theirs = getattr(first, field.name), getattr(second, field.name)
        assert np.array_equal(mine, theirs), field.name


def test_every_policy_has_a_twin() -> None:
    assert set(TWINS) == set(POLICIES)


@given(case=cases(), seed=st.integers(0, 5))
@settings(max_examples=80)
def test_compiled_rules_choose_the_victims_of_their_readable_twins(
    case: tuple[FleetTables, Workload, Rules], seed: int
) -> None:
    tables, workload, _ = case
    assume(not tables.unlimited_memory)
    future = Future.of(tables, workload)
    scale_s = typical_us(tables) * 1e-6  # keep-alives and the churn guard on the time scale of the case
    for name, chosen in POLICIES.items():
        if chosen.keep_alive_s:
            chosen = dataclasses.replace(chosen, keep_alive_s=5 * scale_s)
        if chosen.kind == rules.CHURN_GUARD:
            chosen = dataclasses.replace(chosen, weights=(5 * scale_s,))
        try:
            limits = chosen.limits(tables)
        except ConfigError:  # more models are pinned than it allows
            continue
        rule = rule_of(chosen, tables, seed=seed, workload=workload, future=future, training=lambda seed: workload)
        actual = run_rule(tables, workload, rule, trace=True)
        assert_same_episode(actual, run_twin(name, tables, workload, rule, limits, future))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_python_policy_with_the_score_of_lru_gives_the_episode_of_lru(seed: int) -> None:
    scenario = load_scenario("default")
    case = Case("default", scenario.tables(), scenario.workload)
    workload = scenario.workload(seed)

    def mine(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return -features[:, SLOT.since_use_s]

    built_in, _ = run_episode(contestant_of("lru"), case, workload, seed)
    own, _ = run_episode(contestant_of(mine), case, workload, seed)
    assert built_in.decisions > 100
    assert_same_episode(built_in, own)


def test_every_policy_runs_the_default_scenario_and_serves_everybody() -> None:
    scenario = load_scenario("default")
    tables, workload = scenario.tables(), scenario.workload(0)
    future = Future.of(tables, workload)
    for name in POLICIES:
        rule = rule_of(policy(name), tables, workload=workload, future=future, training=scenario.workload)
        episode = run_rule(tables, workload, rule)
        assert ((episode.finish_us >= 0) | episode.refused).all(), name


# ---------------------------------------------------------------------------------------------------------------------
# Documentation


def test_the_page_on_policies_is_current() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert policies_table().strip() in text, (
        "docs/policies.md is out of date; paste what `python -c 'from cace_env.policies import policies_table; "
        "print(policies_table())'` prints"
    )
    for term in TERMS:
        assert f"| `{term}` |" in text


def test_every_policy_says_what_it_does_and_every_deployed_one_what_differs() -> None:
    for row in POLICIES.values():
        assert row.description and row.group in GROUPS
        if row.group in ("Deployed", "Proposed") and row.name != "lru":
            assert row.source and row.differs, row.name
        assert "|" not in row.description + row.source + row.differs  # they stand in a table
