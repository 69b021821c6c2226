"""Tianshou: double DQN that neither explores, exploits nor bootstraps with illegal victims.

    make test-tianshou                                    # builds .venvs/tianshou and tests this example
    .venvs/tianshou/bin/python examples/tianshou_dqn.py --steps 100000

What to take from it:

- `DictObservation(env, "tianshou")` gives `obs` and `mask`, which Tianshou's discrete Q policies look for. The mask
  holds for greedy and for random actions, and in the target too as long as `is_double` is left at True.
- `collector.collect(random=True)` samples the action space and knows no masks: explore by `eps_training` instead.
- Tianshou steps its own vector environments: single ones in this process (`DummyVectorEnv`) or in others
  (`SubprocVectorEnv`). They are created from functions, so each needs nothing but the id.
- The buffer stores infos, too, and refuses NaN: `WithoutInfo` leaves them out.
- `strict=True`: an illegal action raises. Training ends without an error because there is none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from torch import nn

import cace_env
from cace_env.observation import CONTEXT_FEATURES, SLOT_FEATURES, ObservationLayout
from cace_env.scenarios import seeds
from cace_env.wrappers import DictObservation

ENVS = 8
COLLECTED = 64  # decisions, of all environments, between two rounds of gradient steps
BATCH = 128
LEARNING_RATE = 3e-4
GAMMA = 0.95  # an eviction shows its price within tens of decisions
REWARD_SCALE = 0.01  # a decision costs about 5; returns of a few hundred become a few
VALIDATION_EPISODES = 10


class Result(NamedTuple):
    """Mean over the validation seeds."""

    cost: float
    lru_cost: float
    invalid_actions: int


class WithoutInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Empty infos: Tianshou's buffer stores them and refuses NaN, as metrics of a task without requests are."""

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**arguments)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return *self.env.step(action)[:4], {}


def make_env(scenario: str = "default") -> gym.Env[Any, Any]:
    """One environment, as Tianshou wants it, with rewards of a size that a network likes."""
    env = gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, strict=True)
    env = WithoutInfo(DictObservation(env, "tianshou"))
    return gym.wrappers.TransformReward(env, lambda reward: REWARD_SCALE * float(reward))


class SlotValues(nn.Module):
    """Q-values of the slots, `(N, size) -> (N, S)`, by weights that all slots share."""

    def __init__(self, layout: ObservationLayout, width: int = 64) -> None:
        super().__init__()
        self.split: Any = layout.split  # takes tensors apart as it does arrays
        self.value = nn.Sequential(
            nn.Linear(len(SLOT_FEATURES) + len(CONTEXT_FEATURES), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, obs: np.ndarray, state: Any = None, info: Any = None) -> tuple[torch.Tensor, Any]:
        slots, _, context = self.split(torch.as_tensor(obs))
        context = context.unsqueeze(-2).expand(*slots.shape[:-1], -1)
        return self.value(torch.cat([slots, context], dim=-1)).squeeze(-1), state


def make_policy(env: gym.Env[Any, Any], *, eps_training: float = 0.0) -> DiscreteQLearningPolicy[SlotValues]:
    """The legal slot of highest Q-value, or with `eps_training` any legal one."""
    return DiscreteQLearningPolicy(
        model=SlotValues(env.get_wrapper_attr("layout")),
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=eps_training,
    )


def train(scenario: str, steps: int, seed: int = 0) -> DiscreteQLearningPolicy[SlotValues]:
    """Double DQN with 5-step returns for about `steps` decisions."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: make_env(scenario) for _ in range(ENVS)])
    envs.seed(seed)
    policy = make_policy(make_env(scenario), eps_training=0.1)
    algorithm: DQN[DiscreteQLearningPolicy[SlotValues]] = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=LEARNING_RATE),
        gamma=GAMMA,
        n_step_return_horizon=5,
        target_update_freq=500,
    )
    collector = Collector[CollectStats](algorithm, envs, VectorReplayBuffer(50_000, ENVS), exploration_noise=True)
    collector.reset()
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=steps,
            collection_step_num_env_steps=COLLECTED,
            update_step_num_gradient_steps_per_sample=0.125,
            batch_size=BATCH,
            show_progress=False,
            verbose=False,
        )
    )
    envs.close()
    return policy


def validate(policy: DiscreteQLearningPolicy[SlotValues], scenario: str, workload_seeds: Iterable[int]) -> Result:
    """Plays the policy's best actions, against LRU on the same requests."""
    workload_seeds = list(workload_seeds)
    env = DictObservation(gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, split="validation"), "tianshou")
    costs, invalid = [], 0
    with torch.no_grad():
        for workload_seed in workload_seeds:
            observation, info = env.reset(options={"workload_seed": workload_seed})
            over = False
            while not over:
                batch = Batch(obs=Batch({key: value[None] for key, value in observation.items()}), info=Batch())
                observation, _, terminated, truncated, info = env.step(policy(batch).act[0])
                over = terminated or truncated
            costs.append(env.get_wrapper_attr("episode_metrics")["cost"])
            invalid += info["invalid_action"]
    lru = cace_env.evaluate("lru", scenario, workload_seeds).column("cost").mean()
    return Result(sum(costs) / len(costs), float(lru), invalid)


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, validates and prints."""
    parser = argparse.ArgumentParser(description="Masked double DQN with Tianshou.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--steps", type=int, default=100_000, help="decisions to train on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # networks this small gain nothing from threads
    policy = train(options.scenario, options.steps, options.seed)
    result = validate(policy, options.scenario, seeds("validation", VALIDATION_EPISODES))
    print(
        f"{options.scenario}: cost {result.cost:.0f}, LRU {result.lru_cost:.0f} "
        f"({100 * (1 - result.cost / result.lru_cost):+.1f} %), {result.invalid_actions} illegal actions"
    )
    return result


if __name__ == "__main__":
    main()
