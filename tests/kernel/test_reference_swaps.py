"""Hand-worked claims about swaps, caches and rules, held against the reference (`tests.specification.examples`)."""

from __future__ import annotations

import pytest

from cace_env import simulation as kernel
from cace_env.tables import NONE
from tests.specification.examples import MS, checked, fleet, lowest, requests, swaps
from tests.specification.reference import Question, simulate

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
    # 12 bytes hold two models of 6, but not beside the residual of the third: one of them has to go.
    tables = fleet(
        need=(6, 6, 6), memory=(13,), resident_on=(0, NONE, NONE), asleep_on=(NONE, NONE, 0), residual_bytes=1
    )
    assert checked(tables, requests({"model": 1})).evictions == 0
    tables = fleet(
        need=(6, 6, 6), memory=(12,), resident_on=(0, NONE, NONE), asleep_on=(NONE, NONE, 0), residual_bytes=1
    )
    assert checked(tables, requests({"model": 1})).evictions == 1
    assert checked(tables, requests({"model": 2})).evictions == 0  # its own residual is part of its need


def test_a_residual_goes_when_the_memory_of_its_model_is_taken_and_not_when_its_load_starts() -> None:
    # Model 0 sleeps on gpu-1 and is wanted on gpu-0, where model 1 (busy for long) and model 2 (enough alone) are
    # chosen in this order. When model 2 has left, model 0 takes its memory; model 3 needs gpu-1 without the residual.
    tables = fleet(
        need=(8, 4, 8, 7),
        memory=(12, 7),
        resident_on=(NONE, 0, 0, NONE),
        asleep_on=(1, NONE, NONE, NONE),
        residual_bytes=(1, 0, 0, 0),
        drain_after_us=0,
    )
    workload = requests(
        {"model": 1, "output_tokens": 100},
        {"model": 2, "output_tokens": 20},
        {"arrival_us": 1 * MS},
        {"model": 3, "arrival_us": 60 * MS},
    )
    run = checked(tables, workload)
    events = [row for row in swaps(run) if row[1] in ("VICTIM", "UNLOAD_DONE", "LOAD_START")]
    assert [row[1:] for row in events[:3]] == [("VICTIM", 1), ("VICTIM", 2), ("UNLOAD_DONE", 2)]
    assert events[2][0] < 60 * MS
    assert events[3:5] == [(60 * MS, "LOAD_START", 3), (events[4][0], "UNLOAD_DONE", 1)]
    assert events[5] == (events[4][0], "LOAD_START", 0)
    episode = kernel.simulate(tables, workload, lambda question: question.legal.tolist().index(True), trace=True)
    assert [tuple(row) for row in episode.trace] == run.trace


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
