"""Hand-worked claims about serving, held against the reference simulator (numbers: `tests.specification.examples`)."""

from __future__ import annotations

import numpy as np

from cace_env.tables import NONE
from tests.specification.examples import MS, checked, fleet, requests, slo
from tests.specification.invariants import alone_us

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


# ---- what measurements may add ----


def test_a_round_takes_what_the_table_says_for_its_batch_and_a_straight_line_beyond() -> None:
    # Rounds of 1 ms with one decoding request, 1.5 ms with two, 1.6 ms with three; prompts take a round and no work.
    tables = fleet(resident_on=(0, NONE), prefill_ns=0, decode_ns=100_000, batch_ns=np.array([[[0, 0, 500_000]] * 2]))
    run = checked(tables, requests({"output_tokens": 4}, {"output_tokens": 11}))
    assert run.first_token_us == [1 * MS, 2 * MS]
    assert run.finish_us[0] == 5 * MS  # two rounds of 1.5 ms are left at 2 ms
    three = checked(tables, requests({"output_tokens": 5}, {"output_tokens": 11}, {"output_tokens": 11}))
    assert three.first_token_us[2] == 3500
    assert three.finish_us[0] == 3500 + 2 * 1600


def test_a_request_is_work_beside_its_prompt() -> None:
    run = checked(fleet(resident_on=(0, NONE), request_ns=np.array([[500_000, 0]])), requests({}))
    assert run.first_token_us == [2500]


def test_rounds_last_longer_beside_a_load() -> None:
    # Six rounds of request 0 are left when the load starts at 5 ms; it ends at 105 ms.
    tables = fleet(memory=(12,), resident_on=(0, NONE), prefill_ns=0, load_slowdown=np.array([2000]))
    late = {"arrival_us": 104 * MS, "output_tokens": 3}
    run = checked(tables, requests({"output_tokens": 11}, {"model": 1, "arrival_us": 5 * MS}, late))
    assert run.finish_us[0] == 17 * MS
    # Half a round by 105 ms; then two engines take turns, at full speed: one round each by 107 ms, and 1.5 ms alone.
    assert run.first_token_us[1:] == [107 * MS, 106 * MS]
    assert run.finish_us[2] == 108_500


def test_with_whole_rounds_a_prompt_joins_at_the_next_round() -> None:
    # Work of 1.5 ms. Request 0 has 4.5 rounds at 6 ms. Request 1 ends with round 6: 1.5 rounds that carry 1 ms each.
    tables = fleet(resident_on=(0, NONE), prefill_ns=15_000, whole_rounds=True)
    run = checked(tables, requests({"output_tokens": 11}, {"arrival_us": 6 * MS}, {"arrival_us": 6 * MS}))
    assert run.first_token_us[:2] == [2500, 9 * MS]
    assert run.first_token_us[2] == 11_500  # the next prompt begins at the end of that round
    assert run.finish_us[0] == 15_500


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


def test_the_least_latency_of_a_request_is_reached_where_it_is_alone() -> None:
    tables = fleet(
        memory=(12, 12), resident_on=(0, 0), decode_ns=250_000, round_ns=np.array([[2_000_000], [1_000_000]])
    )
    workload = requests({"context_tokens": 150, "output_tokens": 5})
    # The second accelerator is the faster one: 2 * 1.75 ms, then 4 * 1.25 ms. On the first: 2 * 2.75 ms, 4 * 2.25 ms.
    assert alone_us(tables, workload, 0) == (3500, 8500)
    run = checked(tables, workload)
    assert (run.first_token_us, run.finish_us) == ([5500], [14_500])
