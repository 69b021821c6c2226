"""Claims about "SlotPolicy": made of the spaces alone, for every algorithm, saved by SB3, and legal without masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import cace_env
from cace_env.config import ConfigError
from cace_env.networks import ActionValues, ActorCritic
from cace_env.observation import ObservationLayout
from cace_env.policies.spaces import layout_of
from cace_env.sb3 import (
    DQNSlotPolicy,
    EvictionVecEnv,
    MaskableDQN,
    MaskableQRDQN,
    MaskableSlotPolicy,
    QRDQNSlotPolicy,
    SlotPolicy,
    SwapVecEnv,
    score_network,
)
from tests.support.envs import short

PPO_SETTINGS: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}
DQN_SETTINGS: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "train_freq": 1}
ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ppo": (PPO, SlotPolicy, PPO_SETTINGS),
    "maskable-ppo": (MaskablePPO, MaskableSlotPolicy, PPO_SETTINGS),
    "dqn": (DQN, DQNSlotPolicy, DQN_SETTINGS),
    "maskable-dqn": (MaskableDQN, DQNSlotPolicy, DQN_SETTINGS),
    "qrdqn": (QRDQN, QRDQNSlotPolicy, DQN_SETTINGS),
    "maskable-qrdqn": (MaskableQRDQN, QRDQNSlotPolicy, DQN_SETTINGS),
}


def venv_of(kind: type = EvictionVecEnv, num_envs: int = 4, **settings: Any) -> Any:
    return kind(num_envs, scenario=[short("workstation", 80), short("default", 80)], **settings)


def model_of(name: str, venv: Any, policy: str | type = "SlotPolicy", **kwargs: Any) -> Any:
    algorithm, _, settings = ALGORITHMS[name]
    sizes = {"hidden": 4, "value_hidden": 5} | ({"n_quantiles": 3} if "qrdqn" in name else {})
    return algorithm(policy, venv, policy_kwargs=sizes | kwargs, seed=0, device="cpu", **settings)


# ---------------------------------------------------------------------------------------------------------------------
# Spaces


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("pending", [0, 1, 2, 9, 30])
def test_spaces_tell_layout_and_environment_of_every_fleet(slots: int, pending: int):
    layout = ObservationLayout(slots, pending)
    observations = spaces.Box(layout.low, layout.high)
    assert layout_of(observations, spaces.Discrete(slots)) == (layout, "eviction")
    assert layout_of(observations, spaces.Discrete(slots + pending + 1)) == (layout, "swap")


def test_spaces_of_the_environments_tell_what_they_are():
    for env_id, protocol in ((cace_env.EVICTION_ID, "eviction"), (cace_env.SWAP_ID, "swap")):
        env = gymnasium.make(env_id, scenario="workstation")
        assert layout_of(env.observation_space, env.action_space) == (env.get_wrapper_attr("layout"), protocol)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (spaces.Box(0, 1, (7,)), spaces.Discrete(3), "no fleet has observations of"),
        (spaces.Box(0, 1, (4, 95)), spaces.Discrete(2), "flat Box"),
        (spaces.Dict({"observation": spaces.Box(0, 1, (95,))}), spaces.Discrete(2), "flat Box"),
        (spaces.Box(0, 1, (95,)), spaces.Box(0, 1, (2,)), "Discrete"),
    ],
)
def test_foreign_spaces_are_refused(observations: Any, actions: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        layout_of(observations, actions)


def test_networks_take_observations_of_any_shape_in_front():
    """As RLlib and TorchRL hand them over: time and environments, or one observation alone."""
    venv = venv_of(SwapVecEnv)
    seen = torch.from_numpy(venv.reset())
    both = venv.observation_space, venv.action_space
    net, values = ActorCritic.of_spaces(*both), ActionValues.of_spaces(*both, quantiles=3)
    stacked = seen.reshape(2, 2, -1)
    for part, alone in zip(net(stacked), net(seen), strict=True):
        torch.testing.assert_close(part.reshape(alone.shape), alone)
    torch.testing.assert_close(net(seen[0])[0], net(seen)[0][0], rtol=1e-4, atol=1e-5)
    assert values(stacked).shape == (2, 2, 3, venv.action_space.n)


# ---------------------------------------------------------------------------------------------------------------------
# Algorithms


@pytest.mark.parametrize("kind", [EvictionVecEnv, SwapVecEnv])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_knows_it_by_name_and_never_acts_illegally(name: str, kind: type, tmp_path: Path):
    """SB3 saves and loads the model as any other; a loaded one answers the same."""
    explores_anything = name in ("dqn", "qrdqn")
    venv = venv_of(kind, strict=not explores_anything)
    model = model_of(name, venv)
    algorithm, policy, _ = ALGORITHMS[name]
    assert type(model.policy) is policy
    model.learn(60)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    alone = policy.load(tmp_path / "policy", device="cpu")
    observations = venv.reset()
    actions, _ = model.predict(observations, deterministic=True)
    masks = np.array(venv.env_method("action_masks"))
    assert masks[np.arange(len(masks)), actions].all()
    assert loaded.predict(observations, deterministic=True)[0].tolist() == actions.tolist()
    assert alone.predict(observations, deterministic=True)[0].tolist() == actions.tolist()
    assert score_network(loaded.policy).hidden == 4


@pytest.mark.parametrize("name", ["ppo", "maskable-ppo", "dqn"])
def test_it_trains_on_single_environments_in_a_dummy_vec_env(name: str):
    venv = make_vec_env(cace_env.EVICTION_ID, n_envs=2, env_kwargs={"scenario": short("workstation", 80)})
    assert model_of(name, venv).learn(40).num_timesteps >= 40


def test_what_one_fleet_taught_plays_another():
    model = model_of("ppo", venv_of())
    small, large = (layout_of(v.observation_space, v.action_space)[0] for v in (venv_of(), venv_of(max_slots=20)))
    assert large.max_slots > small.max_slots
    network = score_network(model.policy)
    seen = torch.from_numpy(venv_of(max_slots=20).reset())
    assert network(seen, large).shape == (4, large.max_slots)


def test_normalised_observations_are_refused():
    venv = VecNormalize(venv_of(), norm_obs=True)
    with pytest.raises(ConfigError, match="norm_obs=False"):
        model_of("ppo", venv).learn(10)
    model_of("ppo", VecNormalize(venv_of(), norm_obs=False)).learn(10)


def test_there_is_no_net_arch():
    with pytest.raises(ConfigError, match="value_hidden"):
        model_of("dqn", venv_of(), net_arch=[64])


def test_masked_exploration_of_another_policy_is_legal_as_well():
    """Where everything is explored, nothing illegal is; the greedy action of an MlpPolicy is its own."""
    venv = venv_of(strict=True)
    model = MaskableDQN(
        "MlpPolicy", venv, exploration_final_eps=1.0, exploration_initial_eps=1.0, device="cpu", **DQN_SETTINGS
    )
    model.learn(60)
