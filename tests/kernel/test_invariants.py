"""Every invariant holds for random cases, the cases exercise the rules, and a broken invariant is noticed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings

from cace_env.tables import NONE, FleetTables, slots_per_accelerator
from cace_env.workload import Workload
from tests.specification import reference, strategies
from tests.specification.examples import MS, checked, fleet, least_recent, lowest, requests
from tests.specification.invariants import assert_same_run, check_run
from tests.specification.reference import Question, ReferenceRun, simulate

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
