"""PPO with a limit: everything done as soon as possible, while hardly any completion waits long for its first token.

    python examples/ppo_lagrangian.py --steps 120000
    python examples/ppo_lagrangian.py --threshold 2 --share 0.08

What to take from it:

- `VectorCostLimit` puts the cost of the limit into `infos["cost"]`: here completions whose time to first token has come
  to exceed `--threshold` seconds. At most `--share` of the completions may be late; 0.05 would say that their p95 is at
  most the threshold.
- A Lagrangian needs no library: `multiplier` x cost is taken from the reward, and after each rollout the multiplier is
  raised if the rollout's episodes cost more than allowed, else lowered (Ray, Achiam and Amodei, Benchmarking Safe
  Exploration in Deep Reinforcement Learning, 2019). So it goes around any algorithm for discrete actions, with masks.
- The same agent without a limit is trained beside it, so that you see what the limit costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper

import cace_env
from cace_env.sb3 import EvictionVecEnv, hyperparameters
from cace_env.scenarios import load_scenario, seeds
from cace_env.wrappers import VectorCostLimit

TASK = "completion"
ENVS = 60
RATE = 0.3  # by which the multiplier grows after a rollout that cost twice what is allowed


class Result(NamedTuple):
    """Over all validation episodes."""

    late_share: float  # of the completions
    e2e_s: float  # mean of all requests


class Penalised(VecEnvWrapper):
    """Takes `multiplier` x the cost of the limit from the reward, and remembers what the rollout has cost."""

    def __init__(self, venv: EvictionVecEnv) -> None:
        super().__init__(venv)
        self.limited = venv
        self.multiplier = 0.0
        self.costs: list[float] = []  # a decision's, mean over the environments

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        said = self.limited.step_infos
        costs = said["cost"] + (said["final_info"]["cost"] if dones.any() else 0.0)  # of the last step of an episode
        self.costs.append(float(costs.mean()))
        return observations, (rewards - self.multiplier * costs).astype(np.float32), dones, infos


class RaiseMultiplier(BaseCallback):
    """The multiplier's step after each rollout.

    Args:
        penalised: whose multiplier it is.
        allowed: cost of a decision.
    """

    def __init__(self, penalised: Penalised, allowed: float) -> None:
        super().__init__()
        self.penalised, self.allowed = penalised, allowed

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        excess = float(np.mean(self.penalised.costs)) / self.allowed - 1
        self.penalised.multiplier = max(0.0, self.penalised.multiplier + RATE * excess)
        self.penalised.costs.clear()


def limited(num_envs: int, scenario: Any, threshold_s: float, **settings: Any) -> VectorCostLimit:
    """Environments whose infos say what the limit costs."""
    envs = gym.make_vec(f"cace_env:{cace_env.EVICTION_ID}", num_envs=num_envs, scenario=scenario, **settings)
    return VectorCostLimit(envs, "late_requests", threshold_s=threshold_s, task=TASK)


def train(scenario: Any, threshold_s: float, allowed: float, steps: int, seed: int) -> tuple[MaskablePPO, float]:
    """An agent whose decisions may cost so much, and the multiplier it came to; without a limit if that is infinite."""
    envs = limited(ENVS, scenario, threshold_s, baseline="lru", autoreset_mode="SameStep")
    penalised = Penalised(EvictionVecEnv(vector_env=envs))
    agent = MaskablePPO("SlotPolicy", penalised, **hyperparameters("maskable-ppo"), seed=seed, device="cpu")
    agent.learn(steps, callback=RaiseMultiplier(penalised, allowed))
    return agent, penalised.multiplier


def validate(agent: MaskablePPO, scenario: Any, threshold_s: float, episodes: Sequence[int]) -> Result:
    """Plays the agent's best actions."""
    envs = limited(len(episodes), scenario, threshold_s, split="validation")
    observations, infos = envs.reset(seed=episodes[0])  # environment i plays the i-th of consecutive seeds
    late, running = np.zeros(len(episodes)), np.ones(len(episodes), dtype=bool)
    e2e_s = np.zeros(len(episodes))
    while running.any():
        actions, _ = agent.predict(observations, action_masks=envs.action_masks(), deterministic=True)
        observations, _, terminated, truncated, infos = envs.step(actions)
        late += np.where(running, infos["cost"], 0.0)
        over = running & (terminated | truncated)
        if over.any():
            e2e_s[over] = envs.unwrapped.episode_metrics["e2e_mean_s"][over]  # type: ignore[attr-defined]
        running &= ~over
    envs.close()
    completions = cace_env.evaluate("lru", scenario, episodes).column(f"{TASK}_requests").sum()
    return Result(float(late.sum() / completions), float(e2e_s.mean()))


def main(arguments: Sequence[str] | None = None) -> tuple[Result, Result]:
    """Trains without and with the limit, validates and prints both."""
    parser = argparse.ArgumentParser(description="PPO-Lagrangian: E2E low, while few completions are late.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--threshold", type=float, default=1.0, help="TTFT over which a completion is late [s]")
    parser.add_argument("--share", type=float, default=0.09, help="of the completions that may be late")
    parser.add_argument("--steps", type=int, default=120_000, help="decisions to train each of the two on")
    parser.add_argument("--seeds", type=int, default=30, help="validation seeds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scenario = load_scenario(options.scenario).replace(reward="e2e")  # every second in the system costs the same
    episodes = seeds("validation", options.seeds)
    lru = cace_env.evaluate("lru", scenario, episodes)
    # An episode may have so many late completions; by the number of decisions that LRU has, so many a decision.
    allowed = options.share * float(lru.column(f"{TASK}_requests").sum() / lru.column("decisions").sum())
    print(
        f"{scenario.name}: {options.share:.1%} of completions may wait over {options.threshold:g} s for a first token"
    )
    lru_e2e_s = float(lru.column("e2e_mean_s").mean())
    results = []
    for name, cost in (("without a limit", np.inf), ("with the limit", allowed)):
        agent, multiplier = train(scenario, options.threshold, cost, options.steps, options.seed)
        results.append(validate(agent, scenario, options.threshold, episodes))
        late_share, e2e_s = results[-1]
        saved = f"{100 * (1 - e2e_s / lru_e2e_s):+.1f} % against LRU"
        print(f"{name}: {late_share:.2%} do, E2E {e2e_s:.2f} s ({saved}), multiplier {multiplier:.2f}")
    return results[0], results[1]


if __name__ == "__main__":
    main()
