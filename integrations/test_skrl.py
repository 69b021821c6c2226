"""Claims about the environment in skrl; collected by `make test-skrl` only, which installs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from skrl.envs.wrappers.torch import wrap_env

from integrations.page import run, snippets

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

EVICTION = "cace_env:cace_env/Eviction-v0"
ENVS = 3
SEED = 5


def test_a_single_environment_needs_no_line() -> None:
    plain: Any = gym.make(EVICTION, scenario="workstation")
    env = wrap_env(gym.make(EVICTION, scenario="workstation"), verbose=False)
    assert env.num_envs == 1 and env.observation_space == plain.observation_space
    observation, info = env.reset()
    assert observation.shape == (1, *plain.observation_space.shape)
    action = torch.tensor([[int(info["action_mask"].argmax())]])
    observation, reward, terminated, _, info = env.step(action)
    assert reward.item() < 0 and not terminated.item() and info["invalid_action"] == 0


def test_skrl_sees_what_gymnasium_sees_through_episode_ends() -> None:
    def make(mode: AutoresetMode) -> gym.vector.VectorEnv:
        settings: dict[str, Any] = {"scenario": "workstation", "baseline": "lru", "autoreset_mode": mode}
        return gym.make_vec(EVICTION, num_envs=ENVS, max_episode_steps=7, **settings)

    env, plain = (
        wrap_env(make(AutoresetMode.SAME_STEP), wrapper="gymnasium", verbose=False),
        make(AutoresetMode.SAME_STEP),
    )
    env._seed = SEED  # skrl takes it from its own global seed
    seen, infos = plain.reset(seed=SEED)
    said, _ = env.reset()
    ended = 0
    for _ in range(40):
        np.testing.assert_array_equal(said.numpy(), seen)
        actions = infos["action_mask"].argmax(axis=1)
        said, rewards, terminated, truncated, _ = env.step(torch.as_tensor(actions)[:, None])
        seen, plain_rewards, plain_terminated, plain_truncated, infos = plain.step(actions)
        np.testing.assert_array_equal(rewards.numpy()[:, 0], plain_rewards.astype(np.float32))
        np.testing.assert_array_equal(terminated.numpy()[:, 0], plain_terminated)
        np.testing.assert_array_equal(truncated.numpy()[:, 0], plain_truncated)
        ended += int((plain_terminated | plain_truncated).sum())
    assert ended >= ENVS


def test_the_snippet_of_the_page_trains(tmp_path: Path) -> None:
    (code,) = snippets("skrl")
    run(code, tmp_path)
