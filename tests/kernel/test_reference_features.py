"""Every feature and every observation equals what the event trace says, at random questions and in every scenario."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

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
)
from cace_env.scenarios import load_scenario
from cace_env.sessions import AGAIN_SHAPE, AGAIN_WITHIN_S
from cace_env.simulation import Question, Simulator, simulate
from cace_env.tables import NONE, FleetTables
from cace_env.workload import COLUMNS, Workload
from tests.specification import reference
from tests.specification.comparing import POLICIES, as_reference, limits_of, pick
from tests.specification.examples import MS, fleet, requests
from tests.specification.features import Expected, expected_features
from tests.specification.invariants import assert_same_run
from tests.specification.strategies import Rules, cases, swap_cases
from tests.specification.swap_strategies import POLICIES as SWAP_POLICIES
from tests.specification.swap_strategies import pick_action
from tests.support.small import EVERYDAY

EXACT, SINGLE = 1e-9, 1e-5  # relative: of float64, and of float32 after log1p
# Absolute [unit of the feature]: a byte is 1e-9 GB, a microsecond 1e-6 s; the named ones are differences of large sums.
ROUNDING, CANCELLED = 1e-12, {"gap_cv": 1e-6, "prefix_tokens": 1e-6}

REQUESTS = 400  # of each scenario

Rows = npt.NDArray[np.float64]
Pick = Callable[[Question | reference.Question], int]
NO_RULES = Rules(None, None, True)
BLOCKS = {"slot": SLOT_FEATURES, "pending": PENDING_FEATURES, "context": CONTEXT_FEATURES}


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
    shown = layout.split(layout.physical(simulator.observation(layout)))  # type: ignore[arg-type]
    pending = np.zeros((max_pending, len(PENDING_FEATURES)))
    pending[: len(expected.pending)] = expected.pending[:max_pending]
    assert_close(SLOT_FEATURES, slots, shown.slots, SINGLE, clock)
    assert_close(PENDING_FEATURES, pending, shown.pending, SINGLE, clock)
    assert_close(CONTEXT_FEATURES, expected.context, shown.context, SINGLE, clock)


def compare(tables: FleetTables, workload: Workload, policy: Pick, rules: Rules, max_pending: int) -> int:
    """Compares the features at every question; returns how many there were."""
    expected: list[Expected] = []

    def watched(question: reference.Question) -> int:
        expected.append(expected_features(question))
        return policy(question)

    reference.simulate(
        tables,
        workload,
        watched,
        keep_alive_us=rules.keep_alive_us,
        max_resident=rules.max_resident,
        patience_us=rules.patience_us,
    )
    simulator = Simulator(tables, limits_of(tables, rules))
    asked = simulator.reset(workload)
    while asked:
        question = simulator.question
        assert_shown(simulator, expected[question.decision], max_pending)
        asked = simulator.answer(policy(question))
    return len(expected)


@pytest.mark.nojit
@given(case=cases(), policy=st.sampled_from(POLICIES), users=st.integers(1, 4), rows=st.sampled_from([1, 6]))
@settings(max_examples=150)
def test_features_are_what_the_trace_says(
    case: tuple[FleetTables, Workload, Rules], policy: str, users: int, rows: int
) -> None:
    tables, workload, rules = case
    workload = dataclasses.replace(workload, user=np.arange(len(workload), dtype=np.int32) // 3 % users)
    asked = compare(tables, workload, partial(pick, policy), rules, rows)
    event(f"questions: {min(asked, 3)}")


@pytest.mark.nojit
@given(case=swap_cases(), policy=st.sampled_from(SWAP_POLICIES))
@settings(max_examples=150)
def test_features_of_swap_v0_are_what_the_trace_says(case: tuple[FleetTables, Workload, Rules], policy: str) -> None:
    tables, workload, rules = case
    asked = compare(tables, workload, partial(pick_action, policy), rules, tables.num_models)
    event(f"questions: {min(asked, 3)}")


@pytest.mark.parametrize("name", EVERYDAY)
def test_features_of_the_scenarios_are_what_the_trace_says(name: str) -> None:
    scenario = load_scenario(name)
    whole = scenario.workload(0)
    workload = Workload.from_columns(**{column: getattr(whole, column)[:REQUESTS] for column in COLUMNS})
    tables = scenario.tables()
    assert compare(tables, workload, partial(pick, "oldest"), NO_RULES, tables.num_models) > 0


def crowded(seed: int) -> tuple[FleetTables, Workload]:
    """Ten models on memory for about four, 200 requests within some ten minutes: questions, drains, loads all along."""
    draw = np.random.default_rng(seed)
    accelerators, models, rows = 1 + seed % 3, 10, 200
    need = draw.integers(4, 20, models)
    memory = np.full(accelerators, max(int(need.sum()) * 2 // 5 // accelerators, int(need.max()) + 5))
    load_us = np.sort(draw.integers(200 * MS, 9000 * MS, (accelerators, models, 2)), axis=2)
    tables = fleet(
        tuple(need.tolist()),
        tuple(memory.tolist()),
        weights_bytes=need - 1,
        residual_bytes=draw.integers(0, 2, models) if seed % 2 else 0,
        load_us=load_us,
        unload_us=draw.integers(0, 2, (accelerators, models)) * 300 * MS,
        round_ns=draw.integers(5, 40, (accelerators, models)) * 1_000_000,
        decode_ns=100_000,
        kv_ps=5_000,
        attention_ps=700,
        max_num_seqs=3,
        host_cache_bytes=int(need.sum()) // 3,
        unload_copies=seed % 4 < 2,
        drain_after_us=int(draw.integers(0, 3000)) * MS,
        placement="spread" if seed % 2 else "pack",
    )
    context = draw.integers(2, 400, rows)
    workload = Workload.from_columns(
        arrival_us=np.cumsum(draw.exponential(3e6, rows)).astype(np.int64),
        after=np.where(draw.random(rows) < 0.3, np.arange(rows) - 1, NONE).clip(NONE),
        think_us=draw.integers(0, 4000, rows) * MS,
        model=draw.zipf(1.4, rows) % models,
        task=draw.integers(0, 4, rows),
        context_tokens=context,
        new_tokens=1 + draw.integers(0, context),
        output_tokens=draw.integers(1, 300, rows),
        user=draw.integers(0, 6, rows),
        session=draw.integers(0, 15, rows),
    )
    return tables, workload


@pytest.mark.nojit
@pytest.mark.parametrize("seed", range(6))
def test_features_and_counters_of_crowded_fleets_are_what_the_trace_says(seed: int) -> None:
    tables, workload = crowded(seed)
    questions = compare(tables, workload, partial(pick, "hashed"), NO_RULES, 3)
    assert questions > 20
    for cut in (questions // 3, questions // 2, questions):  # counters of what is under way, and at the end
        short = tables.replace(max_decisions=cut)
        expected = reference.simulate(short, workload, lambda question: pick("hashed", question))
        actual = simulate(short, workload, lambda question: pick("hashed", question), trace=True)
        assert actual.truncated == (cut < questions)
        assert_same_run(expected, as_reference(actual))


@pytest.mark.nojit
@pytest.mark.parametrize("seed", range(6))
def test_features_of_crowded_fleets_in_swap_v0_are_what_the_trace_says(seed: int) -> None:
    tables, workload = crowded_swap(seed)
    assert compare(tables, workload, partial(pick_action, "hashed"), NO_RULES, tables.num_models) > 20


def crowded_swap(seed: int) -> tuple[FleetTables, Workload]:
    tables, workload = crowded(seed)
    return tables.replace(protocol="swap", prefetch_limit=20 * (seed % 2), prefetch_max_wait_us=5000 * MS), workload


ONLY_IN_SWAP_V0 = {"pending": {"legal"}, "context": {"ordering", "wait_legal"}}


@pytest.mark.nojit
def test_crowded_fleets_show_every_feature() -> None:
    """A comparison is worth little in columns that are always 0."""
    assert missed(crowded, partial(pick, "hashed")) == {"slot": {"pinned"}, **ONLY_IN_SWAP_V0}
    assert missed(crowded_swap, partial(pick_action, "hashed")) == {
        "slot": {"pinned"},
        "pending": set(),
        "context": set(),
    }


def missed(case: Callable[[int], tuple[FleetTables, Workload]], policy: Pick) -> dict[str, set[str]]:
    """Features of each block that are 0 at every question of six cases."""
    missing = {block: {feature.name for feature in features} for block, features in BLOCKS.items()}

    def watched(question: reference.Question) -> int:
        expected = expected_features(question)
        for block, rows in (
            ("slot", expected.slots),
            ("pending", expected.pending),
            ("context", expected.context[None]),
        ):
            seen = zip(BLOCKS[block], rows.any(axis=0), strict=True)
            missing[block] -= {feature.name for feature, value in seen if value}
        return policy(question)

    for seed in range(6):
        reference.simulate(*case(seed), watched)
    return missing


def first_question(tables: FleetTables, workload: Workload) -> tuple[Simulator, Rows, Rows]:
    """A simulator at its first question, its raw slot features and the pending ones."""
    simulator = Simulator(tables)
    assert simulator.reset(workload)
    layout = ObservationLayout(simulator.max_slots, tables.num_models)
    shown = layout.split(layout.physical(simulator.observation(layout)))  # type: ignore[arg-type]
    return simulator, simulator.features(), np.asarray(shown.pending, dtype=np.float64)


@pytest.mark.nojit
def test_requests_in_progress_by_hand() -> None:
    """Model 0 decodes two requests, in rounds of 1 ms, when the large model has been pending for 10 ms.

    The first token of the one comes at 2 ms, that of the other at 7 ms: the round that holds its prompt takes 2 ms.
    So at 15.6 ms the one is 3 + 1 + 8.6 = 12.6 rounds past its first token, the other 8.6.
    """
    tables = fleet((6, 6, 12), (12,), resident_on=(0, 0, NONE), drain_after_us=10 * MS)
    decoding = {"output_tokens": 100}
    workload = requests(decoding, decoding | {"arrival_us": 5 * MS}, {"model": 2, "arrival_us": 5600})
    simulator, slots, pending = first_question(tables, workload)
    assert simulator.question.now_us == 15_600
    assert slots[0, SLOT.running] == 2
    assert slots[0, SLOT.running_age_s] == pytest.approx((0.0156 + 0.0106) / 2)
    assert slots[0, SLOT.emitted_tokens] == 2 + 21  # 12.6 + 8.6 rounds, rounded down together
    assert slots[1, SLOT.emitted_tokens] == slots[1, SLOT.running_age_s] == 0
    assert slots[0, SLOT.missing_gb] == pytest.approx(12e-9)
    assert pending[0, PENDING.pending_s] == pending[0, PENDING.oldest_wait_s] == pytest.approx(0.01)
    assert pending[0, PENDING.load_s] == pytest.approx(0.1)
    assert pending[0, PENDING.waiting_weight] == pytest.approx(2.0)  # w_ttft + w_e2e of one request
    assert pending[0, PENDING.since_eviction_s] == pytest.approx(1e6)


def any_table(seed: int) -> npt.NDArray[np.float64]:
    """Probabilities of which no two are equal."""
    return np.random.default_rng(seed).random(AGAIN_SHAPE)


@pytest.mark.nojit
@pytest.mark.parametrize("seed", range(3))
def test_pauses_of_sessions_are_what_the_trace_says_whatever_the_table(seed: int) -> None:
    tables, workload = crowded(seed)
    assert compare(tables.replace(again=any_table(seed)), workload, partial(pick, "hashed"), NO_RULES, 10) > 20


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("asked_s", "ages"), [(20.0, (5, 3)), (500.0, (9, 9)), (515.0, (None, 9)), (600.0, (None, None))]
)
def test_sessions_that_pause_by_hand(asked_s: float, ages: tuple[int | None, int | None]) -> None:
    """At model 0, session 7 has finished its first request at 2 ms, session 8 its second at 12.002 s; session 9 waits.

    At 20 s they have paused for 19.998 and 7.998 s, in the ranges of ages from 16 and from 4 s, numbers 5 and 3; 512 s
    and more count no longer. A request of task 1 came last from session 8.
    """
    again = any_table(0)
    tables = fleet((6, 6, 12), (12,), resident_on=(0, 0, NONE), drain_after_us=0, again=again)
    workload = requests(
        {"session": 7, "task": 0},
        {"session": 8, "task": 0},
        {"session": 8, "task": 1, "arrival_us": 12_000 * MS},
        {"session": 9, "task": 0, "arrival_us": round(asked_s * 1e6), "model": 2},
    )
    _, slots, pending = first_question(tables, workload)
    silent = np.ones(len(AGAIN_WITHIN_S))
    for age, of_kind in zip(ages, (again[0, 0], again[1, 1]), strict=True):
        silent *= 1.0 if age is None else 1.0 - of_kind[age]
    shown = [SLOT.again_1m, SLOT.again_5m, SLOT.again_15m]
    assert slots[0, shown] == pytest.approx(1.0 - silent)
    assert not slots[1, shown].any() and not pending[0, [PENDING.again_1m, PENDING.again_5m, PENDING.again_15m]].any()


@pytest.mark.nojit
@pytest.mark.parametrize(("asked_s", "in_window"), [(300.0, 3), (300.000001, 2)])
def test_demand_by_hand(asked_s: float, in_window: int) -> None:
    """Requests for model 0 at 0, 60 and 180 s, of which the oldest leaves the window just after 300 s."""
    tables = fleet((6, 6, 12), (12,), resident_on=(0, 0, NONE), drain_after_us=0)
    rows = [(0, 1, 7), (60, 11, 8), (180, 21, 8)]  # arrival [s], output tokens, session
    workload = requests(
        *({"arrival_us": at * 1000 * MS, "output_tokens": output, "session": key} for at, output, key in rows),
        {"model": 2, "arrival_us": round(asked_s * 1e6), "session": 9},
    )
    workload = dataclasses.replace(workload, user=workload.session)
    _, slots, _ = first_question(tables, workload)
    row = slots[0]
    assert row[SLOT.uses] == row[SLOT.uses_since_load] == 3
    assert row[SLOT.window_requests] == in_window
    assert row[SLOT.window_users] == row[SLOT.window_sessions] == in_window - 1
    assert row[SLOT.rate_1m] == pytest.approx((1 / 32 + 1 / 16 + 1 / 4) * np.log(2))
    assert row[SLOT.rate_10m] == pytest.approx((2**-0.5 + 2**-0.4 + 2**-0.2) * np.log(2) / 10)
    assert row[SLOT.rate_60m] == pytest.approx((2 ** (-1 / 12) + 2 ** (-1 / 15) + 2 ** (-1 / 30)) * np.log(2) / 60)
    assert row[SLOT.since_use_s] == pytest.approx(asked_s - 180.022)  # 1 prompt round of 2 ms, 20 rounds of 1 ms
    assert row[SLOT.since_second_use_s] == pytest.approx(asked_s - 60)
    assert row[SLOT.mean_gap_s] == pytest.approx(0.9 * 60 + 0.1 * 120)
    assert row[SLOT.gap_cv] == pytest.approx(18 / 66)  # variance 0.9 * 60^2 + 0.1 * 120^2 - 66^2 = 18^2
    assert row[SLOT.expected_output_tokens] == pytest.approx(3.9)  # 1, then 2, then 3.9
    assert row[SLOT.latency_weight] == pytest.approx(2.0)
    assert row[SLOT.prefix_tokens] == pytest.approx(100 * 2**-0.5 + 100 * 2**-0.2)  # session 8: its last prompt
    assert row[SLOT.greedy_dual] == pytest.approx(3 * 0.1 / 6e-9)  # uses * load / size, the clock at 0
    assert slots[1, SLOT.since_second_use_s] == slots[1, SLOT.mean_gap_s] == 1e6
