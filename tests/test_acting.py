"""Claims about actors: a policy asked step by step in the environment is the policy that `evaluate` runs."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from cace_env import evaluate
from cace_env.acting import Actor
from cace_env.config import ConfigError
from cace_env.env import EvictionEnv
from cace_env.evaluation import PolicyError
from cace_env.observation import SLOT
from cace_env.policies import POLICIES
from tests.test_env import first_legal, roomy, short

WITH_LIMITS = sorted(
    row.name for row in POLICIES.values() if row.keep_alive_s is not None or row.max_resident is not None
)


def played(policy: Any, env: EvictionEnv, seed: int, **arguments: Any) -> tuple[float, list[int]]:
    """Cost and actions of an episode under an actor."""
    actor = Actor(policy, env, **arguments)
    _, info = env.reset(seed=seed)
    actor.reset(info["workload_seed"])
    actions = []
    over = False
    while not over:
        actions.append(actor.act())
        assert info["action_mask"][actions[-1]] == 1
        *_, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated
    return info["episode_metrics"]["cost"], actions


def drop_first(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Evicts the model that was loaded last."""
    return features[:, SLOT.since_load_s]


@pytest.mark.parametrize("policy", [*sorted(set(POLICIES) - set(WITH_LIMITS)), drop_first])
def test_an_actor_plays_the_episode_that_evaluate_runs(policy: Any) -> None:
    scenario = short("mixed-gpus", requests=300)
    for seed in (3, 4):
        row = evaluate(policy, scenario, [seed]).rows[0]
        cost, actions = played(policy, EvictionEnv(scenario), seed)
        assert cost == row["cost"]
        assert len(actions) > 5


def test_an_actor_changes_nothing_and_answers_the_same_twice() -> None:
    seen, unseen = EvictionEnv(short()), EvictionEnv(short())
    actor = Actor("belady-cost", seen)
    result: tuple[Any, ...] = seen.reset(seed=1)
    np.testing.assert_equal(result, unseen.reset(seed=1))
    actor.reset(1)
    for _ in range(20):
        action = actor.act()
        assert actor.act() == action
        result = seen.step(action)
        np.testing.assert_equal(result, unseen.step(action))


def test_an_actor_can_begin_again_and_take_over_in_the_middle() -> None:
    env = EvictionEnv(short())
    assert played("belady", env, 1) == played("belady", env, 1)
    actor = Actor("lru", env)
    _, info = env.reset(seed=1)
    for _ in range(10):
        *_, info = env.step(first_legal(info))
    actor.reset()
    slots = env.simulator.features()
    legal = np.flatnonzero(info["action_mask"])
    assert actor.act() == legal[slots[legal, SLOT.since_use_s].argmax()]


def test_an_actor_sees_through_wrappers() -> None:
    env = gymnasium.wrappers.TransformReward(
        gymnasium.make("cace_env/Eviction-v0", scenario=short()), lambda reward: float(reward) / 10
    )
    _, info = env.reset(seed=1)
    actor = Actor("lru", env)
    actor.reset()
    assert info["action_mask"][actor.act()] == 1


def test_where_nothing_is_asked_an_actor_does_nothing() -> None:
    env = EvictionEnv(roomy())
    assert played("lru", env, 1)[1] == [0]


@pytest.mark.parametrize("name", WITH_LIMITS)
def test_a_policy_that_evicts_unasked_is_refused_or_cut_down_to_its_choices(name: str) -> None:
    env = EvictionEnv(short())
    with pytest.raises(ConfigError, match=f"{name!r} has a keep-alive or a count limit.*choices_only=True"):
        Actor(name, env)
    cost, _ = played(name, env, 1, choices_only=True)
    assert cost > 0


def test_what_cannot_act_is_refused() -> None:
    env = EvictionEnv(short())
    with pytest.raises(ConfigError, match="room for everything"):
        Actor("no-swapping", env)
    with pytest.raises(ConfigError, match="did you mean 'lru'"):
        Actor("lur", env)
    with pytest.raises(ConfigError, match=r"CartPoleEnv.* is none"):
        Actor("lru", gymnasium.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="reset the environment first"):
        Actor("lru", env).reset()
    with pytest.raises(ConfigError, match=r"call reset after env\.reset"):
        Actor("lru", env).act()
    env.reset(seed=1)
    with pytest.raises(ConfigError, match=r"call reset after env\.reset"):
        Actor("lru", env).act()


def test_a_python_policy_that_fails_is_named_with_seed_and_decision() -> None:
    def broken(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("no idea")

    env = EvictionEnv(short())
    env.reset(seed=1)
    actor = Actor(broken, env)
    actor.reset(1)
    with pytest.raises(PolicyError, match="policy 'broken', seed 1, decision 0: ZeroDivisionError: no idea"):
        actor.act()
