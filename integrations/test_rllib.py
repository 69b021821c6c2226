"""Claims about the environment in RLlib; collected by `make test-rllib` only, which installs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from gymnasium.error import InvalidAction
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.torch_utils import FLOAT_MIN

from examples import rllib_ppo
from integrations.page import run, snippets

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

EVICTION = "cace_env:cace_env/Eviction-v0"
ENVS = 3
SEED = 5


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    ray.init(num_cpus=1, object_store_memory=rllib_ppo.OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def sample(scenario: Path, mode: str, decisions: int = 600) -> list[SingleAgentEpisode]:
    """What RLlib's own sampler brings home under an untrained masked policy."""
    config = rllib_ppo.configure(str(scenario), SEED, num_envs=ENVS, runners=0).env_runners(gym_env_vectorize_mode=mode)
    runner = SingleAgentEnvRunner(config=config)
    try:
        return runner.sample(num_timesteps=decisions, explore=True)
    finally:
        runner.stop()


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_rllib_sees_what_gymnasium_sees_through_episode_ends(short: Path, mode: str) -> None:
    episodes = sample(short, mode)
    assert sum(episode.is_done for episode in episodes) >= ENVS
    plain = gym.make(EVICTION, scenario=short)
    for episode in episodes:
        said = episode.get_observations()
        workload_seed = episode.get_infos(0)["workload_seed"]
        observation, info = plain.reset(options={"workload_seed": int(workload_seed)})
        for step, action in enumerate(episode.get_actions()):
            np.testing.assert_array_equal(said["observations"][step], observation)
            np.testing.assert_array_equal(said["action_mask"][step], info["action_mask"])
            assert said["action_mask"][step][action] == 1, "an illegal action"
            observation, reward, terminated, _, info = plain.step(action)
            assert episode.get_rewards(step) == pytest.approx(float(reward) * rllib_ppo.REWARD_SCALE)
        np.testing.assert_array_equal(said["observations"][-1], observation)
        assert episode.is_terminated == terminated


def test_an_illegal_action_would_not_go_unnoticed() -> None:
    env = rllib_ppo.make_env({"scenario": "default"})
    observation, _ = env.reset(seed=SEED)
    with pytest.raises(InvalidAction):
        env.step(int(observation["action_mask"].argmin()))


def test_module_gives_illegal_actions_no_probability() -> None:
    algorithm = rllib_ppo.configure(num_envs=1, runners=0).build_algo()
    try:
        observation, info = rllib_ppo.make_env({"scenario": "default"}).reset(seed=SEED)
        batch = {key: torch.from_numpy(value)[None] for key, value in observation.items()}
        logits = algorithm.get_module().forward_exploration({Columns.OBS: batch})[Columns.ACTION_DIST_INPUTS][0]
        np.testing.assert_array_equal(logits > FLOAT_MIN / 2, info["action_mask"] == 1)
    finally:
        algorithm.stop()


def test_example_trains_plays_legal_actions_only_and_shuts_ray_down(
    short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.shutdown()  # the example starts its own
    result = rllib_ppo.main(["--scenario", str(short), "--steps", "4096"])
    assert result.invalid_actions == 0
    assert 0.5 < result.cost / result.lru_cost < 2
    assert "illegal actions" in capsys.readouterr().out
    assert not ray.is_initialized()


def test_the_snippet_of_the_page_runs(tmp_path: Path) -> None:
    ray.shutdown()
    (code,) = snippets("RLlib")
    assert "512 decisions" in run(code, tmp_path)
