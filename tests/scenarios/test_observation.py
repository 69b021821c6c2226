"""Claims about what an agent sees: named, scaled and laid out as documented, and never anything of the future."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cace_env.envs import EvictionEnv, FleetEnv, SwapEnv
from cace_env.kernel import features as kernel
from cace_env.kernel.state import CLOCK
from cace_env.observation import (
    CONTEXT,
    CONTEXT_FEATURES,
    PENDING,
    PENDING_FEATURES,
    SLOT,
    SLOT_FEATURES,
    Feature,
    ObservationLayout,
)
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables
from cace_env.workload import COLUMNS, Workload
from experiments import environment_page, swap_page
from tests.support.envs import first_legal, rollout, short

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCENARIOS = ("default", "agents", "sleep-mode", "reasoning-heavy")

BLOCKS = (("F_", SLOT_FEATURES), ("P_", PENDING_FEATURES), ("C_", CONTEXT_FEATURES))


@pytest.mark.parametrize(("prefix", "features"), BLOCKS)
def test_features_stand_in_the_kernels_order(prefix: str, features: tuple[Feature, ...]) -> None:
    indices = {name: value for name, value in vars(kernel).items() if name.startswith(prefix)}
    assert {f"{prefix}{feature.name.upper()}": column for column, feature in enumerate(features)} == indices


def test_columns_are_found_by_name() -> None:
    assert SLOT.since_use_s == kernel.F_SINCE_USE_S
    assert PENDING.waiting_weight == kernel.P_WAITING_WEIGHT
    assert CONTEXT.elapsed_s == kernel.C_ELAPSED_S


def test_every_number_has_a_unit_a_scale_and_a_meaning() -> None:
    for feature in (*SLOT_FEATURES, *PENDING_FEATURES, *CONTEXT_FEATURES):
        assert feature.unit and feature.scale > 0 and feature.doc
        assert feature.unit != "flag" or (feature.scale == 1.0 and not feature.log)


def test_layout_splits_what_it_names() -> None:
    layout = ObservationLayout(max_slots=3, max_pending=2)
    assert len(layout.names) == len(set(layout.names)) == layout.size == 3 * 39 + 2 * 20 + 16
    numbers = np.arange(layout.size, dtype=np.float32)
    slots, pending, context = layout.split(np.stack([numbers, -numbers]))
    assert (
        slots.shape == (2, 3, len(SLOT))
        and pending.shape == (2, 2, len(PENDING))
        and context.shape == (2, len(CONTEXT))
    )
    assert layout.names[int(slots[0, 2, SLOT.freed_gb])] == "slot2.freed_gb"
    assert layout.names[int(pending[0, 1, PENDING.target])] == "pending1.target"
    assert layout.names[int(context[0, CONTEXT.memory_gb])] == "context.memory_gb"
    assert np.shares_memory(layout.split(numbers).slots, numbers)


def test_layout_refuses_another_length() -> None:
    layout = ObservationLayout(max_slots=3, max_pending=2)
    with pytest.raises(ValueError, match=rf"has 7 numbers.*have {layout.size}"):
        layout.split(np.zeros(7, dtype=np.float32))
    with pytest.raises(ValueError, match="at least 1 slot"):
        ObservationLayout(0, 2)


def test_the_observation_is_the_raw_features_scaled() -> None:
    env = EvictionEnv(short())
    observation, info = env.reset(seed=3)
    for _ in range(30):
        raw = env.simulator.features()
        np.testing.assert_allclose(env.layout.split(env.layout.physical(observation)).slots, raw, rtol=2e-5, atol=1e-5)
        columns = np.array([-f.scale if f.log else f.scale for f in SLOT_FEATURES])
        scaled = np.where(columns > 0, raw / columns, np.sign(raw) * np.log1p(np.abs(raw / columns)))
        np.testing.assert_allclose(env.layout.split(observation).slots, scaled, rtol=1e-6, atol=1e-6)
        observation, _, _, _, info = env.step(first_legal(info))


def test_pending_rows_stand_oldest_first_and_one_is_the_target() -> None:
    env = EvictionEnv(short())
    for observation, _, terminated, _, _ in rollout(env, seed=3):
        pending = env.layout.split(observation).pending
        present = pending[:, PENDING.present] == 1
        assert (np.diff(present.astype(int)) <= 0).all()
        assert (np.diff(pending[present, PENDING.oldest_wait_s]) <= 0).all()
        assert pending[:, PENDING.target].sum() == (0 if terminated else 1)


def test_fewer_pending_rows_show_the_same_beginning() -> None:
    few, all_rows = EvictionEnv(short(), max_pending=1), EvictionEnv(short())
    for a, b in zip(rollout(few, seed=3), rollout(all_rows, seed=3), strict=True):
        one, many = few.layout.split(a[0]), all_rows.layout.split(b[0])
        np.testing.assert_array_equal(one.slots, many.slots)
        np.testing.assert_array_equal(one.pending, many.pending[:1])
        np.testing.assert_array_equal(one.context, many.context)


@pytest.mark.parametrize("name", SCENARIOS)
def test_most_values_lie_between_0_and_10(name: str) -> None:
    values = np.stack([row[0] for row in rollout(EvictionEnv(short(name)), seed=8)])
    inside = (values >= 0) & (values <= 10)
    assert inside.mean() > 0.99
    assert np.abs(values).max() < 30


# ---------------------------------------------------------------------------------------------------------------------
# Causality


def watch(tables: FleetTables, workload: Workload, until_us: int) -> tuple[list[tuple[int, bytes]], Simulator]:
    """Every observation up to a time under a fixed way of answering, and the simulator where it stopped."""
    simulator = Simulator(tables)
    layout = None
    seen = []
    asked = simulator.reset(workload)
    while asked and simulator.state.scalars[CLOCK] <= until_us:
        layout = layout or ObservationLayout(simulator.max_slots, tables.num_models)
        question = simulator.question
        seen.append((question.now_us, simulator.observation(layout).tobytes()))
        legal = np.flatnonzero(question.legal)
        asked = simulator.answer(int(legal[question.decision * 7919 % len(legal)]))
    return seen, simulator


def with_another_future(workload: Workload, arrived: np.ndarray, until_us: int, rng: np.random.Generator) -> Workload:
    """Requests that have not arrived ask for something else, from another model, as somebody else, and later."""
    coming = ~arrived
    columns = {
        name: getattr(workload, name).copy() for name in workload.__dataclass_fields__ if name not in ("label", "meta")
    }
    count = int(coming.sum())
    columns["model"][coming] = rng.permutation(columns["model"][coming])
    columns["task"][coming] = rng.integers(0, 4, count)
    columns["context_tokens"][coming] = rng.integers(1, 2000, count)
    columns["new_tokens"][coming] = 1
    columns["output_tokens"][coming] = rng.integers(1, 500, count)
    columns["user"][coming] = rng.integers(0, 5, count)
    columns["session"][coming] = rng.integers(0, 9, count)
    is_open = coming & (columns["after"] < 0)
    columns["arrival_us"][is_open] = until_us + 1 + rng.integers(0, 600_000_000, int(is_open.sum()))
    follows = coming & (columns["after"] >= 0)
    columns["think_us"][follows] += rng.integers(0, 60_000_000, int(follows.sum()))
    return Workload.from_columns(**columns)


@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=st.integers(0, 50), share=st.floats(0.05, 0.9), draw=st.integers(0, 1000))
@settings(max_examples=15)
def test_nothing_that_has_not_arrived_shows(name: str, seed: int, share: float, draw: int) -> None:
    scenario = short(name)
    tables, workload = scenario.tables(), scenario.workload(seed)
    whole, _ = watch(tables, workload, until_us=1 << 60)
    assume(len(whole) > 1)
    until_us = whole[int(share * (len(whole) - 1))][0]
    seen, stopped = watch(tables, workload, until_us)
    # The simulator stands at the first question after until_us: what arrived since then is future, too.
    arrived = stopped.state.requests[:, 0] <= until_us
    other = with_another_future(workload, arrived, until_us, np.random.default_rng(draw))
    again, _ = watch(tables, other, until_us)
    assert again[: len(seen)] == seen
    assert len(seen) >= 1


@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=st.integers(0, 50), share=st.floats(0.05, 0.9), draw=st.integers(0, 1000))
@settings(max_examples=15)
def test_the_output_length_of_what_runs_does_not_show(name: str, seed: int, share: float, draw: int) -> None:
    """KV room and KV reads depend on it by physics; without them, longer outputs of unfinished requests do nothing."""
    scenario = short(name)
    tables, workload = scenario.tables(), scenario.workload(seed)
    nothing = np.zeros_like(tables.kv_ps)
    tables = tables.replace(kv_ps=nothing, attention_ps=nothing, kv_tokens=np.full_like(tables.kv_tokens, 2_000_000))
    whole, _ = watch(tables, workload, until_us=1 << 60)
    assume(len(whole) > 1)
    until_us = whole[int(share * (len(whole) - 1))][0]
    seen, stopped = watch(tables, workload, until_us)
    finish_us = stopped.state.requests[:, 2]
    unfinished = (finish_us < 0) | (finish_us > until_us)
    assert unfinished.any()
    longer = workload.output_tokens + unfinished * np.random.default_rng(draw).integers(1, 2000, len(workload))
    columns = {name: getattr(workload, name) for name in COLUMNS}
    again, _ = watch(tables, Workload.from_columns(**{**columns, "output_tokens": longer}), until_us)
    assert again == seen


# ---------------------------------------------------------------------------------------------------------------------
# The page


@pytest.mark.parametrize(("name", "source"), [("environment.md", environment_page), ("swap.md", swap_page)])
def test_the_page_is_written_from_the_code(name: str, source: ModuleType) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == source.page(), f"run {source.COMMAND}"


@pytest.mark.parametrize(("env", "rows", "row"), [(EvictionEnv, "pending models", "k"), (SwapEnv, "models", "m")])
def test_the_class_docstring_counts_the_features(env: type[FleetEnv], rows: str, row: str) -> None:
    text = env.__doc__ or ""
    assert f"[slots x {len(SLOT)} | {rows} x {len(PENDING)} | context x {len(CONTEXT)}]" in text
    assert f"| {len(SLOT)} s ... {len(SLOT)} s + {len(SLOT) - 1} " in text
    assert f"| {len(SLOT)} S + {len(PENDING)} {row} ... + {len(PENDING) - 1} |" in text
    assert f"| the last {len(CONTEXT)} " in text
