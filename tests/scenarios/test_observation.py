"""Claims about what an agent sees: named, scaled and laid out as documented, and never anything of the future."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cace_env.envs import EvictionEnv
from cace_env.kernel import features as kernel
from cace_env.kernel import rules
from cace_env.kernel.rules import parts_read
from cace_env.kernel.state import CLOCK
from cace_env.observation import (
    BLOCKS,
    CONTEXT,
    GROUPS,
    PARTS,
    PENDING,
    PENDING_FEATURES,
    SLOT,
    SLOT_FEATURES,
    THERE,
    Feature,
    ObservationLayout,
    Part,
)
from cace_env.policies.base import weigh
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables
from cace_env.workload import COLUMNS, Workload
from tests.support.envs import first_legal, rollout, short

SCENARIOS = ("default", "agents", "sleep-mode", "reasoning-heavy")

BY_NAME: dict[str, Any] = {"slot": SLOT, "pending": PENDING, "context": CONTEXT}
KERNEL = Path(kernel.__file__).parent


def every_feature() -> list[Feature]:
    return [feature for features in BLOCKS.values() for feature in features]


def stored_by(function: ast.FunctionDef) -> list[str]:
    """What a function of the kernel writes to `out`: `SLOT.reload_s` of `out[SLOT.reload_s] = ...`."""
    return [
        ast.unparse(node.slice)
        for node in ast.walk(function)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "out"
    ]


# ---------------------------------------------------------------------------------------------------------------------
# The table: a new row needs a formula in the kernel and one in the reference, and nothing else.


@pytest.mark.parametrize("block", BLOCKS)
def test_columns_stand_in_the_tables_order(block: str) -> None:
    names = [feature.name for feature in BLOCKS[block]]
    assert BY_NAME[block]._fields == tuple(names) and tuple(BY_NAME[block]) == tuple(range(len(names)))
    assert len(set(names)) == len(names)


def test_the_first_column_tells_whether_a_row_holds_a_model() -> None:
    assert SLOT.occupied == PENDING.present == THERE


@pytest.mark.parametrize("part", PARTS)
def test_the_kernel_computes_a_feature_in_the_function_that_the_table_names(part: Part) -> None:
    block = part if part in BLOCKS else "slot"
    functions = {node.name: node for node in ast.parse(Path(kernel.__file__).read_text()).body if hasattr(node, "name")}
    # A branch for a target and one without write the same two features.
    stored = set(stored_by(functions[f"{part}_features"]))
    assert stored == {f"{block.upper()}.{feature.name}" for feature in BLOCKS[block] if feature.part == part}


def test_every_feature_is_of_a_part_of_its_block() -> None:
    parts = {block: {feature.part for feature in features} for block, features in BLOCKS.items()}
    assert parts == {"slot": {"place", "demand", "target", "session"}, "pending": {"pending"}, "context": {"context"}}


def test_every_feature_has_a_group_and_every_group_features() -> None:
    assert {feature.group for feature in every_feature()} == set(GROUPS)


def test_a_feature_is_called_the_same_wherever_it_stands() -> None:
    said = {(feature.name, feature.unit, feature.group, feature.phrase) for feature in every_feature()}
    explained = {name: phrase for name, _, _, phrase in said}
    assert all(explained.values())
    shared = [name for name in SLOT._fields if name in PENDING._fields]
    for name in shared:
        mine, other = SLOT_FEATURES[getattr(SLOT, name)], PENDING_FEATURES[getattr(PENDING, name)]
        assert (mine.phrase, mine.group, mine.unit) == (other.phrase, other.group, other.unit), name


def test_the_kernel_counts_no_features_by_hand() -> None:
    sizes = {len(features) for features in BLOCKS.values()}
    for path in KERNEL.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and len(node.args) == 1:
                size = node.args[0]
                assert not (isinstance(size, ast.Constant) and size.value in sizes), f"{path.name}:{node.lineno}"


def test_a_rule_reads_no_further_than_its_features() -> None:
    def reads(name: str) -> int:
        return parts_read(rules.FEATURES, weigh(**{name: 1.0}))

    assert [reads(name) for name in ("greedy_dual", "rate_1m", "worth", "again_5m")] == [
        rules.OF_PLACE, rules.OF_DEMAND, rules.OF_TARGET, rules.OF_SESSIONS,
    ]  # fmt: skip
    assert parts_read(rules.TERMS, ()) == rules.OF_DEMAND and parts_read(rules.BELADY, ()) == rules.OF_PLACE


def test_every_number_has_a_unit_a_scale_and_a_meaning() -> None:
    for feature in every_feature():
        assert feature.unit and feature.scale > 0 and feature.doc
        assert feature.unit != "flag" or (feature.scale == 1.0 and not feature.log)


def test_layout_splits_what_it_names() -> None:
    layout = ObservationLayout(max_slots=3, max_pending=2)
    assert len(layout.names) == len(set(layout.names)) == layout.size
    assert layout.size == 3 * len(SLOT) + 2 * len(PENDING) + len(CONTEXT)
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
    """Requests that have not arrived ask for something else, from another model, by another user, and later."""
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
