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
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.rllib.utils.torch_utils import FLOAT_MIN

from cace_env import evaluate
from cace_env.evaluation import save_agent
from cace_env.wrappers import DictObservation
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
    """What RLlib's own sampler brings home under an untrained policy."""
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
    plain = gym.make(EVICTION, scenario=short, baseline="lru")
    for episode in episodes:
        said = episode.get_observations()
        workload_seed = episode.get_infos(0)["workload_seed"]
        observation, info = plain.reset(options={"workload_seed": int(workload_seed)})
        for step, action in enumerate(episode.get_actions()):
            np.testing.assert_array_equal(said[step], observation)
            assert info["action_mask"][action] == 1, "an illegal action"
            observation, reward, terminated, _, info = plain.step(action)
            assert episode.get_rewards(step) == pytest.approx(float(reward))
        np.testing.assert_array_equal(said[-1], observation)
        assert episode.is_terminated == terminated


def test_an_illegal_action_would_not_go_unnoticed() -> None:
    env = rllib_ppo.make_env({"scenario": "default"})
    _, info = env.reset(seed=SEED)
    with pytest.raises(InvalidAction):
        env.step(int(info["action_mask"].argmin()))


def test_rllib_s_own_module_for_masks_finds_them_in_the_observation() -> None:
    env = DictObservation(gym.make(EVICTION), "rllib")
    spec = RLModuleSpec(
        module_class=ActionMaskingTorchRLModule,
        observation_space=env.observation_space,
        action_space=env.action_space,
        model_config={"head_fcnet_hiddens": [16]},
        catalog_class=PPOCatalog,
    )
    observation, info = env.reset(seed=SEED)
    batch = {key: torch.from_numpy(value)[None] for key, value in observation.items()}
    logits = spec.build().forward_exploration({Columns.OBS: batch})[Columns.ACTION_DIST_INPUTS][0]
    np.testing.assert_array_equal(logits > FLOAT_MIN / 2, info["action_mask"] == 1)


def test_the_agent_that_is_saved_plays_as_the_module_does(tmp_path: Path) -> None:
    algorithm = rllib_ppo.configure(num_envs=1, runners=0).build_algo()
    try:
        module = algorithm.get_module()
        torch.manual_seed(SEED)
        for weight in module.net.scores.weights.values():
            torch.nn.init.normal_(weight)  # untrained scores are close to one another
        agent = save_agent(module.net, tmp_path)
        env = rllib_ppo.make_env({"scenario": "default"})
        observation, _ = env.reset(seed=SEED)
        for _ in range(50):
            batch = {Columns.OBS: torch.from_numpy(observation)[None]}
            with torch.no_grad():
                action = int(module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS].argmax())
            assert action == agent.act(observation, module.net.layout)
            observation, *_ = env.step(action)
    finally:
        algorithm.stop()


def test_example_trains_is_compared_with_lru_and_shuts_ray_down(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.shutdown()  # the example starts its own
    gain = rllib_ppo.main(["--scenario", str(short), "--steps", "4096", "--folder", str(tmp_path)])
    assert -100 < gain.percent < 50
    found = evaluate(f"agent:{tmp_path}", short, rllib_ppo.VALIDATION)
    assert found.gain_over(evaluate("lru", short, rllib_ppo.VALIDATION)) == gain
    assert f"saves {gain} of the cost" in capsys.readouterr().out
    assert not ray.is_initialized()


def test_the_snippet_of_the_page_runs(tmp_path: Path) -> None:
    ray.shutdown()
    (code,) = snippets("RLlib")
    assert "512 decisions" in run(code, tmp_path)
