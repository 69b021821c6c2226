"""The kernel equals the readable reference event by event, and keeps every invariant."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env.simulator import Episode, Limits, Question, simulate
from cace_env.tables import FOREVER, NONE, FleetTables
from cace_env.workload import Workload
from tests import reference
from tests.invariants import assert_same_run, check_run
from tests.strategies import Rules, cases

POLICIES = ("oldest", "newest", "first", "last", "hashed")


def pick(name: str, question: Question | reference.Question) -> int:
    """A victim by a rule that depends on nothing but what both simulators show."""
    slots = [slot for slot, legal in enumerate(question.legal) if legal]
    used = {slot: int(question.last_use_us[question.slot_models[slot]]) for slot in slots}
    if name == "oldest":
        return min(slots, key=lambda slot: (used[slot], slot))
    if name == "newest":
        return max(slots, key=lambda slot: (used[slot], slot))
    if name == "hashed":
        return slots[(question.decision * 7919 + question.now_us) % len(slots)]
    return slots[0] if name == "first" else slots[-1]


def limits_of(tables: FleetTables, rules: Rules) -> Limits:
    """The rules of a random case as the simulator takes them."""
    patience_us = FOREVER if rules.patience_us is None else rules.patience_us
    if rules.keep_alive_us is None:
        return Limits(None, rules.max_resident, patience_us)
    keep_alive_us = [FOREVER if time is None else time for time in rules.keep_alive_us]
    return Limits(keep_alive_us, rules.max_resident, patience_us)


def as_reference(episode: Episode) -> Episode:
    """The episode with what has not happened written as in the reference: NONE."""
    arrival = np.where(episode.arrival_us <= episode.end_us, episode.arrival_us, NONE)
    return dataclasses.replace(episode, arrival_us=arrival)


def assert_kernel_equals_the_reference(case: tuple[FleetTables, Workload, Rules], policy: str) -> None:
    """Runs a case through both, and holds the kernel's run against every invariant too."""
    tables, workload, rules = case
    expected = reference.simulate(
        tables,
        workload,
        lambda question: pick(policy, question),
        keep_alive_us=rules.keep_alive_us,
        max_resident=rules.max_resident,
    )
    actual = simulate(
        tables, workload, lambda question: pick(policy, question), limits=limits_of(tables, rules), trace=True
    )
    assert_same_run(expected, as_reference(actual))
    check_run(tables, workload, as_reference(actual), max_resident=rules.max_resident)


@pytest.mark.nojit
@given(case=cases(), policy=st.sampled_from(POLICIES))
@settings(max_examples=400)
def test_kernel_equals_the_reference_event_by_event(case: tuple[FleetTables, Workload, Rules], policy: str) -> None:
    assert_kernel_equals_the_reference(case, policy)


@pytest.mark.slow
@given(case=cases(), policy=st.sampled_from(POLICIES))
@settings(max_examples=3_000)
def test_kernel_equals_the_reference_on_thousands_of_cases(
    case: tuple[FleetTables, Workload, Rules], policy: str
) -> None:
    assert_kernel_equals_the_reference(case, policy)
