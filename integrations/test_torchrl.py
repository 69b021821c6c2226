"""Claims about the environment in TorchRL; collected by `make test-torchrl` only, which installs it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction
from torchrl.envs import EnvBase, GymWrapper, check_env_specs

from cace_env.wrappers import DictObservation, VectorDictObservation
from examples import torchrl_ppo

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

EVICTION = "cace_env:cace_env/Eviction-v0"
ENVS = 3
DECISIONS = 12  # so episodes end often
SEED = 5


def short_env() -> GymWrapper:
    env = gym.make(EVICTION, strict=True, max_episode_steps=DECISIONS)
    return GymWrapper(DictObservation(env), categorical_action_encoding=True)


def short_vector_env() -> GymWrapper:
    envs = gym.make_vec(EVICTION, ENVS, strict=True, autoreset_mode="Disabled", max_episode_steps=DECISIONS)
    return GymWrapper(VectorDictObservation(envs), categorical_action_encoding=True)


@pytest.mark.parametrize("make", [torchrl_ppo.make_env, torchrl_ppo.make_vector_env, short_env, short_vector_env])
def test_specs_describe_what_the_environment_returns(make) -> None:
    check_env_specs(torchrl_ppo.masked(make()))  # plays random, masked actions; an illegal one would raise


@pytest.mark.parametrize(("make", "num_envs"), [(short_env, 1), (short_vector_env, ENVS)])
def test_torchrl_sees_what_gymnasium_sees_through_episode_ends(make, num_envs: int) -> None:
    env = make()
    plain = [gym.make(EVICTION, max_episode_steps=DECISIONS) for _ in range(num_envs)]
    seen = [single.reset(seed=SEED + i) for i, single in enumerate(plain)]
    data = env.reset(seed=SEED)
    for _ in range(3 * DECISIONS):
        observations, masks = (np.stack(part) for part in zip(*((o, i["action_mask"]) for o, i in seen), strict=True))
        np.testing.assert_array_equal(data["observation"].reshape(num_envs, -1), observations)
        np.testing.assert_array_equal(data["action_mask"].reshape(num_envs, -1), masks)
        actions = masks.shape[1] - 1 - masks[:, ::-1].argmax(axis=1)  # the last legal slot of each
        data["action"] = torch.as_tensor(actions).reshape(env.batch_size)
        stepped, data = env.step_and_maybe_reset(data)
        seen = []
        for i, (single, action) in enumerate(zip(plain, actions, strict=True)):
            observation, reward, terminated, truncated, info = single.step(action)
            after = stepped["next"].reshape(num_envs)[i]
            np.testing.assert_array_equal(after["observation"], observation)
            assert after["reward"].item() == np.float32(reward)
            assert (after["terminated"].item(), after["truncated"].item()) == (terminated, truncated)
            seen.append(single.reset() if terminated or truncated else (observation, info))


def test_an_illegal_action_would_not_go_unnoticed() -> None:
    env = torchrl_ppo.make_env()
    data = env.reset(seed=SEED)
    data["action"] = (~data["action_mask"]).int().argmax()
    with pytest.raises(InvalidAction):
        env.step(data)


@pytest.mark.parametrize("make", [torchrl_ppo.make_env, torchrl_ppo.make_vector_env])
def test_policy_gives_illegal_actions_no_probability(make) -> None:
    env: EnvBase = make()
    actor = torchrl_ppo.make_actor(env)
    data = env.reset(seed=SEED)
    probabilities = actor.get_dist(data).probs
    assert (probabilities[~data["action_mask"]] == 0).all()
    assert (probabilities[data["action_mask"]] > 0).all()


def test_example_trains_and_plays_legal_actions_only(capsys: pytest.CaptureFixture[str]) -> None:
    result = torchrl_ppo.main(["--steps", "8000"])
    assert result.invalid_actions == 0
    assert 0.5 < result.cost / result.lru_cost < 2
    assert "illegal actions" in capsys.readouterr().out
