"""Claims about the environment in TorchRL; collected by `make test-torchrl` only, which installs it."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction
from torchrl.envs import ActionMask, EnvBase, GymWrapper, TransformedEnv, check_env_specs
from torchrl.envs.utils import ExplorationType, set_exploration_type

from cace_env import evaluate
from cace_env.policies import load_agent
from cace_env.wrappers import DictObservation, VectorDictObservation
from examples import torchrl_ppo
from integrations.page import run, snippets

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
    check_env_specs(TransformedEnv(make(), ActionMask()))  # plays random, masked actions; an illegal one would raise


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
    actor = torchrl_ppo.make_actor(torchrl_ppo.make_network("default"))
    data = env.reset(seed=SEED)
    probabilities = actor.get_dist(data).probs
    assert (probabilities[~data["action_mask"]] == 0).all()
    assert (probabilities[data["action_mask"]] > 0).all()


def test_the_agent_that_is_saved_plays_as_the_actor_does(short: Path, tmp_path: Path) -> None:
    torchrl_ppo.main(["--scenario", str(short), "--steps", "8000", "--folder", str(tmp_path)])
    agent, net = load_agent(tmp_path), torchrl_ppo.make_network(str(short))
    net.scores.begin_as(agent.network)
    actor, env = torchrl_ppo.make_actor(net), torchrl_ppo.make_env(str(short))
    data = env.reset(seed=SEED)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        for _ in range(50):
            observation = data["observation"].numpy()
            data = actor(data)
            assert data["action"].item() == agent.act(observation, net.layout)
            _, data = env.step_and_maybe_reset(data)


def test_example_trains_with_legal_actions_and_is_compared_with_lru(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gain = torchrl_ppo.main(["--scenario", str(short), "--steps", "8000", "--folder", str(tmp_path)])
    assert -100 < gain.percent < 50
    found = evaluate(f"agent:{tmp_path}", short, torchrl_ppo.VALIDATION)
    assert found.gain_over(evaluate("lru", short, torchrl_ppo.VALIDATION)) == gain
    assert f"saves {gain} of the cost" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 1])
def test_the_snippets_of_the_page_run(number: int, tmp_path: Path) -> None:
    code = snippets("TorchRL")[number]
    said = run(code, tmp_path)
    assert "illegal actions 0" in said if number == 0 else "60, 32" in said


def test_processes_of_torchrl_see_what_gymnasium_sees(tmp_path: Path) -> None:
    """As a script, as TorchRL spawns processes: `GymEnv(id, num_envs)` untouched, through ends of episodes."""
    code = f"""
import gymnasium as gym
import numpy as np
import torch
from torchrl.envs import GymEnv

SETTINGS = {{"scenario": "workstation", "max_episode_steps": 5}}

def main():
    env = GymEnv({EVICTION!r}, num_envs=2, categorical_action_encoding=True, **SETTINGS)
    data = env.rollout(14, lambda td: td.set("action", td["action_mask"].int().argmax(-1)), break_when_any_done=False)
    assert data["next", "done"].sum() >= 4, data["next", "done"].sum()
    plain = [gym.make({EVICTION!r}, **SETTINGS) for _ in range(2)]
    for i, single in enumerate(plain):
        for t in range(5):  # the first episode of each
            if t == 0:
                observation, info = single.reset(options={{"workload_seed": int(data["workload_seed"][i, 0])}})
            np.testing.assert_array_equal(data["observation"][i, t], observation)
            for name, value in info.items():
                np.testing.assert_allclose(data[name][i, t], value)
            observation, reward, *_, info = single.step(int(info["action_mask"].argmax()))
            assert data["next", "reward"][i, t].item() == np.float32(reward)
    print("equal")
    env.close()

if __name__ == "__main__":
    main()
"""
    assert "equal" in run(code, tmp_path)
