"""Stable-Baselines3 and sb3-contrib: PPO, MaskablePPO, DQN or QR-DQN, with shared weights or with SB3's own networks.

    python examples/sb3_algorithms.py --algorithm maskable-ppo --steps 150000
    python examples/sb3_algorithms.py --algorithm dqn --policy MlpPolicy --steps 50000

What to take from it:

- `EvictionVecEnv(scenario=..., baseline="lru")` is the `VecEnv` that SB3 wants: 60 environments in one simulator. A
  reward is what was saved against LRU, in units of what LRU pays per decision, so it needs no `VecNormalize`.
- `hyperparameters(...)` are those that work, as a dict to be changed.
- `"SlotPolicy"` shares its weights among all slots, never takes an illegal action, and becomes an agent (`save_agent`)
  that plays any fleet without SB3.
- `"MlpPolicy"` learns for each slot anew what a big, idle model looks like. `contestant` plays it as it is, on fleets
  of the size that it was trained on. MaskablePPO asks the environments for masks by itself; PPO and DQN know none, so
  with `MlpPolicy` an illegal action becomes the first legal one and costs 1, as much as a decision of LRU.
- `MaskableDQN` and `MaskableQRDQN` explore legal actions only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from cace_env import evaluate
from cace_env.evaluation import Gain
from cace_env.sb3 import EvictionVecEnv, MaskableDQN, MaskableQRDQN, contestant, hyperparameters, save_agent
from cace_env.scenarios import seeds

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "maskable-ppo": MaskablePPO, "dqn": MaskableDQN, "qrdqn": MaskableQRDQN}
OF_SLOT_POLICY = ("hidden", "value_hidden")  # in `policy_kwargs`
VALIDATION = seeds("validation", 20)


def make_model(algorithm: str, policy: str, scenario: str, seed: int) -> BaseAlgorithm:
    """An untrained model with its environments."""
    settings = hyperparameters(algorithm)  # type: ignore[arg-type]
    if policy == "MlpPolicy":
        settings["policy_kwargs"] = {k: v for k, v in settings["policy_kwargs"].items() if k not in OF_SLOT_POLICY}
    always_legal = policy == "SlotPolicy" or algorithm == "maskable-ppo"
    venv = EvictionVecEnv(scenario=scenario, baseline="lru", strict=always_legal)  # strict: an illegal action raises
    model: BaseAlgorithm = ALGORITHMS[algorithm](policy, venv, seed=seed, device="cpu", **settings)
    return model


def main(arguments: Sequence[str] | None = None) -> Gain:
    """Trains, saves, and prints what CACE, tuned CACE and the agent save against LRU on the same requests."""
    parser = argparse.ArgumentParser(description="Algorithms of Stable-Baselines3 and sb3-contrib.")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="maskable-ppo")
    parser.add_argument("--policy", choices=("SlotPolicy", "MlpPolicy"), default="SlotPolicy")
    parser.add_argument("--scenario", default="default")
    parser.add_argument(
        "--steps", type=int, default=150_000, help="decisions to train on, of all environments together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="runs/sb3_algorithms", help="where the agent is saved")
    options = parser.parse_args(arguments)

    model = make_model(options.algorithm, options.policy, options.scenario, options.seed)
    model.learn(options.steps)
    if options.policy == "SlotPolicy":
        save_agent(model, options.folder)
        agent: Any = f"agent:{options.folder}"
    else:
        agent = contestant(model)

    lru = evaluate("lru", options.scenario, VALIDATION)
    print(f"{options.scenario}: LRU costs {lru.column('cost').mean():.0f}")
    for policy in ("cace", "cace:tuned-eviction", agent):
        result = evaluate(policy, options.scenario, VALIDATION, illegal="replace")
        gain = result.gain_over(lru)
        print(f"  {result.policy}: saves {gain} of the cost")
    if options.policy == "MlpPolicy":
        print(f"  {result.column('illegal_actions').sum():,.0f} illegal actions were replaced")
    return gain


if __name__ == "__main__":
    main()
