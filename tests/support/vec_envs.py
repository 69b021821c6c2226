"""Vector environments of Stable-Baselines3, ours and its own, and comparisons of what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from cace_env.sb3 import EvictionVecEnv, FleetVecEnv, SwapVecEnv
from cace_env.scenarios import Scenario
from tests.kinds import EVICTION, SWAP, Kind
from tests.support.envs import short

ENVS = 3
FIRST_SEED = 5


FINISHES = short("workstation", 120)  # tens of decisions an episode
CUT = short("workstation", 120, rules={"max_decisions": 5})  # truncates most episodes


ADAPTERS = {EVICTION.id: EvictionVecEnv, SWAP.id: SwapVecEnv}


def dummy(scenario: Scenario = FINISHES, num_envs: int = ENVS, kind: Kind = EVICTION, **settings: Any) -> DummyVecEnv:
    """What the adapter is compared with."""
    return DummyVecEnv([lambda: Monitor(kind.single(scenario, **settings))] * num_envs)


def singles(scenario: Scenario = FINISHES, num_envs: int = ENVS, kind: Kind = EVICTION, **settings: Any) -> FleetVecEnv:
    """The adapter over single environments, stepped one by one."""
    envs = SyncVectorEnv([lambda: kind.single(scenario, **settings)] * num_envs, autoreset_mode="SameStep")
    return ADAPTERS[kind.id](vector_env=envs)


def native(scenario: Scenario = FINISHES, num_envs: int = ENVS, kind: Kind = EVICTION, **settings: Any) -> FleetVecEnv:
    """The adapter over the native vector environment, which it makes itself."""
    venv = ADAPTERS[kind.id](num_envs, scenario=scenario, **settings)
    assert isinstance(venv.vector_env, kind.many)
    return venv


Make = Callable[..., FleetVecEnv]
both = pytest.mark.parametrize("make", [native, singles])


def num_actions(venv: VecEnv) -> int:
    assert isinstance(venv.action_space, gymnasium.spaces.Discrete)
    return int(venv.action_space.n)


def masks_of(venv: VecEnv) -> np.ndarray:
    return np.stack(venv.env_method("action_masks"))


def wild(venv: VecEnv, random: np.random.Generator) -> np.ndarray:
    """Mostly legal actions, some illegal."""
    noise = random.random((venv.num_envs, num_actions(venv)))
    return np.argmax(noise + 0.8 * masks_of(venv), axis=1)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal to the bit; NaN equals NaN."""
    assert type(ours) is type(theirs)
    if isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
    np.testing.assert_equal(ours, theirs)


def assert_same_info(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Everything but the seconds of wall time that the monitor notes, and the metrics, which SB3 does not hand on."""
    ours, theirs = ours.copy(), theirs.copy()
    if "episode_metrics" not in theirs:
        ours.pop("episode_metrics", None)
    if "episode" in theirs:
        our_episode, their_episode = ours.pop("episode"), theirs.pop("episode")
        assert our_episode.keys() == their_episode.keys() == {"r", "l", "t"}
        assert our_episode["l"] == their_episode["l"]
        assert our_episode["r"] == pytest.approx(their_episode["r"], abs=2e-6)  # sum() compensates from Python 3.12 on
        assert 0 <= our_episode["t"] < 60
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert_same(ours[key], theirs[key])
