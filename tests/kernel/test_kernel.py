"""The kernel equals the readable reference event by event, and keeps every invariant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env.simulation import simulate
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from tests.specification import reference
from tests.specification.comparing import POLICIES, as_reference, limits_of, pick
from tests.specification.invariants import assert_same_run, check_run
from tests.specification.strategies import Rules, cases


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
