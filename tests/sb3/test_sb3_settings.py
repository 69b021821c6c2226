"""Claims about what SB3's algorithms are set to: hyperparameters that ship, and a discount per second."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import cace_env
from agents.sb3.config import DQNConfig, PPOConfig
from cace_env.config import ConfigError
from cace_env.sb3 import (
    DiscountPerSecond,
    EvictionVecEnv,
    MaskableDQN,
    MaskableQRDQN,
    SwapVecEnv,
    TimedReplayBuffer,
    TimedRolloutBuffer,
    hyperparameters,
)
from cace_env.tables import Protocol
from cace_env.wrappers import DictObservation
from tests.support.envs import short

BOX, TWO = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)


def venv_of(num_envs: int = 3, **settings: Any) -> EvictionVecEnv:
    return EvictionVecEnv(num_envs, scenario=short("workstation", 80), **settings)


# ---------------------------------------------------------------------------------------------------------------------
# Hyperparameters


@pytest.mark.parametrize("env", Protocol)
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("ppo", PPO), ("maskable-ppo", MaskablePPO), ("dqn", MaskableDQN), ("qrdqn", MaskableQRDQN)],
)
def test_hyperparameters_are_arguments_of_their_algorithm(name: Any, algorithm: Any, env: Any):
    kind = EvictionVecEnv if env == Protocol.EVICTION else SwapVecEnv
    model = algorithm("SlotPolicy", kind(6, scenario="workstation"), device="cpu", **hyperparameters(name, env))
    assert model.gamma == hyperparameters(name, env)["gamma"]
    assert model.lr_schedule(1.0) > 0 == model.lr_schedule(0.0)


def test_hyperparameters_that_ship_are_the_defaults_of_trainings():
    """But for what a run of any length needs: schedules over steps."""
    shared = ("n_steps", "batch_size", "gamma", "max_grad_norm")
    for name, config, more in (
        ("maskable-ppo", PPOConfig(), ("n_epochs", "gae_lambda", "clip_range", "target_kl", "ent_coef", "vf_coef")),
        ("ppo", PPOConfig(), ("n_epochs", "gae_lambda", "clip_range", "target_kl", "ent_coef", "vf_coef")),
        ("qrdqn", DQNConfig(), ("buffer_size", "learning_starts", "gradient_steps")),
        ("dqn", DQNConfig(), ("buffer_size", "learning_starts", "gradient_steps")),
    ):
        settings = hyperparameters(name)  # type: ignore[arg-type]
        assert {key: settings[key] for key in shared + more} == {key: getattr(config, key) for key in shared + more}
        sizes = settings["policy_kwargs"]
        assert (sizes["hidden"], sizes["value_hidden"]) == (config.hidden, config.value_hidden)
        assert settings["learning_rate"](1.0) == config.learning_rate


def test_a_changed_copy_leaves_the_hyperparameters_as_they_are():
    hyperparameters("ppo")["policy_kwargs"]["hidden"] = 1
    assert hyperparameters("ppo")["policy_kwargs"]["hidden"] == 32


def test_misspelt_names_are_refused():
    with pytest.raises(ConfigError, match="'maskable-ppo'"):
        hyperparameters("ppo_mask")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'swap'"):
        hyperparameters("ppo", "Swap")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# A discount per second


def rollouts(gamma_per_s: float, gae_lambda: float, elapsed_s: list[float], starts: list[float]) -> TimedRolloutBuffer:
    """Three decisions of one environment: rewards 1, 2, 4 and values 10, 20, 40."""
    buffer = TimedRolloutBuffer(3, BOX, TWO, gae_lambda=gae_lambda, gamma_per_s=gamma_per_s)
    for step in range(3):
        buffer.elapsed_s[buffer.pos] = elapsed_s[step]
        reward, value = np.array([1.0, 2.0, 4.0])[[step]], torch.tensor([10.0, 20.0, 40.0])[step]
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), reward, np.array([starts[step]]), value, torch.zeros(1))
    return buffer


def test_advantages_are_those_of_a_semi_markov_process_by_hand():
    """0.5 a second; 1, 2 and 3 seconds: discounts 0.5, 0.25, 0.125; lambda 0.5; the state after is worth 80."""
    buffer = rollouts(0.5, 0.5, [1.0, 2.0, 3.0], [1.0, 0.0, 0.0])
    buffer.compute_returns_and_advantage(torch.tensor([80.0]), np.array([False]))
    third = 4 + 0.125 * 80 - 40
    second = (2 + 0.25 * 40 - 20) + 0.25 * 0.5 * third
    first = (1 + 0.5 * 20 - 10) + 0.5 * 0.5 * second
    np.testing.assert_allclose(buffer.advantages[:, 0], [first, second, third])
    np.testing.assert_allclose(buffer.returns[:, 0], [first + 10, second + 20, third + 40])


def test_advantages_stop_where_an_episode_ends():
    """The third decision begins an episode, and ends it."""
    buffer = rollouts(0.5, 0.5, [1.0, 2.0, 3.0], [1.0, 0.0, 1.0])
    buffer.compute_returns_and_advantage(torch.tensor([80.0]), np.array([True]))
    np.testing.assert_allclose(buffer.advantages[:, 0], [1 + 0.5 * 20 - 10 + 0.25 * (2 - 20), 2 - 20, 4 - 40])


def test_with_equal_steps_of_a_second_everything_is_as_sb3_has_it():
    timed = rollouts(0.9, 0.7, [1.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    theirs: Any = super(type(timed).__mro__[1], timed)
    timed.compute_returns_and_advantage(torch.tensor([80.0]), np.array([False]))
    mine, timed.gamma = timed.advantages.copy(), 0.9
    theirs.compute_returns_and_advantage(torch.tensor([80.0]), np.array([False]))
    np.testing.assert_allclose(timed.advantages, mine, rtol=1e-6)


def test_returns_of_several_steps_are_discounted_by_the_time_of_each():
    """Rewards 1, 2, 4, 8; 1 to 4 seconds; an episode ends with the third: from the second on, two steps are summed."""
    buffer = TimedReplayBuffer(10, BOX, TWO, n_steps=3, gamma_per_s=0.5)
    for step in range(4):
        buffer.elapsed_s[buffer.pos] = step + 1.0
        done, row = np.array([step == 2]), np.full((1, 1), step / 10)
        buffer.add(row, row + 0.1, np.zeros((1, 1)), np.array([2.0**step]), done, [{}])
    samples = buffer._get_samples(np.arange(4))
    rewards = [1 + 0.5 * 2 + 0.125 * 4, 2 + 0.25 * 4, 4.0, 8.0]
    np.testing.assert_allclose(samples.rewards[:, 0], rewards)
    assert samples.discounts is not None
    np.testing.assert_allclose(samples.discounts[:, 0], [0.5**6, 0.5**5, 0.5**3, 0.5**4])
    assert samples.dones[:, 0].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(samples.next_observations[:, 0], [0.3, 0.3, 0.3, 0.4], rtol=1e-6)


class Times(BaseCallback):
    """What the environment says passed, of one environment."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed_s: list[float] = []

    def _on_step(self) -> bool:
        env: Any = self.training_env
        infos = self.locals["infos"]
        self.elapsed_s.append(infos[0]["elapsed_s"] if "elapsed_s" in infos[0] else env.step_infos["elapsed_s"][0])
        return True


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO, DQN, MaskableQRDQN])
def test_an_algorithm_learns_by_the_time_that_the_environment_says(algorithm: Any, single: bool):
    if single:
        venv: Any = make_vec_env(cace_env.EVICTION_ID, 2, env_kwargs={"scenario": short("workstation", 80)})
    else:
        venv = venv_of(2)
    on_policy = algorithm in (PPO, MaskablePPO)
    settings = {"n_steps": 20, "batch_size": 20} if on_policy else {"buffer_size": 100, "learning_starts": 20}
    model = algorithm("SlotPolicy", venv, device="cpu", **settings)
    times, discounting = Times(), DiscountPerSecond(0.97)
    model.learn(40, callback=[times, discounting])
    buffer = model.rollout_buffer if on_policy else model.replay_buffer
    assert buffer.gamma_per_s == 0.97
    np.testing.assert_array_equal(buffer.elapsed_s[:20, 0], times.elapsed_s[:20])
    assert len(set(times.elapsed_s)) > 10
    model.learn(40, callback=discounting)  # goes on with what it has


def test_a_discount_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"gamma_per_s is 1\.5"):
        DiscountPerSecond(1.5)
    tables = make_vec_env(
        cace_env.EVICTION_ID,
        env_kwargs={"scenario": short("workstation", 80)},
        wrapper_class=DictObservation,
        wrapper_kwargs={"form": "rllib"},
    )
    for algorithm, sizes in ((PPO, {"n_steps": 20, "batch_size": 20}), (DQN, {"buffer_size": 100})):
        with pytest.raises(ConfigError, match=f"{algorithm.__name__} on a Dict has no buffer"):
            algorithm("MultiInputPolicy", tables, device="cpu", **sizes).learn(30, callback=DiscountPerSecond(0.9))
    model = DQN("SlotPolicy", venv_of(), buffer_size=100, learning_starts=90, device="cpu")
    model.learn(30)
    with pytest.raises(ConfigError, match="without their times"):
        model.learn(30, callback=DiscountPerSecond(0.9))
