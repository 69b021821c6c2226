"""Every built-in policy on a fleet small enough to work out by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.policies import POLICIES, Future, policy
from cace_env.policies.base import DRAWS
from cace_env.policies.built_in import GROUPS, Policy, rule_of, weigh
from cace_env.policies.cace import TERMS
from cace_env.scenarios import seeds
from cace_env.tables import NONE
from cace_env.workload import Workload
from tests.specification.examples import MS, fleet, requests
from tests.support.policy_runs import HISTORY, LAST, SECOND, ask, equal_fleet, evicted, run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "policies.md"


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
    with pytest.raises(ConfigError, match=r"needs the future; pass future=Future.of\(tables, workload\)"):
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
    with pytest.raises(ConfigError, match="values lacks 'model-1'"):
        rule_of(dataclasses.replace(policy("llama-swap"), values={"model-0": 1.0}), tables)
    with pytest.raises(
        ConfigError, match="values names 'modle-0', which is not a model of the fleet, did you mean 'model-0'"
    ):
        rule_of(dataclasses.replace(policy("llama-swap"), values={"modle-0": 1.0}), tables)
    with pytest.raises(ConfigError, match="keep_alive_s of 'model-0' is -1"):
        rule_of(dataclasses.replace(policy("ttl"), keep_alive_s=-1.0), tables)
    with pytest.raises(ConfigError, match=r"pass training=scenario\.workload; a log has no training seeds"):
        rule_of(policy("static-best"), tables)
    with pytest.raises(ConfigError, match="no slot feature called 'since_usage_s', did you mean 'since_use_s'"):
        weigh(since_usage_s=1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Documentation


def test_the_page_on_policies_explains_every_term_of_cace() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for term in TERMS:
        assert f"| `{term}` |" in text


def test_every_policy_says_what_it_does_and_every_deployed_one_what_differs() -> None:
    for row in POLICIES.values():
        assert row.description and row.group in GROUPS
        if row.group in ("Deployed", "Proposed") and row.name != "lru":
            assert row.source and row.differs, row.name
        assert "|" not in row.description + row.source + row.differs  # they stand in a table
