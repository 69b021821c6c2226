"""Tianshou: double DQN with weights that all slots share.

    make test-tianshou                                    # builds .venvs/tianshou and tests this example
    .venvs/tianshou/bin/python examples/tianshou_dqn.py --steps 20000

What to take from it:

- `baseline="lru"`: a reward is what was saved against LRU, in units of what LRU pays per decision.
- `ActionValues` reads what is legal from the observation: the greedy action is legal, and so is the target's.
- `DictObservation(env, "tianshou")` gives `obs` and `mask`, which Tianshou's discrete Q policies look for: the mask
  holds for random actions, too. Only `collector.collect(random=True)` knows none: explore by `eps_training` instead.
- Tianshou steps its own vector environments: single ones in this process (`DummyVectorEnv`) or in others
  (`SubprocVectorEnv`). They are created from functions, so each needs nothing but the id.
- `strict=True`: an illegal action raises. Training ends without an error because there is none.
- `save_agent` makes it a policy among others: `agent:FOLDER`, which plays any fleet without torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams

from cace_env import evaluate
from cace_env.evaluation import Gain, save_agent, seeds_text
from cace_env.networks import ActionValues
from cace_env.scenarios import SEEDS, seeds
from cace_env.wrappers import DictObservation

ENVS = 20
COLLECTED = 120  # decisions, of all environments, between two rounds of gradient steps
BATCH = 256
BUFFER = 30_000
LEARNING_RATE = 1e-3
GAMMA, HORIZON = 0.97, 5  # returns of so many steps
VALIDATION = seeds("validation", 20)


class QValues(ActionValues):
    """`ActionValues` as Tianshou calls a network: with arrays, a state of recurrent ones, and infos."""

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[torch.Tensor, Any]:  # type: ignore[override]
        return super().forward(torch.as_tensor(obs)), state


def make_env(scenario: str = "default") -> gym.Env[Any, Any]:
    """One environment, as Tianshou wants it."""
    env = gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, baseline="lru", strict=True)
    return DictObservation(env, "tianshou")


def make_policy(env: gym.Env[Any, Any], *, eps_training: float = 0.0) -> DiscreteQLearningPolicy[QValues]:
    """The legal slot of highest Q-value, or with `eps_training` any legal one."""
    spaces = env.unwrapped
    return DiscreteQLearningPolicy(
        model=QValues.of_spaces(spaces.observation_space, spaces.action_space),
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=eps_training,
    )


def train(scenario: str, steps: int, seed: int = 0) -> DiscreteQLearningPolicy[QValues]:
    """Double DQN for about `steps` decisions."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: make_env(scenario) for _ in range(ENVS)])
    envs.seed(seed)
    policy = make_policy(make_env(scenario), eps_training=0.1)
    algorithm: DQN[DiscreteQLearningPolicy[QValues]] = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=LEARNING_RATE),
        gamma=GAMMA,
        n_step_return_horizon=HORIZON,
        target_update_freq=100,  # gradient steps
    )
    collector = Collector[CollectStats](algorithm, envs, VectorReplayBuffer(BUFFER, ENVS), exploration_noise=True)
    collector.reset()
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=steps,
            collection_step_num_env_steps=COLLECTED,
            update_step_num_gradient_steps_per_sample=1 / 30,
            batch_size=BATCH,
            show_progress=False,
            verbose=False,
        )
    )
    envs.close()
    return policy


def main(arguments: Sequence[str] | None = None) -> Gain:
    """Trains, saves, and prints what CACE, tuned CACE and the agent save against LRU on the same requests."""
    parser = argparse.ArgumentParser(description="Double DQN with Tianshou.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--steps", type=int, default=20_000, help="decisions to train on, of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="runs/tianshou_dqn", help="where the agent is saved")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # networks this small gain nothing from threads

    policy = train(options.scenario, options.steps, options.seed)
    save_agent(
        policy.model,
        options.folder,
        algorithm="tianshou-dqn",
        trained_on=(options.scenario,),
        train_seeds=seeds_text(SEEDS["train"]),
    )

    lru = evaluate("lru", options.scenario, VALIDATION)
    print(f"{options.scenario}: LRU costs {lru.column('cost').mean():.0f}")
    for each in ("cace", "cace:tuned-eviction", f"agent:{options.folder}"):
        gain = evaluate(each, options.scenario, VALIDATION).gain_over(lru)
        print(f"  {each}: saves {gain} of the cost")
    return gain


if __name__ == "__main__":
    main()
