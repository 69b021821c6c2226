"""Hand-worked claims about the rules, held against the reference simulator; then random cases against the invariants.

Unless a test says otherwise: rounds of 1 ms, a prompt token costs 10 us of work, 100 of them go into a round, decoding
adds nothing; a load takes 100 ms from disk and 10 ms from the host, an unload no time; there is no host cache.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings

from cace_env.tables import FOREVER, NONE, TASKS, CostTable, FleetTables, slots_per_accelerator
from cace_env.workload import Workload
from tests import reference, strategies
from tests.invariants import alone_us, assert_same_run, check_run
from tests.reference import Question, ReferenceRun, simulate

MS = 1000  # [us]
MODEL_EVENTS = ("VICTIM", "UNLOAD_START", "UNLOAD_DONE", "LOAD_START", "LOAD_DONE")


def fleet(need: tuple[int, ...] = (6, 6), memory: tuple[int, ...] = (10,), **changes: Any) -> FleetTables:
    """A fleet with round numbers; `changes` may be scalars, which then hold for all."""
    num_a, num_m = len(memory), len(need)
    shapes = {
        "weights_bytes": (num_m,),
        "residual_bytes": (num_m,),
        "kv_tokens": (num_m,),
        "max_num_seqs": (num_m,),
        "chunk_tokens": (num_m,),
        "load_us": (num_a, num_m, 2),
        "unload_us": (num_a, num_m),
        "round_ns": (num_a, num_m),
        "decode_ns": (num_a, num_m),
        "kv_ps": (num_a, num_m),
        "prefill_ns": (num_a, num_m),
        "attention_ps": (num_a, num_m),
        "pinned_on": (num_m,),
        "resident_on": (num_m,),
        "asleep_on": (num_m,),
    }
    values: dict[str, Any] = {
        "weights_bytes": need,
        "residual_bytes": 0,
        "kv_tokens": 1000,
        "max_num_seqs": 4,
        "chunk_tokens": 100,
        "load_us": (10 * MS, 100 * MS),
        "unload_us": 0,
        "round_ns": 1_000_000,
        "decode_ns": 0,
        "kv_ps": 0,
        "prefill_ns": 10_000,
        "attention_ps": 0,
        "pinned_on": NONE,
        "resident_on": NONE,
        "asleep_on": NONE,
    }
    values |= {name: changes.pop(name) for name in list(changes) if name in shapes}
    columns: dict[str, Any] = {
        name: np.array(np.broadcast_to(value, shapes[name]), dtype=np.int64) for name, value in values.items()
    }
    tables = FleetTables(
        accelerator_names=tuple(f"gpu-{a}" for a in range(num_a)),
        model_names=tuple(f"model-{m}" for m in range(num_m)),
        memory_bytes=np.array(memory, dtype=np.int64),
        need_bytes=np.array(need, dtype=np.int64),
        host_cached=np.array(changes.pop("host_cached", [False] * num_m)),
        cost=changes.pop("cost", slo(FOREVER)),
        **columns,
    ).replace(**changes)
    tables.validate()
    return tables


def slo(limit_us: int, on_e2e: bool = False) -> CostTable:
    count = len(TASKS)
    return CostTable(np.ones(count), np.ones(count), np.full(count, limit_us), np.full(count, on_e2e))


def requests(*rows: dict[str, int]) -> Workload:
    """Rows of 100 prompt tokens and one output token for model 0 at time 0, unless they say otherwise."""
    default = {"arrival_us": 0, "after": NONE, "think_us": 0, "model": 0, "context_tokens": 100, "output_tokens": 1}
    full = [{"new_tokens": row.get("context_tokens", 100), "session": r} | default | row for r, row in enumerate(rows)]
    return Workload.from_columns(**{name: [row[name] for row in full] for name in full[0]})


def lowest(question: Question) -> int:
    return question.legal.index(True)


def least_recent(question: Question) -> int:
    slots = [slot for slot, legal in enumerate(question.legal) if legal]
    return min(slots, key=lambda slot: question.last_use_us[question.slot_models[slot]])


def swaps(run: ReferenceRun) -> list[tuple[int, str, int]]:
    """The rows of the trace that are about models: (time_us, kind, model)."""
    return [(time_us, kind, model) for time_us, kind, model, _ in run.trace if kind in MODEL_EVENTS]


def checked(tables: FleetTables, workload: Workload, policy: reference.Policy = lowest, **rules: Any) -> ReferenceRun:
    """A run whose invariants hold."""
    run = simulate(tables, workload, policy, **rules)
    check_run(tables, workload, run, max_resident=rules.get("max_resident"))
    return run


# ---- serving ----


def test_one_request_waits_for_load_prefill_and_decoding() -> None:
    # 150 tokens are 2 chunks with 1.5 ms of work: 2 rounds of 1 + 0.75 ms. Then 4 rounds of 1 + 0.25 ms.
    run = checked(fleet(decode_ns=250_000), requests({"context_tokens": 150, "output_tokens": 5}))
    assert run.trace == [
        (0, "ARRIVAL", 0, NONE),
        (0, "LOAD_START", 0, 0),
        (100_000, "LOAD_DONE", 0, 0),
        (100_000, "ADMITTED", 0, 0),
        (103_500, "FIRST_TOKEN", 0, 0),
        (108_500, "FINISH", 0, 0),
    ]
    assert (run.loads, run.load_us_total, run.evictions, run.decisions, run.end_us) == (1, 100_000, 0, 0, 108_500)
    assert run.waiting_us[0] == 103_500 and run.system_us[0] == 108_500


def test_attention_and_kv_cache_lengthen_rounds_and_ends_are_rounded_up() -> None:
    # Prefill: 1 ms + 100 * 10 us + 2 ns * 100^2 / 2 = 2.010 ms. Decoding: 1 ms + 2 ns * (100 + 4 / 2) = 1.000204 ms a
    # round, three of them 3000.612 us.
    tables = fleet(resident_on=(0, NONE), attention_ps=2000, kv_ps=2000)
    run = checked(tables, requests({"output_tokens": 4}))
    assert run.first_token_us == [2010]
    assert run.finish_us == [2010 + 3001]


def test_no_round_is_shorter_than_a_microsecond() -> None:
    run = checked(fleet(resident_on=(0, NONE), round_ns=1, prefill_ns=0), requests({"output_tokens": 11}))
    assert (run.first_token_us, run.finish_us) == ([1], [11])


def test_a_round_that_grows_does_not_turn_time_back() -> None:
    # Rounds of 1 us, 1.5 us while request 1 decodes: V(1) = 1, V(4) = 3, V(6) = 4 1/3. Requests 0 and 1 both end at
    # V = 4, so in the microsecond that ends at 6. The end of 0 comes first and gives its seat to request 2, with 809595
    # ns of prefill work: counted back from V(6), the end of 1 would now lie 270 us in the past. It is due now.
    tables = fleet(
        resident_on=(0, NONE),
        round_ns=1000,
        decode_ns=500,
        prefill_ns=0,
        attention_ps=1999,
        chunk_tokens=1000,
        max_num_seqs=2,
    )
    late, early = {"arrival_us": 4, "context_tokens": 1}, {"context_tokens": 1, "output_tokens": 4}
    run = checked(tables, requests(late, early, late | {"context_tokens": 900}))
    assert run.finish_us == [6, 6, 6 + 811]


def test_two_busy_models_share_an_accelerator_by_time_slices() -> None:
    # Without prefill work. Model 0 alone: first token at 1 ms, then ten rounds. From 5 to 7 ms model 1 takes every
    # other slice for the one round of its request: model 0 gets one round done in these 2 ms and ends 1 ms late.
    tables = fleet(memory=(12,), resident_on=0, prefill_ns=0)
    run = checked(tables, requests({"output_tokens": 11}, {"model": 1, "arrival_us": 5 * MS}))
    assert run.first_token_us == [1 * MS, 7 * MS]
    assert run.finish_us == [12 * MS, 7 * MS]


def test_models_on_different_accelerators_do_not_slow_each_other() -> None:
    tables = fleet(memory=(6, 6), resident_on=(0, 1), prefill_ns=0)
    run = checked(tables, requests({"output_tokens": 11}, {"model": 1, "arrival_us": 5 * MS}))
    assert run.finish_us == [11 * MS, 6 * MS]


def test_a_chunked_prefill_slows_the_decoding_of_others() -> None:
    # Request 0: prefill 2 ms, then ten rounds. By 5 ms three are done. Request 1: three chunks, 3 ms of work, so
    # rounds of 2 ms until 11 ms, in which request 0 gets three more. Its last four take 1 ms each.
    tables = fleet(resident_on=(0, NONE))
    run = checked(tables, requests({"output_tokens": 11}, {"arrival_us": 5 * MS, "context_tokens": 300}))
    assert run.first_token_us == [2 * MS, 11 * MS]
    assert run.finish_us == [15 * MS, 11 * MS]


def test_prefills_of_a_model_go_one_after_the_other() -> None:
    run = checked(fleet(resident_on=(0, NONE)), requests({}, {}, {"context_tokens": 50}))
    assert run.first_token_us == [2 * MS, 4 * MS, 5500]  # the last: one round of 1 + 0.5 ms


def test_requests_wait_for_a_seat_in_order_of_arrival() -> None:
    tables = fleet(resident_on=(0, NONE), max_num_seqs=1)
    run = checked(tables, requests({"output_tokens": 11}, {}, {}))
    assert run.finish_us == [12 * MS, 14 * MS, 16 * MS]


def test_nobody_overtakes_a_request_that_waits_for_kv_room() -> None:
    # Room for 1000: the first takes 111, the second needs 901, so the third, which would fit, waits behind it.
    tables = fleet(resident_on=(0, NONE))
    run = checked(tables, requests({"output_tokens": 11}, {"context_tokens": 900}, {"context_tokens": 50}))
    admitted = [(time_us, r) for time_us, kind, r, _ in run.trace if kind == "ADMITTED"]
    assert admitted == [(0, 0), (12 * MS, 1), (12 * MS, 2)]


def test_a_follower_arrives_a_think_time_after_the_finish() -> None:
    tables = fleet(resident_on=(0, NONE))
    follower = {"after": 0, "think_us": 500, "arrival_us": 77}  # the nominal arrival is a hint for plots, no more
    run = checked(tables, requests({"output_tokens": 3}, follower, {"after": 0, "think_us": 0}))
    assert run.finish_us[0] == 4 * MS
    assert run.arrival_us == [0, 4500, 4 * MS]
    assert run.first_token_us[1:] == [8 * MS, 6 * MS]


def test_a_request_longer_than_the_kv_cache_is_refused_and_its_follower_comes() -> None:
    tables = fleet(kv_tokens=100, resident_on=(NONE, 0))
    run = checked(tables, requests({}, {"after": 0, "think_us": 500, "model": 1, "context_tokens": 99}))
    assert run.refused == [True, False]
    assert run.trace[:3] == [(0, "ARRIVAL", 0, NONE), (0, "REFUSED", 0, NONE), (500, "ARRIVAL", 1, 0)]
    assert run.loads == 0
    assert run.waiting_us[0] == run.first_token_us[1] - 500


def test_an_slo_is_missed_only_when_the_latency_exceeds_it() -> None:
    for limit_us, on_e2e, missed in (
        (2 * MS, False, 0),
        (2 * MS - 1, False, 1),
        (4 * MS, True, 0),
        (4 * MS - 1, True, 1),
    ):
        run = checked(fleet(resident_on=(0, NONE), cost=slo(limit_us, on_e2e)), requests({"output_tokens": 3}))
        assert run.slo_missed[0] == missed


# ---- prefix cache ----


def test_a_session_prefills_only_its_new_tokens() -> None:
    second = {"arrival_us": 10 * MS, "context_tokens": 200, "new_tokens": 100, "session": 0}
    run = checked(fleet(resident_on=(0, NONE)), requests({}, second, second | {"session": 1, "arrival_us": 20 * MS}))
    assert run.first_token_us[1] == 12 * MS  # 100 new tokens: one round of 2 ms
    assert run.first_token_us[2] == 24 * MS  # another session: 200 tokens, two rounds of 2 ms


def test_new_tokens_attend_to_the_cached_ones() -> None:
    # 2 ns * (200^2 - 100^2) / 2 = 30 us on top of the 2 ms.
    second = {"arrival_us": 10 * MS, "context_tokens": 200, "new_tokens": 100, "session": 0}
    run = checked(fleet(resident_on=(0, NONE), attention_ps=2000), requests({}, second))
    assert run.first_token_us[1] == 12 * MS + 30


def test_eviction_loses_the_prefix_cache() -> None:
    # Model 1 replaces model 0 at 20 ms; at 130 ms model 0 comes back, until 230 ms, and prefills all 200 tokens.
    again = {"arrival_us": 130 * MS, "context_tokens": 200, "new_tokens": 100, "session": 0}
    run = checked(fleet(resident_on=(0, NONE)), requests({}, {"arrival_us": 20 * MS, "model": 1}, again))
    assert run.first_token_us == [2 * MS, 122 * MS, 234 * MS]


# ---- swaps ----


def test_an_idle_model_is_evicted_at_once_and_without_a_question_if_it_is_the_only_one() -> None:
    run = checked(fleet(resident_on=(0, NONE), unload_us=7 * MS), requests({"model": 1, "arrival_us": 1 * MS}))
    assert swaps(run) == [
        (1 * MS, "VICTIM", 0),
        (1 * MS, "UNLOAD_START", 0),
        (8 * MS, "UNLOAD_DONE", 0),
        (8 * MS, "LOAD_START", 1),
        (108 * MS, "LOAD_DONE", 1),
    ]
    assert (run.evictions, run.decisions) == (1, 0)


def test_a_busy_model_is_left_alone_until_it_is_idle() -> None:
    run = checked(fleet(resident_on=(0, NONE)), requests({"output_tokens": 11}, {"model": 1, "arrival_us": 1 * MS}))
    assert swaps(run)[:3] == [(12 * MS, "VICTIM", 0), (12 * MS, "UNLOAD_START", 0), (12 * MS, "UNLOAD_DONE", 0)]


def test_a_busy_model_is_drained_after_drain_after() -> None:
    # Model 1 pends since 1 ms, so from 4 ms on model 0 admits no more. It finishes at 12 ms and leaves. The request
    # of 5 ms waits for model 1 to load, which then drains at once: by now model 0 has been pending for 100 ms.
    tables = fleet(resident_on=(0, NONE), drain_after_us=3 * MS)
    long, other, late = {"output_tokens": 11}, {"model": 1, "arrival_us": 1 * MS}, {"arrival_us": 5 * MS}
    run = checked(tables, requests(long, other, late))
    assert swaps(run) == [
        (4 * MS, "VICTIM", 0),
        (12 * MS, "UNLOAD_START", 0),
        (12 * MS, "UNLOAD_DONE", 0),
        (12 * MS, "LOAD_START", 1),
        (112 * MS, "LOAD_DONE", 1),
        (112 * MS, "VICTIM", 1),
        (114 * MS, "UNLOAD_START", 1),
        (114 * MS, "UNLOAD_DONE", 1),
        (114 * MS, "LOAD_START", 0),
        (214 * MS, "LOAD_DONE", 0),
    ]
    assert run.first_token_us == [2 * MS, 114 * MS, 216 * MS]


def test_a_drained_model_is_pending_since_its_unload() -> None:
    # Model 1 pends since 1 ms: at 106 ms the drain of model 0 begins. It admits no more, so when it leaves at 109 ms
    # one request has been waiting since 108 ms. Model 1 loads until 209 ms and runs until 240 ms; its drain begins
    # 105 ms after 109 ms, at 214 ms (and not 105 ms after the arrival, at 213 ms).
    tables = fleet(resident_on=(0, NONE), drain_after_us=105 * MS)
    rows = ({"output_tokens": 108}, {"model": 1, "arrival_us": 1 * MS, "output_tokens": 30}, {"arrival_us": 108 * MS})
    run = checked(tables, requests(*rows))
    assert [row for row in swaps(run) if row[2] == 0][:3] == [
        (106 * MS, "VICTIM", 0),
        (109 * MS, "UNLOAD_START", 0),
        (109 * MS, "UNLOAD_DONE", 0),
    ]
    assert [row for row in swaps(run) if row[2] == 1] == [
        (109 * MS, "LOAD_START", 1),
        (209 * MS, "LOAD_DONE", 1),
        (214 * MS, "VICTIM", 1),
        (240 * MS, "UNLOAD_START", 1),
        (240 * MS, "UNLOAD_DONE", 1),
    ]


def test_a_swap_of_many_victims_asks_for_one_after_the_other_and_the_first_chosen_leaves_first() -> None:
    tables = fleet(need=(4, 4, 4, 12), memory=(12,), resident_on=(0, 0, 0, NONE), unload_us=1 * MS)
    asked: list[Question] = []

    def policy(question: Question) -> int:
        asked.append(question)
        return 1 if question.decision == 0 else 2

    run = checked(tables, requests({"model": 3}), policy)
    assert [question.legal for question in asked] == [
        [True, True, True],
        [True, False, True],
    ]  # the last is no question
    assert [question.target for question in asked] == [3, 3]
    assert asked[1].slot_models == [0, 1, 2]  # model 1 is leaving, it holds its slot
    assert swaps(run) == [
        (0, "VICTIM", 1),
        (0, "UNLOAD_START", 1),
        (0, "VICTIM", 2),
        (0, "VICTIM", 0),
        (1 * MS, "UNLOAD_DONE", 1),
        (1 * MS, "UNLOAD_START", 2),
        (2 * MS, "UNLOAD_DONE", 2),
        (2 * MS, "UNLOAD_START", 0),
        (3 * MS, "UNLOAD_DONE", 0),
        (3 * MS, "LOAD_START", 3),
        (103 * MS, "LOAD_DONE", 3),
    ]


def test_unloads_of_no_length_are_over_before_the_next_victim_is_chosen() -> None:
    tables = fleet(need=(4, 4, 4, 12), memory=(12,), resident_on=(0, 0, 0, NONE))
    seen: list[list[int]] = []

    def policy(question: Question) -> int:
        seen.append(question.slot_models)
        return lowest(question)

    checked(tables, requests({"model": 3}), policy)
    assert seen == [[0, 1, 2], [NONE, 1, 2]]


def test_the_first_victim_fixes_the_accelerator() -> None:
    tables = fleet(need=(4, 4, 4, 4, 8), memory=(8, 8), resident_on=(0, 0, 1, 1, NONE))
    asked: list[list[bool]] = []

    def policy(question: Question) -> int:
        asked.append(question.legal)
        return 2

    run = checked(tables, requests({"model": 4}), policy)
    assert asked == [[True] * 4]  # then only model 3 is left on the second accelerator
    assert [row[2] for row in swaps(run) if row[1] == "VICTIM"] == [2, 3]


def test_a_later_victim_is_busy_only_if_the_idle_ones_do_not_suffice() -> None:
    # Models 0 and 2 are busy, model 1 is idle. For 8 of 12 bytes the idle one alone will not do: all are legal at
    # first. After model 0, model 1 suffices for model 3 and is applied unasked; model 4 needs both of the others gone.
    tables = fleet(need=(4, 4, 4, 8, 12), memory=(12,), resident_on=(0, 0, 0, NONE, NONE), drain_after_us=0)
    for target, legal, victims in (
        (3, [[True, True, True]], [0, 1]),
        (4, [[True, True, True], [False, True, True]], [0, 1, 2]),
    ):
        asked: list[list[bool]] = []

        def policy(question: Question, asked: list[list[bool]] = asked) -> int:
            asked.append(question.legal)
            return lowest(question)

        busy = {"output_tokens": 11}
        run = checked(tables, requests(busy, busy | {"model": 2}, {"model": target, "arrival_us": 1 * MS}), policy)
        assert asked == legal
        assert [row[2] for row in swaps(run) if row[1] == "VICTIM"] == victims


def test_an_illegal_pick_is_replaced_by_the_lowest_legal_slot() -> None:
    tables = fleet(need=(4, 4, 4, 4), memory=(12,), resident_on=(NONE, 0, 0, NONE), pinned_on=(0, NONE, NONE, NONE))
    run = checked(tables, requests({"model": 3}), lambda _: 0)  # slot 0 holds the pinned model
    assert [row[2] for row in swaps(run) if row[1] == "VICTIM"] == [1]
    assert run.invalid_actions == 1


def test_a_planned_model_owns_the_channel_while_its_victim_drains() -> None:
    # Model 2 would fit beside model 0, but the channel belongs to the swap of model 1 until 112 ms.
    tables = fleet(need=(6, 6, 2), memory=(10,), resident_on=(0, NONE, NONE), drain_after_us=0)
    busy, big, small = {"output_tokens": 11}, {"model": 1, "arrival_us": 1 * MS}, {"model": 2, "arrival_us": 2 * MS}
    run = checked(tables, requests(busy, big, small))
    assert [row for row in swaps(run) if row[1] == "LOAD_START"] == [
        (12 * MS, "LOAD_START", 1),
        (112 * MS, "LOAD_START", 2),
    ]


def test_the_oldest_pending_model_that_can_be_placed_goes_first() -> None:
    # Model 1 cannot be placed beside the busy model 0; model 2, which came later, can.
    tables = fleet(need=(6, 6, 2), memory=(10,), resident_on=(0, NONE, NONE))
    busy, big, small = {"output_tokens": 200}, {"model": 1, "arrival_us": 1 * MS}, {"model": 2, "arrival_us": 2 * MS}
    run = checked(tables, requests(busy, big, small))
    assert swaps(run)[0] == (2 * MS, "LOAD_START", 2)


@pytest.mark.parametrize(("placement", "accelerator"), [("spread", 1), ("pack", 0)])
def test_placement_spreads_or_packs(placement: str, accelerator: int) -> None:
    run = checked(fleet(memory=(7, 9, 9), placement=placement), requests({}))
    assert run.trace[1] == (0, "LOAD_START", 0, accelerator)


# ---- host cache and sleeping engines ----


def test_the_host_cache_drops_what_was_touched_least_recently() -> None:
    # Room for one model on the accelerator, for two in the cache. Requests for 0, 1, 2, 0, 2, far apart: after the
    # third load the cache holds 1 and 2, after the fourth 2 and 0; only the last load comes from the host.
    tables = fleet(need=(6, 6, 6), memory=(6,), host_cache_bytes=12)
    order = (0, 1, 2, 0, 2)
    run = checked(tables, requests(*({"model": m, "arrival_us": i * 1000 * MS} for i, m in enumerate(order))))
    assert (run.loads, run.load_us_total) == (5, 4 * 100 * MS + 10 * MS)


def test_loading_and_evicting_renew_a_cache_entry() -> None:
    # The cache holds 0 and 1, 0 the older one. By its load, or its eviction, 0 becomes the younger one, so that the
    # load of 2 drops 1, which then has to come from disk.
    cache = {"host_cache_bytes": 12, "host_cached": [True, True, False]}
    then = {"model": 2, "arrival_us": 1000 * MS}, {"model": 1, "arrival_us": 2000 * MS}
    loaded = checked(fleet(need=(6, 6, 6), memory=(6, 6), **cache), requests({"model": 0}, *then))
    assert loaded.load_us_total == 10 * MS + 2 * 100 * MS
    evicted = checked(fleet(need=(6, 6, 6), memory=(6,), resident_on=(0, NONE, NONE), **cache), requests(*then))
    assert evicted.load_us_total == 2 * 100 * MS


def test_a_copying_unload_fills_the_host_cache() -> None:
    rows = ({"model": 1}, {"model": 0, "arrival_us": 1000 * MS})
    tables = fleet(resident_on=(0, NONE), host_cache_bytes=12, unload_us=5 * MS)
    assert checked(tables, requests(*rows)).load_us_total == 200 * MS
    assert checked(tables.replace(unload_copies=True), requests(*rows)).load_us_total == 110 * MS


def test_the_cache_entry_of_a_planned_model_is_not_dropped_for_its_victim() -> None:
    tables = fleet(
        resident_on=(0, NONE), host_cache_bytes=6, host_cached=[False, True], unload_us=5 * MS, unload_copies=True
    )
    run = checked(tables, requests({"model": 1}))
    assert run.load_us_total == 10 * MS


def test_an_evicted_sleeper_leaves_its_residual_and_wakes_from_the_host_where_it_lies() -> None:
    # Both are in the host cache, but model 1 sleeps nowhere: its first start is cold. Model 0 then wakes in 10 ms.
    tables = fleet(resident_on=(0, NONE), residual_bytes=1, host_cache_bytes=12, host_cached=[True, True])
    run = checked(tables, requests({"model": 1}, {"model": 0, "arrival_us": 1000 * MS}))
    assert run.load_us_total == 100 * MS + 10 * MS


def test_a_residual_counts_against_free_memory() -> None:
    # 12 bytes hold two models of 6, but not beside the residual of the third: somebody has to go.
    tables = fleet(
        need=(6, 6, 6), memory=(13,), resident_on=(0, NONE, NONE), asleep_on=(NONE, NONE, 0), residual_bytes=1
    )
    assert checked(tables, requests({"model": 1})).evictions == 0
    tables = fleet(
        need=(6, 6, 6), memory=(12,), resident_on=(0, NONE, NONE), asleep_on=(NONE, NONE, 0), residual_bytes=1
    )
    assert checked(tables, requests({"model": 1})).evictions == 1
    assert checked(tables, requests({"model": 2})).evictions == 0  # its own residual is part of its need


def test_a_sleeper_that_loads_elsewhere_starts_cold_and_gives_up_its_residual() -> None:
    # Model 0 sleeps on the small accelerator and loads on the big one. That frees 1 byte for model 1 on the small one.
    tables = fleet(
        need=(6, 3),
        memory=(7, 3),
        asleep_on=(1, NONE),
        residual_bytes=(1, 0),
        host_cache_bytes=9,
        host_cached=[True, False],
    )
    run = checked(tables, requests({"model": 0}, {"model": 1}))
    assert swaps(run)[:2] == [(0, "LOAD_START", 0), (0, "LOAD_START", 1)]
    assert run.load_us_total == 200 * MS


# ---- deployed rules ----


def test_keep_alive_evicts_an_idle_model_unasked() -> None:
    tables = fleet(resident_on=(0, NONE), unload_us=1 * MS)
    run = checked(tables, requests({}, {"arrival_us": 10 * MS}), keep_alive_us=[5 * MS, None])
    assert swaps(run)[:3] == [(7 * MS, "UNLOAD_START", 0), (8 * MS, "UNLOAD_DONE", 0), (10 * MS, "LOAD_START", 0)]
    assert run.evictions == 1


def test_keep_alive_counts_from_the_last_finish() -> None:
    run = checked(fleet(resident_on=(0, NONE)), requests({}, {"arrival_us": 6 * MS}), keep_alive_us=[5 * MS, None])
    assert run.evictions == 0  # idle at 2 ms, used at 6 ms, and over at 8 ms


def test_keep_alive_waits_for_the_channel() -> None:
    # Model 0 is due at 5 ms, but until 100 ms model 1 is loading.
    tables = fleet(memory=(12,), resident_on=(0, NONE))
    run = checked(tables, requests({"model": 1}), keep_alive_us=[5 * MS, None])
    assert swaps(run)[2:] == [(100 * MS, "UNLOAD_START", 0), (100 * MS, "UNLOAD_DONE", 0)]


def test_the_run_ends_with_the_last_finish_before_any_keep_alive() -> None:
    assert checked(fleet(resident_on=(0, NONE)), requests({}), keep_alive_us=[0, None]).evictions == 0


def test_max_resident_evicts_though_there_is_memory() -> None:
    tables = fleet(memory=(100,), resident_on=(0, NONE))
    assert checked(tables, requests({"model": 1})).evictions == 0
    assert checked(tables, requests({"model": 1}), max_resident=1).evictions == 1


def test_rules_that_leave_a_model_no_place_are_noticed() -> None:
    tables = fleet(memory=(100,), pinned_on=(0, NONE))
    with pytest.raises(RuntimeError, match="requests are left"):
        simulate(tables, requests({"model": 1}), lowest, max_resident=1)


def test_one_question_too_many_truncates_and_counts_the_cost_until_then() -> None:
    tables = fleet(need=(4, 4, 4), memory=(8,), resident_on=(0, 0, NONE), max_decisions=1)
    run = checked(tables, requests({"model": 2}, {"model": 0, "arrival_us": 500 * MS}))  # 0 goes, and shall come back
    assert run.truncated and run.decisions == 1
    assert (run.end_us, run.first_token_us) == (500 * MS, [102 * MS, -1])


def test_without_swapping_nothing_is_evicted_and_each_model_goes_where_most_memory_is_left() -> None:
    tables = fleet(need=(6, 6, 6), memory=(8, 7), unlimited_memory=True)
    run = checked(tables, requests({"model": 0}, {"model": 1}, {"model": 2}))
    # 8 - 6 > 7 - 6; the second channel is idle; then 8 - 12 > 7 - 12.
    starts = [row for row in run.trace if row[1] == "LOAD_START"]
    assert starts == [(0, "LOAD_START", 0, 0), (0, "LOAD_START", 1, 1), (100 * MS, "LOAD_START", 2, 0)]


# ---- all at once ----

RANDOM = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def any_slot(question: Question) -> int:
    """Legal or not, different every time."""
    return question.decision * 7 % len(question.legal)


@RANDOM
@given(strategies.cases())
def test_every_invariant_holds_for_random_cases(case: tuple[FleetTables, Workload, strategies.Rules]) -> None:
    tables, workload, rules = case
    for policy in (any_slot, least_recent):
        run = checked(tables, workload, policy, keep_alive_us=rules.keep_alive_us, max_resident=rules.max_resident)
        event(f"evictions: {min(run.evictions, 3)}, questions: {min(run.decisions, 3)}")


def test_random_cases_exercise_the_rules() -> None:
    """A comparison on random cases is worth little where evictions, questions and drains are rare."""
    seen: Counter[str] = Counter()

    @settings(RANDOM, max_examples=250, derandomize=True, database=None)
    @given(strategies.cases())
    def count(case: tuple[FleetTables, Workload, strategies.Rules]) -> None:
        tables, workload, rules = case
        run = simulate(tables, workload, lowest, keep_alive_us=rules.keep_alive_us, max_resident=rules.max_resident)
        seen.update(["cases", *what_happened(workload, run)])

    count()
    least = {
        "eviction": 0.5,
        "question": 0.2,
        "busy drain": 0.1,
        "lone unload": 0.1,
        "many victims": 0.05,
        "refusal": 0.1,
    }
    assert {name: seen[name] / seen["cases"] for name in least if seen[name] < least[name] * seen["cases"]} == {}, seen


def what_happened(workload: Workload, run: ReferenceRun) -> set[str]:
    """The rarer things that a run has seen."""
    names = {"eviction": run.evictions > 0, "question": run.decisions > 0, "refusal": any(run.refused)}
    happened = {name for name, seen in names.items() if seen}
    draining: set[int] = set()
    victims: Counter[int] = Counter()  # of the swap under way, per accelerator
    for _, kind, subject, accelerator in run.trace:
        if kind == "VICTIM":
            draining.add(subject)
            victims[accelerator] += 1
            if victims[accelerator] > 1:
                happened.add("many victims")
        elif kind == "LOAD_START":
            victims[accelerator] = 0
        elif kind == "UNLOAD_START":
            if subject not in draining:
                happened.add("lone unload")
            draining.discard(subject)
        elif kind == "FINISH" and int(workload.model[subject]) in draining:
            happened.add("busy drain")
    return happened


@settings(RANDOM, max_examples=50)
@given(strategies.fleets())
def test_slots_are_counted_alike(tables: FleetTables) -> None:
    if not tables.unlimited_memory:
        assert reference.slots_per_accelerator(tables) == slots_per_accelerator(tables).tolist()


def test_the_least_latency_of_a_request_is_reached_where_it_is_alone() -> None:
    tables = fleet(
        memory=(12, 12), resident_on=(0, 0), decode_ns=250_000, round_ns=np.array([[2_000_000], [1_000_000]])
    )
    workload = requests({"context_tokens": 150, "output_tokens": 5})
    # The second accelerator is the faster one: 2 * 1.75 ms, then 4 * 1.25 ms. On the first: 2 * 2.75 ms, 4 * 2.25 ms.
    assert alone_us(tables, workload, 0) == (3500, 8500)
    run = checked(tables, workload)
    assert (run.first_token_us, run.finish_us) == ([5500], [14_500])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda run: run.finish_us.__setitem__(0, 12 * MS - 10), "E2E"),
        (lambda run: run.finish_us.__setitem__(1, -1), "request 1 was lost"),
        (lambda run: run.system_us.__setitem__(0, 1), "sum of E2E"),
        (lambda run: run.trace.remove((12 * MS, "UNLOAD_DONE", 0, 0)), "the channel is taken|it is unloading"),
        (lambda run: run.trace.insert(2, (0, "VICTIM", 1, 0)), "victim is absent"),
        (lambda run: run.trace.insert(2, (0, "LOAD_START", 1, 0)), "nobody waits"),
        (lambda run: run.trace.insert(5, (1, "REFUSED", 0, 0)), "clock went back"),
        (lambda run: setattr(run, "evictions", 0), "0 evictions, 1 in the trace"),
        (lambda run: setattr(run, "load_us_total", 1), "load_us_total 1"),
    ],
)
def test_a_run_that_breaks_an_invariant_is_noticed(tamper: Any, message: str) -> None:
    tables = fleet(resident_on=(0, NONE), drain_after_us=0)
    workload = requests({"output_tokens": 11}, {"model": 1, "arrival_us": 1 * MS})
    run = checked(tables, workload)
    tamper(run)
    with pytest.raises(AssertionError, match=message):
        check_run(tables, workload, run)


def test_two_runs_that_differ_are_told_apart_at_the_first_row() -> None:
    workload = requests({"output_tokens": 11}, {"model": 1, "arrival_us": 1 * MS})
    one, other = (checked(fleet(resident_on=(0, NONE), drain_after_us=wait), workload) for wait in (0, 5))
    assert_same_run(one, one)
    with pytest.raises(AssertionError, match="row 3 of the trace"):
        assert_same_run(one, other)
