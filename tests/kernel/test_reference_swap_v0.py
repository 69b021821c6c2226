"""Claims about Swap-v0, held against the reference simulator: by hand (`specification.examples`) and at random."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cace_env.tables import FOREVER, NONE, FleetTables
from cace_env.workload import Workload
from tests.specification import swap_strategies as swap_policies
from tests.specification.examples import MS, checked, fleet, requests, swaps
from tests.specification.reference import Policy, Question, simulate
from tests.specification.strategies import Rules, swap_cases, typical_us
from tests.specification.swap_strategies import (
    Victim,
    fifo,
    least_recent,
    legal_actions,
    most_recent,
    pick_action,
    wait,
)

Case = tuple[FleetTables, Workload, Rules]

LONG = {"output_tokens": 201}  # alone: first token after 2 ms, finish after 202 ms
SHORT = {"output_tokens": 11}  # alone: finish after 12 ms


def swap_fleet(*sizes: Any, **changes: Any) -> FleetTables:
    return fleet(*sizes, protocol="swap", **changes)


class Script:
    """Gives its answers one by one, then waits or takes the first legal action; notes what it was asked."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, int, list[int]]] = []  # time_us, target, legal actions

    def __call__(self, question: Question) -> int:
        legal = legal_actions(question)
        self.asked.append((question.now_us, question.target, legal))
        if self.answers:
            return self.answers.pop(0)
        return wait(question) if wait(question) in legal else legal[0]

    @property
    def times_us(self) -> list[int]:
        return [time_us for time_us, _, _ in self.asked]


# ---- three models, two accelerators with room for one each: a slot each, so 2 + m loads model m, and 5 waits ----

WAIT = 5
A, B = 0, 1  # slots; models 0 and 1 are in them, model 2 is absent
ABC = {"need": (6, 6, 6), "memory": (6, 6), "resident_on": (0, 1, NONE)}
C_AT_1_MS = {"model": 2, "arrival_us": 1 * MS}
A_RUNS_LONG = requests(LONG, {"model": 1} | SHORT, C_AT_1_MS)


def test_who_does_not_wait_drains_a_busy_model() -> None:
    # The load begins when model 0 has finished, at 202 ms.
    script = Script(2 + 2, A)
    run = checked(swap_fleet(**ABC), A_RUNS_LONG, script)
    assert script.asked == [(1 * MS, NONE, [4, WAIT]), (1 * MS, 2, [A, B])]
    assert swaps(run)[:2] == [(1 * MS, "VICTIM", 0), (202 * MS, "UNLOAD_START", 0)]
    assert run.first_token_us == [2 * MS, 2 * MS, 304 * MS]
    assert (run.drains, run.waits, run.decisions) == (1, 0, 2)


def test_who_waits_for_an_idle_model_may_be_sooner() -> None:
    # Model 1 is idle at 12 ms: asked again, told to make room, and there is one who need not be waited for.
    script = Script(WAIT, 2 + 2, B)
    run = checked(swap_fleet(**ABC), A_RUNS_LONG, script)
    assert script.asked == [(1 * MS, NONE, [4, WAIT]), (12 * MS, NONE, [4, WAIT]), (12 * MS, 2, [A, B])]
    assert run.first_token_us == [2 * MS, 2 * MS, 114 * MS]
    assert (run.drains, run.waits, run.decisions) == (0, 1, 3)


def test_prefetch_saves_the_wait_for_a_load() -> None:
    # Model 2 is wanted at 300 ms. Model 1 has been idle since 12 ms: the place is there long before.
    workload = requests(LONG, {"model": 1} | SHORT, {"model": 2, "arrival_us": 300 * MS})
    late, early = Script(4, B), Script(4, B)
    run = checked(swap_fleet(**ABC), workload, late)
    assert late.asked == [(300 * MS, 2, [A, B])]  # all is idle: waiting is illegal, so there was one choice
    assert (run.first_token_us[2], run.prefetches, run.cold_requests) == (402 * MS, 0, 1)
    run = checked(swap_fleet(**ABC, prefetch_limit=1), workload, early)
    assert early.asked[:2] == [(0, NONE, [4, WAIT]), (0, 2, [A, B])]
    assert swaps(run)[:2] == [(0, "VICTIM", 1), (12 * MS, "UNLOAD_START", 1)]
    assert (run.first_token_us[2], run.prefetches, run.cold_requests) == (302 * MS, 1, 0)


# ---- which model ----


def test_the_younger_model_may_be_loaded_first() -> None:
    # Room for one. Model 0 runs until 202 ms; then models 1 and 2 wait, and nothing runs: waiting is illegal.
    tables = swap_fleet((6, 6, 6), (6,), resident_on=(0, NONE, NONE))
    workload = requests(LONG, {"model": 1, "arrival_us": 1 * MS}, {"model": 2, "arrival_us": 2 * MS})
    script = Script(4, 4, 1 + 2)
    run = checked(tables, workload, script)
    assert script.asked[:3] == [(1 * MS, NONE, [2, 4]), (2 * MS, NONE, [2, 3, 4]), (202 * MS, NONE, [2, 3])]
    assert [row for row in swaps(run) if row[1] == "LOAD_START"] == [
        (202 * MS, "LOAD_START", 2),
        (304 * MS, "LOAD_START", 1),
    ]


def test_a_model_that_fits_is_asked_for_too() -> None:
    # Model 1 is being loaded until 101 ms, so model 0 may wait though it would fit on the other accelerator.
    tables = swap_fleet((6, 6), (6, 6))
    workload = requests({"arrival_us": 5 * MS}, {"model": 1, "arrival_us": 1 * MS})
    script = Script(4, 2)
    run = checked(tables, workload, script)
    assert script.asked == [(5 * MS, NONE, [2, 4]), (101 * MS, NONE, [2, 4])]
    assert [row for row in run.trace if row[1] == "LOAD_START"] == [
        (1 * MS, "LOAD_START", 1, 0),  # the one choice there was
        (101 * MS, "LOAD_START", 0, 1),
    ]
    assert (run.waits, run.decisions, run.forced_evictions) == (1, 2, 0)


def test_after_each_choice_the_policy_is_asked_again_while_there_are_candidates() -> None:
    # Two channels, three pending models: two choices at time 0, and no question while both channels are taken. At
    # 100 ms it waits; at 102 ms both are idle, so the third has to come, and only who goes is a question.
    tables = swap_fleet((6, 6, 6), (6, 6))
    script = Script(2 + 1, 2 + 0)
    checked(tables, requests({}, {"model": 1}, {"model": 2}), script)
    assert script.asked[:2] == [(0, NONE, [2, 3, 4]), (0, NONE, [2, 4, 5])]
    assert script.asked[2:] == [(100 * MS, NONE, [4, 5]), (102 * MS, 2, [0, 1])]


# ---- when it is asked again ----


def test_it_is_asked_again_when_a_model_turns_idle_a_load_ends_or_somebody_arrives_but_at_no_other_token() -> None:
    """Three places. Model 3, wanted from 6 ms on, could have that of model 0 or 1 all the time, but the policy waits.

    Model 1 has two requests that overlap and is idle at 13 ms; model 2 loads on the third accelerator from 4 to 104 ms;
    another request wants model 3 at 150 ms; model 0 is idle at 202 ms.
    """
    tables = swap_fleet((6, 6, 6, 6), (6, 6, 6), resident_on=(0, 1, NONE, NONE))
    rows = (LONG, {"model": 1} | SHORT, {"model": 1, "arrival_us": 5 * MS})
    late = ({"model": 2, "arrival_us": 4 * MS} | LONG, {"model": 3, "arrival_us": 6 * MS})
    script = Script(3 + 2, WAIT + 2)
    run = checked(tables, requests(*rows, *late, {"model": 3, "arrival_us": 150 * MS}), script)
    idle_us = run.finish_us[1]
    assert run.finish_us[2] < idle_us == 13 * MS
    assert script.times_us[:6] == [4 * MS, 6 * MS, 13 * MS, 104 * MS, 150 * MS, 202 * MS]
    assert script.asked[1] == (6 * MS, NONE, [3 + 3, 3 + 4])


def test_a_refused_request_and_one_for_a_resident_model_ask_nothing() -> None:
    late = ({"model": 2, "arrival_us": 4 * MS, "output_tokens": 1000}, {"model": 1, "arrival_us": 20 * MS})
    script = Script()
    run = checked(swap_fleet(**ABC), requests(LONG, C_AT_1_MS, *late), script)
    assert run.refused == [False, False, True, False]
    assert script.times_us[:3] == [1 * MS, 22 * MS, 202 * MS]


def test_a_victim_that_is_waited_for_asks_when_it_has_left() -> None:
    # Model 0 drains from 1 to 202 ms for model 2, and has left at 209 ms. A request has come for it at 60 ms, and
    # could have the place of model 1. That it has finished, at 202 ms, is no reason to ask: it was not to be had.
    tables = swap_fleet((6, 6, 6, 6), (6, 6), resident_on=(0, 1, NONE, NONE), unload_us=7 * MS)
    rows = ({"model": 3, "arrival_us": 50 * MS}, {"arrival_us": 60 * MS})
    script = Script(2 + 2, A)
    run = checked(tables, requests(LONG, C_AT_1_MS, *rows), script)
    assert swaps(run)[1:3] == [(202 * MS, "UNLOAD_START", 0), (209 * MS, "UNLOAD_DONE", 0)]
    assert script.asked[2:4] == [(50 * MS, NONE, [2 + 3, 2 + 4]), (209 * MS, NONE, [2 + 0, 2 + 3, 2 + 4])]


@pytest.mark.parametrize(("patience_ms", "asked_ms"), [(None, [1, 202]), (0, [1, 202]), (30, [1, 31, 202])])
def test_a_patience_asks_again_once(patience_ms: int | None, asked_ms: list[int]) -> None:
    tables = swap_fleet((6, 6), (6,), resident_on=(0, NONE))
    script = Script()
    patience_us = None if patience_ms is None else patience_ms * MS
    run = checked(tables, requests(LONG, {"model": 1, "arrival_us": 1 * MS}), script, patience_us=patience_us)
    assert script.times_us == [time_ms * MS for time_ms in asked_ms[:-1]]  # at 202 ms there is one choice
    assert swaps(run)[0] == (202 * MS, "VICTIM", 0)


def test_a_patience_is_forgotten_when_its_model_is_loaded() -> None:
    # Model 2 is loaded at once where model 1 is; model 1, wanted again at 10 ms, waits. At 31 ms nothing is asked.
    workload = requests(LONG, C_AT_1_MS | LONG, {"model": 1, "arrival_us": 10 * MS})
    script = Script(4, B)
    checked(swap_fleet(**ABC), workload, script, patience_us=30 * MS)
    assert script.times_us[:4] == [1 * MS, 1 * MS, 10 * MS, 40 * MS]


def test_a_keep_alive_that_runs_out_asks_again() -> None:
    # Model 1 has been idle since the start; at 20 ms it leaves, which takes 7 ms. Its place is free at 27 ms.
    script = Script()
    keep_alive_us = [None, 20 * MS, None]
    workload = requests(LONG, C_AT_1_MS)
    checked(swap_fleet(**ABC, unload_us=7 * MS), workload, script, keep_alive_us=keep_alive_us)
    assert script.asked[:3] == [(1 * MS, NONE, [4, WAIT]), (20 * MS, NONE, [4, WAIT]), (27 * MS, NONE, [4, WAIT])]


def test_nobody_may_wait_where_nothing_would_ask_again() -> None:
    # All are idle: the only model that is wanted comes without a question.
    script = Script()
    run = checked(swap_fleet((6, 6), (6,), resident_on=(0, NONE)), requests({"model": 1}), script)
    assert (script.asked, run.waits, run.loads, run.forced_evictions) == ([], 0, 1, 1)


# ---- victims ----


def test_busy_victims_may_be_chosen_though_idle_ones_would_do() -> None:
    # Model 3 needs two of three places. Model 1 is idle, and so is model 2; model 0, busy, may go all the same, also
    # as the second victim.
    tables = swap_fleet((4, 4, 4, 8), (12,), resident_on=(0, 0, 0, NONE))
    script = Script(3 + 3, 1, 0)
    run = checked(tables, requests(LONG, {"model": 3, "arrival_us": 1 * MS}), script)
    assert script.asked == [(1 * MS, NONE, [6, 7]), (1 * MS, 3, [0, 1, 2]), (1 * MS, 3, [0, 2])]
    assert (run.drains, run.evictions) == (1, 2)


def test_victims_stand_where_the_model_is_placeable_whoever_is_busy_there() -> None:
    # Model 3 needs 8: the second accelerator, of 7, never has that.
    tables = swap_fleet((4, 4, 7, 8), (8, 7), resident_on=(0, 0, 1, NONE))
    script = Script(3 + 3)
    run = checked(tables, requests(LONG, {"model": 3, "arrival_us": 1 * MS}), script)
    assert script.asked[1] == (1 * MS, 3, [0, 1])
    assert run.forced_evictions == 1  # the last of the two


def test_an_illegal_answer_becomes_the_legal_action_of_lowest_index() -> None:
    # A victim where a model is asked for, then a model where a victim is.
    script = Script(A, 4)
    run = checked(swap_fleet(**ABC), A_RUNS_LONG, script)
    assert swaps(run)[0] == (1 * MS, "VICTIM", 0)
    assert run.invalid_actions == 2


def test_questions_of_both_kinds_count_against_the_limit_of_decisions() -> None:
    for most in (1, 2):
        run = checked(swap_fleet(**ABC, max_decisions=most), A_RUNS_LONG, Script(WAIT, 4, B))
        assert run.truncated and (run.decisions, run.end_us) == (most, 12 * MS)


# ---- prefetch ----


def test_prefetch_ends_with_its_limit() -> None:
    # Two places, and only model 0 is ever wanted: model 1 comes after it, then model 2 in the place of model 1.
    script = Script(2 + 0, 2 + 1, 2 + 2, 1)
    tables = swap_fleet((6, 6, 6), (12,), prefetch_limit=2)
    run = checked(tables, requests({"output_tokens": 801}), script)
    assert script.asked == [
        (0, NONE, [2, 3, 4]),  # nothing runs yet: waiting is illegal
        (100 * MS, NONE, [3, 4, 5]),
        (200 * MS, NONE, [4, 5]),
        (200 * MS, 2, [0, 1]),
    ]
    assert (run.prefetches, run.loads, run.evictions, run.end_us) == (2, 3, 1, 902 * MS)


def test_nobody_has_to_fetch() -> None:
    # At 2 ms all are idle, and no request waits for model 1.
    script = Script()
    tables = swap_fleet((6, 6), (6,), resident_on=(0, NONE), prefetch_limit=1)
    run = checked(tables, requests({}, {"arrival_us": 500 * MS}), script)
    assert script.asked == [(0, NONE, [2, 3]), (2 * MS, NONE, [2, 3])]
    assert (run.waits, run.loads) == (2, 0)


def test_nobody_is_fetched_while_somebody_has_waited_too_long() -> None:
    # Model 1 pends since 1 ms, and waits: until 31 ms model 2 may be fetched in its stead, at 40 ms no more.
    tables = swap_fleet((6, 6, 6), (6,), resident_on=(0, NONE, NONE), prefetch_limit=9, prefetch_max_wait_us=30 * MS)
    rows = ({"model": 1, "arrival_us": at * MS} for at in (1, 30, 31, 40))
    script = Script()
    checked(tables, requests(LONG, *rows), script)
    assert script.asked[:5] == [
        (0, NONE, [2, 3, 4]),
        (1 * MS, NONE, [2, 3, 4]),
        (30 * MS, NONE, [2, 3, 4]),
        (31 * MS, NONE, [2, 4]),
        (40 * MS, NONE, [2, 4]),
    ]


def test_who_arrives_while_its_model_is_fetched_waits_for_it() -> None:
    script = Script(2 + 2, B)
    workload = requests(LONG, {"model": 2, "arrival_us": 60 * MS})
    run = checked(swap_fleet(**ABC, prefetch_limit=1), workload, script)
    assert (run.first_token_us[1], run.prefetches, run.loads) == (102 * MS, 1, 1)
    assert len(script.asked) == 2  # the limit is reached, and model 1, which left, is not wanted


# ---- at random ----


def limits(rules: Rules) -> dict[str, Any]:
    return {"keep_alive_us": rules.keep_alive_us, "max_resident": rules.max_resident, "patience_us": rules.patience_us}


def any_action(question: Question) -> int:
    """Legal or not, different every time."""
    return (question.decision * 7 + question.now_us) % len(question.legal)


@given(case=swap_cases(), policy=st.sampled_from([*swap_policies.POLICIES, "any"]))
@settings(max_examples=200)
def test_every_invariant_holds_and_every_run_ends_whatever_is_answered(case: Case, policy: str) -> None:
    tables, workload, rules = case
    chosen: Policy = any_action if policy == "any" else partial(pick_action, policy)
    run = checked(tables, workload, chosen, **limits(rules))
    loads_started = [subject for _, kind, subject, _ in run.trace if kind == "LOAD_START"]
    assert run.prefetches <= tables.prefetch_limit
    assert len(loads_started) <= len(workload) + run.prefetches  # every other load admits a request
    assert run.truncated or run.invalid_actions == 0 or policy == "any"


def test_random_cases_exercise_the_rules() -> None:
    """A comparison on random cases is worth little without waiting, prefetches and drains."""
    seen: Counter[str] = Counter()

    @settings(max_examples=150, derandomize=True, database=None)
    @given(case=swap_cases(), policy=st.sampled_from(swap_policies.POLICIES))
    def count(case: Case, policy: str) -> None:
        tables, workload, rules = case
        targets: list[int] = []

        def watched(question: Question) -> int:
            targets.append(question.target)
            return pick_action(policy, question)

        run = simulate(tables, workload, watched, **limits(rules))
        which, victims = targets.count(NONE), len(targets) - targets.count(NONE)
        happened = {"which": which, "victim": victims, "wait": run.waits, "prefetch": run.prefetches}
        happened |= {"drain": run.drains, "lone unload": run.keep_alive_evictions, "choice": which - run.waits}
        seen.update(["cases", *(name for name, times in happened.items() if times)])

    count()
    least = {"which": 0.3, "victim": 0.1, "wait": 0.2, "choice": 0.3, "drain": 0.1, "prefetch": 0.1, "lone unload": 0.1}
    assert {name: seen[name] / seen["cases"] for name in least if seen[name] < least[name] * seen["cases"]} == {}, seen


@pytest.mark.parametrize("rule", [least_recent, most_recent])
@given(case=swap_cases(prefetch=False), patience=st.sampled_from([0, 1, 20, None]))
@settings(max_examples=150)
def test_fifo_that_takes_idle_victims_first_is_eviction_v0(rule: Victim, case: Case, patience: int | None) -> None:
    """To the microsecond and in every event, for every patience: none, some of the case's own requests, for ever."""
    tables, workload, rules = case
    patience_us = FOREVER if patience is None else patience * typical_us(tables)
    swap = tables.replace(max_decisions=FOREVER)
    eviction = swap.replace(protocol="eviction", drain_after_us=patience_us)

    def victim(question: Question) -> int:
        return rule(question, legal_actions(question))

    run = checked(swap, workload, fifo(rule, patience_us), **limits(rules) | {"patience_us": patience_us})
    other = checked(eviction, workload, victim, **limits(rules))
    asked = {"decisions": 0, "forced_evictions": 0, "waits": 0, "asked_us": []}  # who is asked what is not the same
    assert vars(run) | asked == vars(other) | asked
    event(f"waits: {min(run.waits, 3)}, drains: {min(run.drains, 3)}")
