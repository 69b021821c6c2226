"""The formula quoted for CACE: each term in each reading by hand, and whole episodes against a plain recomputation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cace_env.config import ConfigError
from cace_env.evaluation import evaluate
from cace_env.observation import SLOT
from cace_env.policies import POLICIES, READINGS, Future, policy
from cace_env.policies.built_in import AS_QUOTED, CLAIRVOYANT, Policy, rule_of
from cace_env.policies.quoted import PARTS, QUOTED, Quoted
from cace_env.simulation import Episode, Simulator, run_rule
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import Workload
from experiments.running.contestants import default_names, spelled_out
from tests.specification.strategies import Rules, cases
from tests.support.policy_runs import (
    HISTORY,
    LAST,
    SECOND,
    ask,
    assert_same_episode,
    cace_tables,
    cace_workload,
    equal_fleet,
    evicted,
)

MINUTES_5_US = 300 * SECOND


def reading(**options: Any) -> Policy:
    """A policy of these options; without any, nothing but the load time tells models apart, and it is all the same."""
    chosen = {"clock_start_s": 1e9, "upcoming": "queue", "output_weight": 0.0} | options
    if chosen.get("last_use") == "age":
        del chosen["clock_start_s"]
    quoted = Quoted.model_validate(chosen)
    return Policy(
        "a reading",
        "",
        kind=READINGS["cace-quoted"].kind,
        weights=quoted.row(),
        clairvoyant="future" in chosen.values(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Each term


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("last_use", "evicts", "victim"),
    [("timestamp", "highest", 1), ("timestamp", "lowest", 0), ("age", "highest", 0), ("age", "lowest", 1)],
)
def test_a_timestamp_makes_the_highest_the_longest_unused_and_an_age_the_lowest(
    last_use: str, evicts: str, victim: int
) -> None:
    chosen = reading(last_use=last_use, evicts=evicts, clock_start_s=0.0)
    assert evicted(chosen, equal_fleet(), ask(*HISTORY, (4.0, LAST))) == [victim]


@pytest.mark.nojit
@pytest.mark.parametrize("evicts", ["highest", "lowest"])
def test_whatever_was_used_less_than_a_second_ago_is_tied_and_ties_go_to_the_least_recently_used(evicts: str) -> None:
    workload = ask((10.0, 2), (10.2, 0), (10.4, 1), (10.8, LAST))
    resident = equal_fleet(resident_on=[0, 0, 0, -1])
    assert evicted(reading(last_use="age", evicts=evicts), resident, workload) == [2]


@pytest.mark.nojit
@pytest.mark.parametrize("evicts", ["highest", "lowest"])
def test_a_clock_of_unix_makes_the_first_term_the_same_for_all(evicts: str) -> None:
    # Nothing but the load differs: 1, 2 and 3 s; the timestamps would say 1.
    victim = 0 if evicts == "highest" else 2
    unix = reading(evicts=evicts, clock_start_s=1.75e9)
    assert evicted(unix, cace_tables(), cace_workload()) == [victim]


@pytest.mark.nojit
@pytest.mark.parametrize(("evicts", "victim"), [("highest", 1), ("lowest", 0)])
def test_a_forecast_expects_soonest_what_was_asked_for_most_in_the_last_five_minutes(evicts: str, victim: int) -> None:
    workload = ask(
        (0, 1), (0.1, 1), (0.2, 1), (0.3, 1), (310, 0), (311, 1), (312, 2), (313, 2), (314, 0), (315, 0), (316, LAST)
    )
    assert evicted(reading(upcoming="forecast", evicts=evicts), equal_fleet(), workload) == [victim]


@pytest.mark.nojit
def test_the_future_is_known_as_far_as_the_window_goes() -> None:
    workload = ask(*HISTORY, (4.0, LAST), (10, 2), (20, 1), (30, 0))

    def first(**options: Any) -> int:
        return evicted(reading(upcoming="future", **options), equal_fleet(), workload)[0]

    assert first(evicts="highest") == 0  # two others come before it
    assert first(evicts="lowest") == 2
    assert first(evicts="highest", window=1) == 1  # 0 and 1 are both beyond: the least recently used of them


@pytest.mark.nojit
@pytest.mark.parametrize(("evicts", "victim"), [("highest", 1), ("lowest", 2)])
def test_the_queue_tells_busy_models_apart_by_who_waits_for_them(evicts: str, victim: int) -> None:
    # One seat each: requests wait for 2, then for 0, and none for 1, when room must be made for 3.
    busy = [{"arrival_us": m * SECOND, "model": m, "output_tokens": 900} for m in (0, 1, 2)]
    slow = equal_fleet(round_ns=10_000_000, max_num_seqs=1, drain_after_us=SECOND)
    workload = ask(*busy, (3.0, 2), (3.5, 0), (4.0, LAST))
    assert evicted(reading(evicts=evicts), slow, workload)[0] == victim


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("evicts", "weight", "victim"), [("highest", 1.0, 1), ("highest", -1.0, 0), ("lowest", 1.0, 0), ("lowest", -1.0, 1)]
)
def test_the_sign_of_w_1_says_whether_long_answers_leave(evicts: str, weight: float, victim: int) -> None:
    assert evicted(reading(evicts=evicts, output_weight=weight), cace_tables(), cace_workload()) == [victim]


# ---------------------------------------------------------------------------------------------------------------------
# Whole episodes


def index_in_window(options: Quoted, m: int, simulator: Simulator, workload: Workload, future: Future) -> float:
    """i, from the trace of the episode so far and the requests themselves."""
    so_far = simulator.episode()
    now_us, window = so_far.end_us, float(options.window)
    of_model: dict[int, list[int]] = {}  # times of upcoming requests
    if options.upcoming == "queue":
        seen = {
            kind: {row.subject for row in so_far.trace if row.kind == kind}
            for kind in ("ARRIVAL", "REFUSED", "ADMITTED")
        }
        for r in seen["ARRIVAL"] - seen["REFUSED"] - seen["ADMITTED"]:
            of_model.setdefault(int(workload.model[r]), []).append(int(so_far.arrival_us[r]))
    elif options.upcoming == "future":
        for r in future.order:
            if so_far.arrival_us[r] > now_us:
                of_model.setdefault(int(workload.model[r]), []).append(int(future.nominal_us[r]))
    else:
        arrived = (so_far.arrival_us <= now_us) & (so_far.arrival_us >= now_us - MINUTES_5_US) & ~so_far.refused
        counts = np.bincount(workload.model[arrived], minlength=simulator.tables.num_models)
        return window if counts[m] == 0 else min(counts.sum() / counts[m] - 1.0, window)
    if m not in of_model:
        return window
    first = min(of_model[m])
    return min(float(sum(time < first for times in of_model.values() for time in times)), window)


def play(options: Quoted, tables: FleetTables, workload: Workload, future: Future) -> tuple[Episode, bool]:
    """The episode answered by a plain recomputation, and whether an idle candidate ever had waiting requests."""
    simulator = Simulator(tables, trace=True)
    asked, idle_waited_for = simulator.reset(workload), False
    while asked:
        question, x = simulator.question, simulator.features()
        scores = {}
        for slot in np.flatnonzero(question.legal[: simulator.max_slots]).tolist():
            m, row = int(question.slot_models[slot]), x[slot]
            idle_waited_for |= bool(row[SLOT.running] == 0 and row[SLOT.waiting] > 0)
            last_use_us = int(question.last_use_us[m])
            t_s = (question.now_us - last_use_us) * 1e-6
            if options.last_use == "timestamp":
                t_s = options.clock_start_s + last_use_us * 1e-6
            score = 1.0 / (1.0 + math.log(max(t_s, 1.0)))
            score += 1.0 / (1.0 + row[SLOT.reload_s] / 100.0)
            score += index_in_window(options, m, simulator, workload, future) / options.window
            score += options.output_weight * row[SLOT.expected_output_tokens]
            scores[slot] = (-score if options.evicts == "highest" else score, -row[SLOT.since_use_s], slot)
        asked = simulator.answer(min(scores, key=lambda slot: scores[slot]))
    return simulator.episode(), idle_waited_for


@given(
    case=cases(),
    name=st.sampled_from(sorted(QUOTED)),
    window=st.sampled_from([1, 2, 3, 7, 100]),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    clock_start_s=st.sampled_from([0.0, 0.0, 5.0, 1.75e9]),
)
@settings(max_examples=200)
def test_compiled_readings_choose_the_victims_of_a_plain_recomputation(
    case: tuple[FleetTables, Workload, Rules], name: str, window: int, scale: float, clock_start_s: float
) -> None:
    tables, workload, _ = case
    assume(not tables.unlimited_memory)
    options = QUOTED[name].model_copy(
        update={
            "window": window,
            "output_weight": QUOTED[name].output_weight * scale,
            "clock_start_s": clock_start_s if QUOTED[name].last_use == "timestamp" else 0.0,
        }
    )
    future = Future.of(tables, workload)
    chosen = Policy(name, "", kind=READINGS[name].kind, weights=options.row(), clairvoyant=READINGS[name].clairvoyant)
    compiled = run_rule(tables, workload, rule_of(chosen, tables, workload=workload, future=future), trace=True)
    plain, _ = play(options, tables, workload, future)
    assert_same_episode(compiled, plain)


@given(case=cases())
@settings(max_examples=50)
def test_nobody_waits_for_an_idle_candidate_so_the_queue_tells_idle_ones_not_apart(
    case: tuple[FleetTables, Workload, Rules],
) -> None:
    tables, workload, _ = case
    assume(not tables.unlimited_memory)
    _, idle_waited_for = play(QUOTED["cace-quoted-queue"], tables, workload, Future.of(tables, workload))
    assert not idle_waited_for


# ---------------------------------------------------------------------------------------------------------------------
# Names and options


def test_every_combination_of_options_has_a_name_and_no_two_are_the_same() -> None:
    assert len(QUOTED) == math.prod(len(parts) for parts in PARTS.values()) == len(set(QUOTED.values()))
    assert QUOTED["cace-quoted"] == Quoted()
    assert QUOTED["cace-quoted-keep-age-queue-minus"] == Quoted(
        evicts="lowest", last_use="age", upcoming="queue", output_weight=-0.001
    )
    for name, row in READINGS.items():
        assert row.name == name and policy(name) is row
        assert row.clairvoyant == (row.group == CLAIRVOYANT) == name.__contains__("-future")
        assert row.group in (AS_QUOTED, CLAIRVOYANT) and "machine-written review" in row.source


def test_readings_compete_only_where_they_are_named() -> None:
    assert not set(READINGS) & set(POLICIES)
    assert not [name for name in default_names(Protocol) if "quoted" in name]
    assert spelled_out(["lru", "cace-quoted*"]) == ["lru", *READINGS]
    assert spelled_out(["cace-quoted-keep-age*"]) == [
        name for name in READINGS if name.startswith("cace-quoted-keep-age")
    ]
    with pytest.raises(ConfigError, match=r"no built-in policy fits 'quoted\*'"):
        spelled_out(["quoted*"])


def test_an_unknown_reading_is_answered_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match=r"no reading called 'cace-quoted-kept', did you mean 'cace-quoted-keep'"):
        policy("cace-quoted-kept")
    with pytest.raises(ConfigError, match="no reading called 'cace-quoted-kept'"):
        policy("cace-quoted-kept:window=20")


def test_a_file_of_options_is_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "description: mine\nevicts: lowest\nlast_use: age\nupcoming: future\nwindow: 20\noutput_weight: 0.01\n"
    )
    own = policy(f"cace-quoted:{file}")
    expected = Quoted(evicts="lowest", last_use="age", upcoming="future", window=20, output_weight=0.01)
    assert own.weights == expected.row() and own.clairvoyant and "w = 20" in own.description
    file.write_text("window: 50\n")
    assert policy(f"cace-quoted:{file}").weights == Quoted(window=50).row()
    for text, problem in (
        ("evicts: oldest", "evicts: Input should be 'highest' or 'lowest'"),
        ("window: 0", "window: Input should be greater than or equal to 1"),
        ("direction: up", "direction: unknown key"),
        ("last_use: age\nclock_start_s: 5.0", "clock_start_s shifts timestamps, but last_use is an age"),
    ):
        file.write_text(text + "\n")
        with pytest.raises(ConfigError, match=problem):
            policy(f"cace-quoted:{file}")
    with pytest.raises(ConfigError, match=r"cace-quoted:missing.yaml: there is no file 'missing.yaml'"):
        policy("cace-quoted:missing.yaml")


def test_options_behind_a_name_change_that_reading() -> None:
    own = policy("cace-quoted-keep-age:window=20;output_weight=0.01")
    assert own.weights == Quoted(evicts="lowest", last_use="age", window=20, output_weight=0.01).row()
    for name, problem in (
        ("cace-quoted:window=some", "cace-quoted:window=some: window: Input should be a valid integer"),
        ("cace-quoted:window=20;age", "'age' has to be KEY=VALUE"),
        ("cace-quoted:windows=20", "windows: unknown key, did you mean 'window'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            policy(name)


def test_a_reading_runs_wherever_a_policy_does() -> None:
    for name, protocol in (
        ("cace-quoted", "eviction"),
        ("wsjf+cace-quoted-future", "swap"),
        ("guarded:cace-quoted", "eviction"),
    ):
        assert evaluate(name, "workstation", seeds=[0], protocol=protocol).rows[0]["decisions"] > 0
