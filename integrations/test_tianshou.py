"""Claims about the environment in Tianshou; collected by `make test-tianshou` only, which installs it."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction
from tianshou.algorithm import DQN
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
from tianshou.env import BaseVectorEnv, DummyVectorEnv, SubprocVectorEnv
from tianshou.utils.torch_utils import policy_within_training_step

from cace_env import evaluate
from cace_env.evaluation import save_agent
from cace_env.wrappers import DictObservation
from examples import tianshou_dqn
from integrations.page import run, snippets

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

EVICTION = "cace_env:cace_env/Eviction-v0"
ENVS = 3
DECISIONS = 12  # so episodes end often
SEED = 5


def short_env() -> gym.Env:
    return DictObservation(gym.make(EVICTION, strict=True, max_episode_steps=DECISIONS), "tianshou")


@pytest.mark.parametrize("kind", [DummyVectorEnv, SubprocVectorEnv])
def test_tianshou_sees_what_gymnasium_sees_through_episode_ends(kind: type[BaseVectorEnv]) -> None:
    envs = kind([short_env] * ENVS)
    plain = [gym.make(EVICTION, max_episode_steps=DECISIONS) for _ in range(ENVS)]
    envs.seed(SEED)  # plays the seeds' first decision; the next reset draws from their generators
    for i, single in enumerate(plain):
        single.reset(seed=SEED + i)
    said, _ = envs.reset()
    seen = [single.reset() for single in plain]
    for decision in range(3 * DECISIONS):
        for mine, (observation, info) in zip(said, seen, strict=True):
            np.testing.assert_array_equal(mine["obs"], observation)
            np.testing.assert_array_equal(mine["mask"], info["action_mask"])
        actions = np.array([np.flatnonzero(info["action_mask"])[-1] for _, info in seen])
        said, rewards, terminations, truncations, _ = envs.step(actions)
        results = [single.step(action) for single, action in zip(plain, actions, strict=True)]
        assert [result[1:4] for result in results] == list(zip(rewards, terminations, truncations, strict=True))
        seen = [(result[0], result[4]) for result in results]
        if decision % DECISIONS == DECISIONS - 1:  # Tianshou resets what is done by itself
            assert all(truncations)
            said, _ = envs.reset()
            seen = [single.reset() for single in plain]
    envs.close()


def test_an_illegal_action_would_not_go_unnoticed() -> None:
    envs = DummyVectorEnv([tianshou_dqn.make_env])
    observations, _ = envs.reset(seed=SEED)
    with pytest.raises(InvalidAction):
        envs.step([int((~observations[0]["mask"]).argmax())])


@pytest.mark.parametrize("eps", [0.0, 1.0], ids=["greedy", "random"])
def test_policy_chooses_legal_actions_whatever_its_network_says(eps: float) -> None:
    env = tianshou_dqn.make_env()
    policy = tianshou_dqn.make_policy(env, eps_training=eps)
    with torch.no_grad():  # loves some slots far more than others, legal or not
        for parameter in policy.model.parameters():
            parameter.copy_(torch.linspace(1e3, -1e3, parameter.numel()).reshape(parameter.shape))
    buffer = VectorReplayBuffer(ENVS * DECISIONS * 10, ENVS)
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory())
    collector = Collector[CollectStats](algorithm, DummyVectorEnv([short_env] * ENVS), buffer, exploration_noise=True)
    collector.reset()
    with policy_within_training_step(policy):
        collector.collect(n_step=ENVS * DECISIONS * 4)
    stored = buffer[:]
    assert len(stored) == ENVS * DECISIONS * 4
    assert stored.obs.mask[np.arange(len(stored)), stored.act].all()
    assert not stored.obs.mask.all()


def test_every_row_of_a_batch_obeys_its_own_mask() -> None:
    env = tianshou_dqn.make_env()
    policy = tianshou_dqn.make_policy(env)
    observation, _ = env.reset(seed=SEED)
    legal = np.flatnonzero(observation["mask"])
    assert len(legal) > 1
    masks = np.eye(len(observation["mask"]), dtype=bool)[legal]  # each time another one is all that is left
    observations = np.repeat(observation["obs"][None], len(masks), axis=0)
    chosen = policy(Batch(obs=Batch(obs=observations, mask=masks), info=Batch())).act
    np.testing.assert_array_equal(chosen, legal)


def test_the_agent_that_is_saved_plays_as_the_policy_does(tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    env = tianshou_dqn.make_env()
    policy = tianshou_dqn.make_policy(env)
    for weight in policy.model.scores.weights.values():
        torch.nn.init.normal_(weight)  # untrained scores are close to one another
    agent = save_agent(policy.model, tmp_path)
    observation, _ = env.reset(seed=SEED)
    for _ in range(50):
        batch = Batch(obs=Batch({key: value[None] for key, value in observation.items()}), info=Batch())
        with torch.no_grad():
            action = policy(batch).act[0]
        assert action == agent.act(observation["obs"], policy.model.layout)
        observation, *_ = env.step(action)


def test_example_trains_with_legal_actions_and_is_compared_with_lru(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gain = tianshou_dqn.main(["--scenario", str(short), "--steps", "2000", "--folder", str(tmp_path)])
    assert -100 < gain.percent < 50
    found = evaluate(f"agent:{tmp_path}", short, tianshou_dqn.VALIDATION)
    assert found.gain_over(evaluate("lru", short, tianshou_dqn.VALIDATION)) == gain
    assert f"saves {gain} of the cost" in capsys.readouterr().out


def test_the_snippet_of_the_page_runs(tmp_path: Path) -> None:
    (code,) = snippets("Tianshou")
    assert "400 decisions" in run(code, tmp_path)
