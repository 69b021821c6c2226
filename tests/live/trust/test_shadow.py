"""Shadow mode: the mirror follows what was watched, the policy is asked beside it, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cace_env.decision_log import DecisionLog, in_words, read_decisions
from cace_env.evaluation.intervals import RESAMPLES, block_of, seed_draws
from cace_env.kernel.state import MODEL, TRACE_KINDS, TRACED
from cace_env.live.decider import Decider
from cace_env.live.mirror import Alone, live_tables
from cace_env.live.shadow.deciding import Looks, Watcher
from cace_env.live.shadow.report import evictions_saved, summary
from cace_env.policies import Player, contestant_of, policy
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator
from cace_env.simulation.outcome import TraceRow
from cace_env.tables import NONE, FleetTables
from cace_env.traces import Trace
from cace_env.traces.trace import some_requests
from cace_env.workload import Workload
from experiments.serving.replay import Replay, times_of
from tests.live.serving import fleet_of
from tests.support.small import SMALL

NEEDS = {"a": 2.0, "b": 2.0, "c": 2.0}  # two fit


def played(tables: FleetTables, workload: Workload, name: str) -> list[TraceRow]:
    """The event trace of an episode."""
    player = Player(name, policy(name), tables, workload, 0)
    simulator = Simulator(tables, player.limits, trace=True)
    asked = simulator.reset(workload)
    while asked:
        asked = simulator.answer(player.answer(simulator)[0])
    rows = simulator.trace[: simulator.state.scalars[TRACED]].tolist()
    return [TraceRow(time_us, TRACE_KINDS[kind], subject, place) for time_us, kind, subject, place in rows]


def evictions(rows: list[TraceRow]) -> int:
    return sum(row.kind == "UNLOAD_START" for row in rows)


def watcher(tables: FleetTables, name: str = "cace", deployed: str = "lru", **how: object) -> Watcher:
    deciders = [Decider(contestant_of(each), tables) for each in (name, name, deployed)]
    return Watcher(tables, *deciders, began_us=how.pop("began_us", 0), **how)  # type: ignore[arg-type]


def watch(rows: list[TraceRow], workload: Workload, watched: Watcher) -> None:
    """Tells of an episode what a gateway would see of it."""
    for row in rows:
        r = row.subject
        if row.kind == "ARRIVAL":
            about = (workload.model, workload.task, workload.context_tokens, workload.output_tokens, workload.session)
            watched.arrive(row.time_us, r, *(int(column[r]) for column in about), "")
        elif row.kind == "FIRST_TOKEN":
            watched.first_token(row.time_us, r)
        elif row.kind == "FINISH":
            watched.finish(row.time_us, r, int(workload.output_tokens[r]))


def log_of(models: str, gap_s: float = 10.0) -> Trace:
    """Requests `gap_s` apart, each answered within 2 s."""
    n = len(models)
    return Trace(
        time_us=np.arange(n) * round(gap_s * 1e6),
        context_tokens=np.full(n, 100),
        new_tokens=None,
        output_tokens=np.full(n, 10),
        model=np.array([ord(model) - ord("a") for model in models]),
        model_ids=tuple("abcdefgh"[: 1 + max(ord(model) - ord("a") for model in models)]),
        began_us=1_760_000_000_000_000,
        ttft_us=np.full(n, 1_000_000),
        e2e_us=np.full(n, 2_000_000),
    )


def test_the_mirror_follows_a_system_whose_rule_is_known():
    scenario = load_scenario(SMALL)
    tables, workload = live_tables(scenario.tables()), scenario.workload(4)
    rows = played(tables, workload, "lru")
    watched = watcher(tables, "lru", window_us=60_000_000)
    watch(rows, workload, watched)
    tally = watched.tally
    assert tally.asked > 20 and tally.agreed == tally.asked and not watched.differing
    assert watched.server.evicted == evictions(rows) and watched.server.early == 0
    # Alone it would have done the same: that is what the second mirror says, too.
    assert watched.own.evicted == watched.server.evicted
    text = " ".join(summary(watched))
    assert "the same model in 100%" in text and "+0.0 %" in text


def test_what_the_policy_alone_would_have_evicted_is_what_the_simulator_says():
    scenario = load_scenario(SMALL)
    tables, workload = live_tables(scenario.tables()), scenario.workload(4)
    lru, gdsf = (evictions(played(tables, workload, name)) for name in ("lru", "gdsf"))
    watched = watcher(tables, "gdsf", window_us=60_000_000)
    watch(played(tables, workload, "lru"), workload, watched)
    assert abs(evictions_saved(watched).percent - 100 * (1 - gdsf / lru)) < 5
    assert watched.tally.agreed < watched.tally.asked
    text = " ".join(summary(watched))
    assert "What lies in memory was not seen" in text and "asked for again first" in text


def test_the_windows_of_a_long_run_are_put_together():
    watched = watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()))
    rng = np.random.default_rng(0)
    counts = rng.poisson(20, 1000)
    watched.server.evictions.update(dict(enumerate(counts.tolist())))
    watched.own.evictions.update(dict(enumerate((counts - counts // 5).tolist())))
    seed_draws.cache_clear()
    saved = evictions_saved(watched)
    assert abs(saved.percent - 100 * (counts // 5).sum() / counts.sum()) < 1e-9 and 10 < saved.low < saved.high < 30
    seed_draws(48, RESAMPLES, 0, block_of(48))
    assert (seed_draws.cache_info().hits, seed_draws.cache_info().currsize) == (1, 1)  # 48 windows, and no others


def test_whoever_would_have_kept_the_model_that_is_asked_for_first_was_right():
    watched = watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()), "lfu")
    replay = Replay({"a": 0, "b": 1, "c": 2})
    # LFU keeps a, LRU evicts it; and a is asked for next.
    replay.tell(log_of("aaaabca"), watched, 1 << 62)
    assert watched.tally.asked == 2 and watched.tally.agreed == 1
    assert (watched.tally.sooner, watched.tally.later) == (1, 0)


def test_a_decision_that_was_due_before_a_request_is_judged_by_it():
    watched = watcher(live_tables(fleet_of(dict.fromkeys("abcde", 2.0), [6.5]).tables()), "lfu")
    second = 1_000_000
    for at, model in enumerate((0, 0, 0, 1, 1, 2)):
        watched.arrive(at * second, at, model, 1, 10, 10, Alone(), "")
        watched.finish(at * second + second // 2, at, 10)
    watched.arrive(6 * second, 6, 3, 1, 10, 10, Alone(), "")  # LRU evicts a for d, LFU would have evicted c
    watched.arrive(6 * second + 1, 7, 4, 1, 10, 10, Alone(), "")  # e waits for the load of d; then b, and c
    watched.arrive(7 * second, 8, 1, 1, 10, 10, Alone(), "")
    assert (watched.tally.asked, watched.tally.sooner, watched.tally.later) == (2, 1, 0)


def test_a_model_that_drains_is_held_until_its_unload_begins():
    watched = watcher(live_tables(fleet_of(NEEDS, [4.5], drain_after_s=1.0).tables()), "lru")
    second = 1_000_000
    for key in range(2):
        watched.arrive(key * second, key, key, 1, 10, 10, Alone(), "")
        watched.first_token(key * second + second // 2, key)
    assert watched.server.held() == {0, 1}
    watched.arrive(2 * second, 2, 2, 1, 10, 10, Alone(), "")
    watched.advance(5 * second)  # c has waited for more than a second: a drains
    assert watched.tally.asked == 1 and watched.server.held() == {0, 1}
    watched.finish(6 * second, 0, 10)
    assert watched.server.held() == {1}
    watched.advance(6 * second + 10)
    assert watched.server.held() == {1, 2}


def test_what_the_server_was_seen_to_evict_is_the_answer():
    tables = live_tables(fleet_of(NEEDS, [4.5]).tables())
    watched = watcher(tables, "lru", began_us=1_760_000_000_000_000)
    second = 1_000_000
    watched.looks.add(15 * second, frozenset({0, 1}))
    watched.looks.add(21 * second, frozenset({0, 2}))  # the server has evicted b, not a
    Replay({"a": 0, "b": 1, "c": 2}).tell(log_of("abc"), watched, 1 << 62)
    assert watched.tally.asked == watched.tally.seen == 1 and watched.tally.agreed == 0
    assert watched.server.held() == {0, 2} and watched.own.held() == {1, 2}
    assert watched.tally.looks == watched.tally.matches == 2
    assert "1 choices were seen there" in " ".join(summary(watched))


def test_what_was_not_seen_at_the_server_is_not_guessed_from_later_looks():
    looks = Looks()
    looks.add(10, frozenset({0, 1}))
    assert looks.gone(5, 2, [0, 1]) is None  # neither has left yet
    looks.add(20, frozenset({1}))
    assert looks.gone(5, 2, [0, 1]) == (0, True)
    assert looks.gone(21, 2, [0, 1]) is None
    looks.add(30, frozenset({2}))
    assert looks.gone(25, 2, [0, 1]) == (0, False)  # it had left before
    assert looks.gone(25, 2, [1]) == (1, True)
    late = Looks()
    late.add(60_000_000, frozenset({1}))
    assert late.gone(5, 2, [0, 1]) is None


def test_an_eviction_that_came_earlier_at_the_server_is_no_comparison(tmp_path: Path):
    tables = live_tables(fleet_of(NEEDS, [4.5]).tables())
    with DecisionLog(tmp_path, clock="utc") as log:
        watched = watcher(tables, "lru", began_us=1_760_000_000_000_000, log=log)
        for second, held in ((5, {0}), (15, {1}), (25, {2})):  # the server has room for one, the mirror for two
            watched.looks.add(second * 1_000_000, frozenset(held))
        Replay({"a": 0, "b": 1, "c": 2}).tell(log_of("abc"), watched, 1 << 62)
    assert (watched.tally.asked, watched.tally.missed) == (0, 1) and watched.server.held() == {1, 2}
    assert not list(tmp_path.glob("*.parquet"))


def test_a_log_says_what_would_have_been_done_and_what_was(tmp_path: Path):
    with DecisionLog(tmp_path, clock="utc") as log:
        watched = watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()), "lfu", began_us=1_760_000_000_000_000, log=log)
        Replay({"a": 0, "b": 1, "c": 2}).tell(log_of("aaaabca"), watched, 1 << 62)
    first, second = read_decisions(tmp_path, kinds=["evict"])
    assert first.chosen.model == "b" and first.candidates[first.done].model == "a"
    assert first.time_us == 1_760_000_050_000_000
    said = in_words(first, "utc")
    assert "lfu would have evicted b from gpu-0 to make room for c" in said
    assert "where the watched system evicted a from gpu-0" in said
    assert second.done == second.choice and "as the watched system did" in in_words(second, "utc")


def test_a_growing_log_is_told_of_once_and_what_comes_late_is_counted():
    whole, watched = log_of("abcabcabc"), watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()))
    watched.began_us = 1_760_000_000_000_000
    replay = Replay({"a": 0, "b": 1, "c": 2})
    began = 1_760_000_000_000_000
    replay.tell(some_requests(whole, np.arange(9) != 1), watched, began + 35_000_000)
    replay.tell(whole, watched, began + 65_000_000)  # and the second request has come into it
    replay.tell(whole, watched, began + 65_000_000)
    assert watched.tally.requests == 6 and replay.late == 1
    replay.tell(whole, watched, began + 200_000_000)
    assert watched.tally.requests == 8 and watched.server.firsts == 8


def test_a_log_that_is_rotated_goes_on_and_nothing_is_late():
    whole, watched = log_of("abcabcabc"), watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()))
    began = watched.began_us = 1_760_000_000_000_000
    replay = Replay({"a": 0, "b": 1, "c": 2})
    replay.tell(some_requests(whole, np.arange(9) < 6), watched, began + 35_000_000)
    for kept in (3, 5):  # the first rows are gone; of some that stay, it has been told
        replay.tell(some_requests(whole, np.arange(9) >= kept), watched, began + 45_000_000)
    assert (watched.tally.requests, replay.late) == (5, 0)
    fresh = some_requests(whole, np.arange(9) >= 7)
    fresh.time_us = np.zeros(2, np.int64)  # at the same time
    replay.tell(fresh, watched, began + 90_000_000)
    assert (watched.tally.requests, replay.late) == (7, 0)
    replay.tell(fresh, watched, began + 80_000_000)  # a shorter log ends earlier
    assert (watched.tally.requests, watched.server.firsts, replay.late) == (7, 7, 0)


def test_times_that_a_log_lacks_are_made_up_and_counted():
    log = log_of("ab")
    log.ttft_us, log.e2e_us = np.array([NONE, NONE]), np.array([5_000_000, NONE])
    times = times_of(log, np.full(2, 100_000))
    assert (times.first - times.arrived).tolist() == [4_100_000, 0]
    assert (times.finished - times.arrived).tolist() == [5_000_000, 900_000]
    assert times.made_up.tolist() == [False, True]


def test_models_that_are_not_of_the_fleet_are_counted_and_left_out():
    watched = watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()))
    Replay({"a": 0, "b": 1}).tell(log_of("abca"), watched, 1 << 62)
    assert (watched.tally.requests, watched.tally.unknown) == (3, 1)
    assert "not of this fleet" in " ".join(summary(watched))


def test_requests_that_are_given_up_or_answered_in_one_piece_end():
    watched = watcher(live_tables(fleet_of(NEEDS, [4.5]).tables()))
    for key in range(4):
        watched.arrive(key, key, key % 3, 1, 10, None, Alone(), "")
    watched.give_up(10, 0)  # while its model loads
    watched.finish(5_000_000, 1, 7)  # no first token was seen
    watched.first_token(5_000_000, 3)
    watched.give_up(6_000_000, 3)
    watched.finish(7_000_000, 2, 7)
    watched.advance(100_000_000)
    for each in (watched.server, watched.own):
        assert not each.mirror.state.models[:, [MODEL.running, MODEL.waiting]].any()
