"""In Swap-v0 the kernel equals the readable reference event by event and question by question."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cace_env.simulation import Question, simulate
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from tests.specification import reference
from tests.specification.comparing import as_reference, limits_of
from tests.specification.invariants import assert_same_run, check_run
from tests.specification.strategies import Rules, swap_cases
from tests.specification.swap_strategies import POLICIES, legal_actions, pick_action

Asked = tuple[int, int, list[int]]  # time, target, legal actions


def assert_kernel_equals_the_reference(tables: FleetTables, workload: Workload, rules: Rules, policy: str) -> int:
    """Runs a case through both; returns how many questions there were."""
    asked: list[Asked] = []

    def watched(question: reference.Question) -> int:
        asked.append((question.now_us, question.target, legal_actions(question)))
        return pick_action(policy, question)

    def compared(question: Question) -> int:
        seen = question.now_us, question.target, legal_actions(question)
        assert question.decision < len(asked), f"question {question.decision} too many: {seen}"
        assert seen == asked[question.decision], f"question {question.decision}: {seen}, expected"
        return pick_action(policy, question)

    expected = reference.simulate(
        tables,
        workload,
        watched,
        keep_alive_us=rules.keep_alive_us,
        max_resident=rules.max_resident,
        patience_us=rules.patience_us,
    )
    actual = simulate(tables, workload, compared, limits=limits_of(tables, rules), trace=True)
    assert_same_run(expected, as_reference(actual))
    check_run(tables, workload, as_reference(actual), max_resident=rules.max_resident)
    return len(asked)


Case = tuple[FleetTables, Workload, Rules]


@pytest.mark.nojit
@given(case=swap_cases(), policy=st.sampled_from(POLICIES))
@settings(max_examples=400)
def test_kernel_equals_the_reference_event_by_event(case: Case, policy: str) -> None:
    asked = assert_kernel_equals_the_reference(*case, policy)
    event(f"questions: {min(asked, 5)}")


@pytest.mark.slow
@given(case=swap_cases(), policy=st.sampled_from(POLICIES))
@settings(max_examples=3_000)
def test_kernel_equals_the_reference_on_thousands_of_cases(case: Case, policy: str) -> None:
    assert_kernel_equals_the_reference(*case, policy)
