"""Claims about the environment in AgileRL; collected by `make test-agilerl` only, which installs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from agilerl.algorithms import DQN, PPO
from agilerl.utils.utils import make_vect_envs

from integrations.page import run, snippets

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

EVICTION = "cace_env:cace_env/Eviction-v0"
ENVS = 3


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("native", [True, False], ids=["native", "its own vector"])
def test_agents_choose_legal_actions_by_the_mask_of_the_infos(algorithm: type, native: bool) -> None:
    settings: dict[str, Any] = {"scenario": "workstation", "strict": True}  # an illegal action would raise
    if native:
        envs = gym.make_vec(EVICTION, num_envs=ENVS, autoreset_mode="SameStep", **settings)
    else:
        envs = make_vect_envs(EVICTION, ENVS, should_async_vector=False, **settings)
    agent = algorithm(envs.single_observation_space, envs.single_action_space)
    observations, infos = envs.reset(seed=0)
    for _ in range(20):
        masks = infos["action_mask"]
        chosen = agent.get_action(observations, action_mask=masks)
        actions = np.asarray(chosen[0] if isinstance(chosen, tuple) else chosen)
        assert masks[np.arange(ENVS), actions].all()
        observations, _, _, _, infos = envs.step(actions)
    envs.close()


def test_the_snippet_of_the_page_trains(tmp_path: Path) -> None:
    (code,) = snippets("AgileRL")
    assert run(code, tmp_path).strip()
