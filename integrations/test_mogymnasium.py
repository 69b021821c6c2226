"""Claims about the environments in MO-Gymnasium; collected by `make test-mogymnasium` only, which installs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import mo_gymnasium as mo_gym
import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from mo_gymnasium.wrappers import LinearReward, MOClipReward, MONormalizeReward, MORecordEpisodeStatistics
from mo_gymnasium.wrappers.vector import MORecordEpisodeStatistics as VectorStatistics
from mo_gymnasium.wrappers.vector import MOSyncVectorEnv

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

IDS = ("cace_env:cace_env/MO-Eviction-v0", "cace_env:cace_env/MO-Swap-v0")
METRICS = ("completion_waiting_s", "system_s", "load_s", "evictions")


def play(env: gym.Env, seed: int = 1) -> tuple[Any, dict[str, Any]]:
    """The sum of an episode's rewards, and its last info."""
    _, info = env.reset(seed=seed)
    total: Any = 0.0
    over = False
    while not over:
        _, reward, terminated, truncated, info = env.step(int(info["action_mask"].argmax()))
        total, over = total + reward, terminated or truncated
    return total, info


@pytest.mark.parametrize("env_id", IDS)
def test_make_gives_rewards_that_sum_to_the_metrics(env_id: str, short: Path) -> None:
    total, info = play(mo_gym.make(env_id, scenario=short))
    np.testing.assert_allclose(-total, [info["episode_metrics"][name] for name in METRICS])


@pytest.mark.parametrize("env_id", IDS)
def test_a_linear_reward_is_the_weighted_sum(env_id: str, short: Path) -> None:
    weight = np.array([0.7, 0.3, 0.0, 0.1])
    total, info = play(LinearReward(mo_gym.make(env_id, scenario=short), weight=weight))
    amounts = [info["episode_metrics"][name] for name in METRICS]
    assert total == pytest.approx(-float(weight @ amounts))
    assert info["vector_reward"].shape == (4,)


@pytest.mark.parametrize("env_id", IDS)
def test_single_wrappers_read_it(env_id: str, short: Path) -> None:
    env = MORecordEpisodeStatistics(mo_gym.make(env_id, scenario=short), gamma=0.99)
    total, info = play(env)
    np.testing.assert_allclose(info["episode"]["r"], total, rtol=1e-4)  # it adds up in float32
    assert (info["episode"]["dr"] > info["episode"]["r"]).all()
    shaped = MONormalizeReward(MOClipReward(mo_gym.make(env_id, scenario=short), 0, -1.0, 0.0), 1)
    changed, _ = play(shaped)
    assert changed[0] > total[0]
    assert changed[1] != total[1]
    assert changed[2:].tolist() == total[2:].tolist()


@pytest.mark.parametrize("env_id", IDS)
def test_its_vector_of_single_ones_and_the_native_one_say_the_same(env_id: str, short: Path) -> None:
    envs: list[VectorEnv] = [
        VectorStatistics(MOSyncVectorEnv([lambda: mo_gym.make(env_id, scenario=short)] * 3)),
        VectorStatistics(gym.make_vec(env_id, num_envs=3, scenario=short)),
    ]
    infos = [env.reset(seed=4)[1] for env in envs]
    finished = 0
    for _ in range(150):
        masks = [info["action_mask"] for info in infos]
        np.testing.assert_array_equal(*masks)
        steps = [env.step(masks[0].argmax(axis=1)) for env in envs]
        one, other = (np.asarray(step[1]) for step in steps)
        assert one.shape == other.shape == (3, 4)
        np.testing.assert_allclose(one, other, rtol=1e-6)  # the former keeps float32
        infos = [step[4] for step in steps]
        assert ("episode" in infos[0]) == ("episode" in infos[1])
        if "episode" in infos[0]:
            finished += int(infos[0]["_episode"].sum())
            np.testing.assert_allclose(infos[0]["episode"]["r"], infos[1]["episode"]["r"], rtol=1e-4)
    assert finished >= 3
