"""Every feature and every observation equals what the event trace says, at random questions and in every scenario."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cace_env.observation import (
    CONTEXT_FEATURES,
    PENDING,
    PENDING_FEATURES,
    SLOT,
    SLOT_FEATURES,
    Feature,
    ObservationLayout,
    scales,
)
from cace_env.scenarios import load_scenario, scenario_names
from cace_env.simulator import Limits, Simulator
from cace_env.tables import FleetTables
from cace_env.workload import COLUMNS, Workload
from tests import reference
from tests.examples import MS, fleet, requests
from tests.reference_features import Expected, expected_features
from tests.strategies import Rules, cases
from tests.test_kernel import POLICIES, limits_of, pick

EXACT, SINGLE = 1e-9, 1e-5  # relative: of float64, and of float32 after log1p
# Absolute errors [unit of the feature]: a byte is 1e-9 GB, a microsecond 1e-6 s; the rest are differences of large sums.
ROUNDING, CANCELLED = 1e-12, {"gap_cv": 1e-6, "prefix_tokens": 1e-6}

Rows = npt.NDArray[np.float64]
Policy = Callable[[reference.Question], int]


def assert_close(features: tuple[Feature, ...], expected: Rows, actual: Rows, precision: float, clock: float) -> None:
    """Rows agree column by column; `clock` is GreedyDual's."""
    assert expected.shape == actual.shape
    for column, feature in enumerate(features):
        rounding = abs(clock) * EXACT if feature.name == "greedy_dual" else CANCELLED.get(feature.name, ROUNDING)
        wanted, seen = expected[..., column], actual[..., column]
        far = ~np.isclose(seen, wanted, rtol=precision, atol=rounding)
        assert not far.any(), f"{feature.name}: {seen}, expected {wanted}"


def assert_shown(simulator: Simulator, expected: Expected, max_pending: int) -> None:
    """Raw features and the observation show what is expected."""
    slots, clock = expected.slots, expected.greedy_dual_clock
    assert_close(SLOT_FEATURES, slots, simulator.features(), EXACT, clock)
    layout = ObservationLayout(simulator.max_slots, max_pending)
    observation = np.full(layout.size, np.nan, dtype=np.float32)
    simulator.observe(scales(), max_pending, observation)
    shown = layout.split(layout.physical(observation))  # type: ignore[arg-type]
    pending = np.zeros((max_pending, len(PENDING_FEATURES)))
    pending[: len(expected.pending)] = expected.pending[:max_pending]
    assert_close(SLOT_FEATURES, slots, shown.slots, SINGLE, clock)
    assert_close(PENDING_FEATURES, pending, shown.pending, SINGLE, clock)
    assert_close(CONTEXT_FEATURES, expected.context, shown.context, SINGLE, clock)


def compare(
    tables: FleetTables, workload: Workload, policy: Policy, rules: Rules, max_pending: int, every: int = 1
) -> int:
    """Compares the features at every `every`-th question; returns how many were."""
    expected: list[Expected] = []

    def watched(question: reference.Question) -> int:
        if question.decision % every == 0:
            expected.append(expected_features(question))
        return policy(question)

    reference.simulate(
        tables, workload, watched, keep_alive_us=rules.keep_alive_us, max_resident=rules.max_resident
    )  # fmt: skip
    simulator = Simulator(tables, limits_of(tables, rules))
    asked = simulator.reset(workload)
    while asked:
        question = simulator.question
        if question.decision % every == 0:
            assert_shown(simulator, expected[question.decision // every], max_pending)
        asked = simulator.answer(policy(question))  # type: ignore[arg-type]
    return len(expected)


@pytest.mark.nojit
@given(case=cases(), policy=st.sampled_from(POLICIES), users=st.integers(1, 4), rows=st.sampled_from([1, 6]))
@settings(max_examples=150)
def test_features_are_what_the_trace_says(
    case: tuple[FleetTables, Workload, Rules], policy: str, users: int, rows: int
) -> None:
    tables, workload, rules = case
    workload = dataclasses.replace(workload, user=np.arange(len(workload), dtype=np.int32) // 3 % users)
    asked = compare(tables, workload, lambda question: pick(policy, question), rules, rows)
    event(f"questions: {min(asked, 3)}")


@pytest.mark.parametrize("name", scenario_names())
def test_features_of_the_scenarios_are_what_the_trace_says(name: str) -> None:
    scenario = load_scenario(name)
    whole = scenario.workload(0)
    workload = Workload.from_columns(**{column: getattr(whole, column)[:300] for column in COLUMNS})
    tables = scenario.tables()
    rules = Rules(None, None, True)
    asked = compare(tables, workload, lambda question: pick("oldest", question), rules, tables.num_models, every=5)
    assert asked > 0
