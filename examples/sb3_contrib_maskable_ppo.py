"""sb3-contrib: MaskablePPO, which never considers an illegal victim, or QR-DQN.

    python examples/sb3_contrib_maskable_ppo.py --steps 300000
    python examples/sb3_contrib_maskable_ppo.py --algorithm qr-dqn --steps 100000

What to take from it:

- MaskablePPO asks `EvictionVecEnv` for the masks by itself (`env_method("action_masks")`): no wrapper is needed, and
  its own `evaluate_policy` uses them, too.
- `strict=True`: an illegal action raises. MaskablePPO trains without an error because there is none; QR-DQN knows no
  masks and is left to learn from the penalty.
- The agent is saved and loaded as any other. To play without an environment around, hand `predict` the mask:
  `agent.predict(observation, action_masks=info["action_mask"].astype(bool), deterministic=True)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from sb3_contrib import QRDQN, MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked_policy
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


def make_agent(algorithm: str, scenario: str, seed: int) -> MaskablePPO | QRDQN:
    """An untrained agent with its environments."""
    if algorithm == "maskable-ppo":
        venv = VecNormalize(EvictionVecEnv(PPO_ENVS, scenario=scenario, strict=True), norm_obs=False)
        return MaskablePPO(
            "MlpPolicy", venv, n_steps=PPO_DECISIONS, batch_size=512, n_epochs=4, ent_coef=0.01, seed=seed, device="cpu"
        )
    venv = VecNormalize(EvictionVecEnv(DQN_ENVS, scenario=scenario), norm_obs=False)
    return QRDQN(
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
        policy_kwargs={"n_quantiles": 25},
        seed=seed,
        device="cpu",
    )


def validate(agent: MaskablePPO | QRDQN, scenario: str) -> Result:
    """Plays the agent's best actions, against LRU on the same requests."""
    split = seeds("validation", VALIDATION_EPISODES)
    venv = EvictionVecEnv(len(split), scenario=scenario, split="validation")
    venv.seed(split[0])  # environment i plays validation seed i
    finished: list[dict[str, Any]] = []

    def note(step: dict[str, Any], _: dict[str, Any]) -> None:
        if step["done"]:
            finished.append(step["info"])

    if isinstance(agent, MaskablePPO):
        evaluate_masked_policy(agent, venv, n_eval_episodes=len(split), callback=note)
    else:
        evaluate_policy(agent, venv, n_eval_episodes=len(split), callback=note)
    cost = sum(info["episode_metrics"]["cost"] for info in finished) / len(finished)
    lru = cace_env.evaluate("lru", scenario, split).column("cost").mean()
    return Result(cost, float(lru), sum(info["invalid_action"] for info in finished))


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, validates and prints."""
    parser = argparse.ArgumentParser(description="MaskablePPO or QR-DQN with sb3-contrib.")
    parser.add_argument("--algorithm", choices=("maskable-ppo", "qr-dqn"), default="maskable-ppo")
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
