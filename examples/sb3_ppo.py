"""Stable-Baselines3: PPO or DQN on the vector environment, without masks.

    python examples/sb3_ppo.py --steps 300000
    python examples/sb3_ppo.py --algorithm dqn --steps 100000

What to take from it:

- `EvictionVecEnv(64, scenario=...)` is the `VecEnv` that SB3 wants: all environments in one simulator, what
  `DummyVecEnv` would say of them, at a small part of its time. Episode returns and lengths are in SB3's log.
- Rewards are tens in one step: `VecNormalize` scales them. Observations have fixed scales and need no statistics, so
  the agent is used without the wrapper.
- PPO and DQN of SB3 know no masks. An illegal action is replaced by the first legal one and costs `invalid_penalty`;
  each slot's feature `legal` lets the network learn to avoid it. `sb3_contrib_maskable_ppo.py` spares it that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import cace_env
from cace_env.sb3 import EvictionVecEnv
from cace_env.scenarios import seeds

PPO_ENVS, PPO_DECISIONS = 64, 64  # decisions of each environment between two updates
DQN_ENVS = 8
VALIDATION_EPISODES = 10


class Result(NamedTuple):
    """Mean over the validation seeds."""

    cost: float
    lru_cost: float
    invalid_actions: int


def make_agent(algorithm: str, scenario: str, seed: int) -> BaseAlgorithm:
    """An untrained agent with its environments."""
    if algorithm == "ppo":
        venv = VecNormalize(EvictionVecEnv(PPO_ENVS, scenario=scenario), norm_obs=False)
        return PPO(
            "MlpPolicy", venv, n_steps=PPO_DECISIONS, batch_size=512, n_epochs=4, ent_coef=0.01, seed=seed, device="cpu"
        )
    venv = VecNormalize(EvictionVecEnv(DQN_ENVS, scenario=scenario), norm_obs=False)
    return DQN(
        "MlpPolicy",
        venv,
        learning_rate=3e-4,
        buffer_size=50_000,
        learning_starts=1_000,
        batch_size=128,
        train_freq=4,  # steps of all environments
        gradient_steps=4,
        target_update_interval=1_000,
        exploration_fraction=0.3,
        seed=seed,
        device="cpu",
    )


def validate(agent: BaseAlgorithm, scenario: str) -> Result:
    """Plays the agent's best actions, against LRU on the same requests."""
    split = seeds("validation", VALIDATION_EPISODES)
    venv = EvictionVecEnv(len(split), scenario=scenario, split="validation")
    venv.seed(split[0])  # environment i plays validation seed i
    finished: list[dict[str, Any]] = []

    def note(step: dict[str, Any], _: dict[str, Any]) -> None:
        if step["done"]:
            finished.append(step["info"])

    evaluate_policy(agent, venv, n_eval_episodes=len(split), callback=note)
    cost = sum(info["episode_metrics"]["cost"] for info in finished) / len(finished)
    lru = cace_env.evaluate("lru", scenario, split).column("cost").mean()
    return Result(cost, float(lru), sum(info["invalid_action"] for info in finished))


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, validates and prints."""
    parser = argparse.ArgumentParser(description="PPO or DQN with Stable-Baselines3.")
    parser.add_argument("--algorithm", choices=("ppo", "dqn"), default="ppo")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--steps", type=int, default=300_000, help="decisions to train on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    agent = make_agent(options.algorithm, options.scenario, options.seed)
    agent.learn(options.steps)
    result = validate(agent, options.scenario)
    print(
        f"{options.scenario}: cost {result.cost:.0f}, LRU {result.lru_cost:.0f} "
        f"({100 * (1 - result.cost / result.lru_cost):+.1f} %), {result.invalid_actions} illegal actions"
    )
    return result


if __name__ == "__main__":
    main()
