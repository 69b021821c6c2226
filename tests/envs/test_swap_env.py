"""Claims about Swap-v0 alone: which model to load, and whether to wait. What both share is tested with Eviction-v0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env import evaluate
from cace_env.config import ConfigError
from cace_env.envs import Actor, EvictionEnv, SwapEnv, SwapVectorEnv
from cace_env.evaluation.episodes import PolicyError
from cace_env.kernel.state import ABSENT, MODEL, RESIDENT
from cace_env.observation import CONTEXT, PENDING, SLOT
from cace_env.tables import NONE
from tests.support.envs import first_legal, last_legal, metrics_of, played, rollout, roomy, short
from tests.support.small import EVERYDAY
from tests.support.vector_runs import scenarios

PREFETCHING = short(rules={"prefetch_limit": 25})


def wait(env: SwapEnv) -> int:
    """The number of waiting."""
    return env.simulators.num_actions - 1


# ---------------------------------------------------------------------------------------------------------------------
# What is asked


@pytest.mark.parametrize("name", ["default", "sleep-mode", "agents", "mixed-gpus"])
def test_the_mask_allows_what_may_be_done(name: str) -> None:
    env = SwapEnv(short(name))
    rng = np.random.default_rng(1)
    observation, info = env.reset(seed=4)
    asked = {"which": 0, "whom": 0}
    over = False
    while not over:
        slots, models, waiting = np.split(info["action_mask"], [env.layout.max_slots, -1])
        assert info["action_mask"].sum() >= 2
        blocks = env.layout.split(observation)
        np.testing.assert_array_equal(slots, blocks.slots[:, SLOT.legal])
        np.testing.assert_array_equal(models, blocks.pending[:, PENDING.legal])
        assert waiting[0] == blocks.context[CONTEXT.wait_legal]
        ordering = bool(blocks.context[CONTEXT.ordering])
        asked["which" if ordering else "whom"] += 1
        state = env.simulator.state
        if ordering:
            assert not slots.any() and not blocks.pending[:, PENDING.target].any()
            for model in np.flatnonzero(models):
                assert state.models[model, MODEL.phase] == ABSENT and state.models[model, MODEL.waiting] > 0
                assert f"load {env.tables.model_names[model]} (action {env.layout.max_slots + model})" in env.describe()
            assert ("wait" in env.describe()) == bool(waiting[0])
        else:
            assert not models.any() and not waiting[0]
            assert blocks.pending[:, PENDING.target].sum() == 1
            for slot in np.flatnonzero(slots):
                assert state.models[state.slots[slot], MODEL.phase] == RESIDENT
                assert env.tables.pinned_on[state.slots[slot]] == NONE
                assert f"{env.tables.model_names[state.slots[slot]]} (slot {slot})" in env.describe()
        observation, _, terminated, truncated, info = env.step(int(rng.choice(np.flatnonzero(info["action_mask"]))))
        over = terminated or truncated
    assert min(asked.values()) > 5
    np.testing.assert_array_equal(info["action_mask"], [1] + [0] * wait(env))


def test_a_row_of_the_models_is_always_the_same_model() -> None:
    env = SwapEnv(short())
    needs_gb = env.tables.need_bytes * 1e-9
    for observation, *_ in rollout(env, last_legal, seed=1):
        pending = env.layout.split(env.layout.physical(observation)).pending
        present = pending[:, PENDING.present] == 1
        np.testing.assert_allclose(pending[present, PENDING.need_gb], needs_gb[present], rtol=1e-5)
        assert not pending[~present].any()


def test_a_model_is_loaded_when_it_is_chosen() -> None:
    env = SwapEnv(short())
    _, info = env.reset(seed=2)
    chosen = 0
    for _ in range(30):
        action = first_legal(info)
        model = action - env.layout.max_slots
        *_, terminated, _, info = env.step(action)
        if terminated:
            break
        if model >= 0:
            assert env.simulator.state.models[model, MODEL.phase] != ABSENT or env.simulator.question.target == model
            chosen += 1
    assert chosen > 5


def test_time_passes_while_one_waits() -> None:
    env = SwapEnv(short())
    _, info = env.reset(seed=3)
    waits = 0
    while waits < 5:
        if not info["action_mask"][-1]:
            *_, info = env.step(first_legal(info))
            continue
        before_s = info["time_s"]
        *_, info = env.step(wait(env))
        assert info["time_s"] > before_s
        waits += 1
    assert env.simulator.totals().waits == 5


@pytest.mark.parametrize("name", EVERYDAY)
def test_whoever_waits_whenever_he_may_still_gets_to_the_end(name: str) -> None:
    env = SwapEnv(short(name))
    rollout(env, last_legal, seed=1)
    metrics = metrics_of(env)
    assert metrics["answered"] + metrics["refused"] == 300
    assert metrics["waits"] > 0


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), name=st.sampled_from(["default", "priced", "asleep"]), prefetches=st.integers(0, 30))
def test_any_play_comes_to_an_end_and_prefetches_no_more_than_it_may(seed: int, name: str, prefetches: int) -> None:
    rng = np.random.default_rng(seed)
    scenario = scenarios()[name].replace(rules={"prefetch_limit": prefetches})
    env = SwapEnv(scenario)
    rows = rollout(env, lambda info: int(rng.choice(np.flatnonzero(info["action_mask"]))), seed=seed)
    assert rows[-1][2] and metrics_of(env)["prefetches"] <= prefetches


def test_models_that_nobody_waits_for_may_be_loaded_where_the_scenario_says_so() -> None:
    env = SwapEnv(PREFETCHING)
    rng = np.random.default_rng(0)
    rows = rollout(env, lambda info: int(rng.choice(np.flatnonzero(info["action_mask"]))), seed=1)
    legal = [env.layout.split(env.layout.physical(row[0])).pending for row in rows[:-1]]
    assert any(((pending[:, PENDING.legal] == 1) & (pending[:, PENDING.waiting] == 0)).any() for pending in legal)
    assert metrics_of(env)["prefetches"] == 25


def test_the_same_seed_brings_the_same_users_to_both_environments() -> None:
    swap, eviction = SwapEnv(short()), EvictionEnv(short())
    _, info = swap.reset(seed=5)
    assert eviction.reset(seed=5)[1]["workload_seed"] == info["workload_seed"]
    assert swap.workload is not None and eviction.workload is not None
    np.testing.assert_array_equal(swap.workload.arrival_us, eviction.workload.arrival_us)


@pytest.mark.parametrize("make", [SwapEnv, lambda scenario, **rows: SwapVectorEnv(2, scenario, **rows)])
def test_every_model_has_a_row(make: Any) -> None:
    models = SwapEnv(short()).tables.num_models
    with pytest.raises(ValueError, match=f"max_pending is 3, but in Swap-v0 each of {models} models has a row"):
        make(short(), max_pending=3)
    wide = make(short(), max_pending=models + 4)
    assert wide.simulators.num_actions == wide.layout.max_slots + models + 4 + 1


def test_rows_behind_the_last_model_change_nothing() -> None:
    narrow, wide = SwapEnv(short()), SwapEnv(short(), max_pending=20)
    slots, models = narrow.layout.max_slots, narrow.tables.num_models
    rows = rollout(narrow, last_legal, seed=1), rollout(wide, last_legal, seed=1)
    for a, b in zip(*rows, strict=True):
        assert a[1:4] == b[1:4]
        mask = b[-1]["action_mask"]
        assert not mask[slots + models : -1].any()
        np.testing.assert_array_equal(a[-1]["action_mask"], np.delete(mask, slice(slots + models, -1)))


# ---------------------------------------------------------------------------------------------------------------------
# Policies


@pytest.mark.parametrize("rows", [None, 20], ids=["", "more-rows-than-models"])
@pytest.mark.parametrize(
    "policy",
    ["lru", "fifo+cace", "wsjf+cace", "wsjf-max-wait+lfu", "shortest-load+gdsf", "llama-swap+lru", "wsjf+belady-cost"],
)
def test_an_actor_plays_the_episode_that_evaluate_runs(policy: str, rows: int | None) -> None:
    scenario = short("mixed-gpus")
    for seed in (3, 4):
        expected = evaluate(policy, scenario, [seed], protocol="swap").rows[0]
        cost, actions = played(policy, SwapEnv(scenario, max_pending=rows), seed)
        assert cost == expected["cost"] and len(actions) > 5


class HeaviestFirst:
    """A Python policy with an order of its own."""

    def __call__(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return features[:, SLOT.since_load_s]

    def order(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return np.append(features[:, PENDING.waiting_weight], -1.0)


def drop_newest(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Evicts the model that was loaded last."""
    return features[:, SLOT.since_load_s]


@pytest.mark.parametrize("rows", [None, 20], ids=["", "more-rows-than-models"])
@pytest.mark.parametrize("policy", [HeaviestFirst(), drop_newest, "wsjf+tests.envs.test_swap_env:drop_newest"])
def test_a_python_policy_acts_as_evaluate_runs_it(policy: Any, rows: int | None) -> None:
    scenario = short()
    expected = evaluate(policy, scenario, [3], protocol="swap").rows[0]
    assert played(policy, SwapEnv(scenario, max_pending=rows), 3)[0] == expected["cost"]


def test_orders_differ() -> None:
    env = SwapEnv(short("mixed-gpus"))
    assert len({played(policy, env, 3)[0] for policy in ("fifo+lru", "wsjf+lru", "shortest-load+lru")}) == 3


@pytest.mark.parametrize("policy", ["patient-fifo+lru", "patient-wsjf+cace"])
def test_an_order_that_wants_to_be_woken_is_refused_or_cut_down_to_its_choices(policy: str) -> None:
    env = SwapEnv(short())
    with pytest.raises(ConfigError, match=r"a count limit or a timer, but in cace_env/Swap-v0 .*=True"):
        Actor(policy, env)
    assert played(policy, env, 1, choices_only=True)[0] > 0


@pytest.mark.parametrize("policy", ["wsjf+lru", "wsjf+tests.envs.test_swap_env:drop_newest"])
def test_where_nobody_asks_for_an_order_there_is_none(policy: str) -> None:
    with pytest.raises(ConfigError, match="has an order, but Eviction-v0 does not ask for one"):
        Actor(policy, EvictionEnv(short()))


def test_an_order_that_fails_is_named() -> None:
    class Broken(HeaviestFirst):
        def order(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
            return np.zeros(2)

    env = SwapEnv(short())
    env.reset(seed=1)
    actor = Actor(Broken(), env)
    actor.reset(1)
    with pytest.raises(PolicyError, match=r"has shape \(2,\); it has to be one score per model"):
        actor.act()


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_every_question_can_be_drawn(mode: str) -> None:
    if mode == "rgb_array":
        pytest.importorskip("PIL", reason="needs the extra render")
    env = SwapEnv(PREFETCHING, render_mode=mode)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=1)
    for _ in range(25):
        assert env.render() is not None
        *_, info = env.step(int(rng.choice(np.flatnonzero(info["action_mask"]))))
    env.close()


def test_the_text_names_the_models_that_could_be_loaded_and_the_choice() -> None:
    env = SwapEnv(short(), render_mode="ansi")
    _, info = env.reset(seed=1)
    while not (info["action_mask"][-1] and info["action_mask"].sum() >= 3):
        *_, info = env.step(last_legal(info))
    text = env.render()
    assert isinstance(text, str)
    assert "asked now: which model to load" in text and ", or wait" in text
    assert max(map(len, text.splitlines())) <= 120
    for action in np.flatnonzero(info["action_mask"])[:-1]:
        assert f"{action:<7}{env.tables.model_names[action - env.layout.max_slots]}" in text
    env.step(wait(env))
    after = env.render()
    assert isinstance(after, str) and f"> {wait(env):<7}wait" in after


def test_where_everything_fits_nobody_is_evicted() -> None:
    env = SwapEnv(roomy())
    rollout(env, seed=1)
    assert metrics_of(env)["evictions"] == 0
