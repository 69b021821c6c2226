"""RLlib: PPO with RLlib's own action-masking module, on a local Ray.

    make test-rllib                                    # builds .venvs/rllib and tests this example
    .venvs/rllib/bin/python examples/rllib_ppo.py --steps 300000

What to take from it:

- `DictObservation(env, "rllib")` gives `observations` and `action_mask`, which RLlib's `ActionMaskingTorchRLModule`
  (new API stack, PPO) expects. It takes the logarithm of the mask, so the mask is float.
- RLlib calls the registered function with `num_envs` in the config where `gym_env_vectorize_mode` asks for a native
  vector environment, and without for a single one (`"sync"`). It expects Gymnasium's default, `NextStep`.
- `strict=True`: an illegal action raises. Training ends without an error because there is none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import ray
import torch
from gymnasium.wrappers.vector import TransformReward as TransformVectorReward
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.tune.registry import register_env

import cace_env
from cace_env.scenarios import seeds
from cace_env.wrappers import DictObservation, VectorDictObservation

ENV = "cace-eviction"
ENVS = 32
BATCH = 4096  # decisions, of all environments, between two updates
REWARD_SCALE = 0.01  # a decision costs about 5; returns of a few hundred become a few
VALIDATION_EPISODES = 10
OBJECT_STORE_BYTES = 256 * 2**20  # weights and batches; RLlib's default is 30 % of the memory


class Result(NamedTuple):
    """Mean over the validation seeds."""

    cost: float
    lru_cost: float
    invalid_actions: int


def make_env(config: Mapping[str, Any]) -> gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]:
    """What RLlib calls: a vector environment if it says how many, else a single one."""

    def scaled(reward: Any) -> Any:
        return REWARD_SCALE * reward

    arguments = {"scenario": config["scenario"], "strict": True}
    if "num_envs" in config:
        envs = gym.make_vec("cace_env:cace_env/Eviction-v0", config["num_envs"], **arguments)
        return TransformVectorReward(VectorDictObservation(envs, "rllib"), scaled)
    env = gym.make("cace_env:cace_env/Eviction-v0", **arguments)
    return gym.wrappers.TransformReward(DictObservation(env, "rllib"), scaled)


def configure(scenario: str = "default", seed: int = 0, *, num_envs: int = ENVS, runners: int = 1) -> PPOConfig:
    """Masked PPO; one process steps the environments, this one learns."""
    register_env(ENV, make_env)
    return (
        PPOConfig()
        .environment(ENV, env_config={"scenario": scenario})
        .env_runners(
            num_env_runners=runners, num_envs_per_env_runner=num_envs, gym_env_vectorize_mode="vector_entry_point"
        )
        .learners(num_learners=0)
        .training(
            train_batch_size_per_learner=BATCH,
            minibatch_size=1024,
            num_epochs=4,
            lr=3e-4,
            gamma=0.99,
            lambda_=0.95,
            entropy_coeff=0.01,
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=ActionMaskingTorchRLModule,
                model_config={"head_fcnet_hiddens": [64, 64], "head_fcnet_activation": "tanh"},
            )
        )
        .fault_tolerance(restart_failed_env_runners=False)  # an illegal action is an error, not bad luck
        .debugging(seed=seed)
    )


def train(algorithm: PPO, steps: int) -> RLModule:
    """PPO for about `steps` decisions."""
    for _ in range(max(1, round(steps / BATCH))):
        algorithm.train()
    return algorithm.get_module()


def validate(module: RLModule, scenario: str, workload_seeds: Iterable[int]) -> Result:
    """Plays the policy's most probable actions, against LRU on the same requests."""
    workload_seeds = list(workload_seeds)
    env = DictObservation(gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, split="validation"), "rllib")
    costs, invalid = [], 0
    with torch.no_grad():
        for workload_seed in workload_seeds:
            observation, info = env.reset(options={"workload_seed": workload_seed})
            over = False
            while not over:
                batch = {key: torch.from_numpy(value)[None] for key, value in observation.items()}
                logits = module.forward_inference({Columns.OBS: batch})[Columns.ACTION_DIST_INPUTS]
                observation, _, terminated, truncated, info = env.step(logits.argmax().item())
                over = terminated or truncated
            costs.append(env.get_wrapper_attr("episode_metrics")["cost"])
            invalid += info["invalid_action"]
    lru = cace_env.evaluate("lru", scenario, workload_seeds).column("cost").mean()
    return Result(sum(costs) / len(costs), float(lru), invalid)


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, validates and prints."""
    parser = argparse.ArgumentParser(description="Masked PPO with RLlib.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--steps", type=int, default=300_000, help="decisions to train on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    ray.init(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False)
    try:
        algorithm = configure(options.scenario, options.seed).build_algo()
        try:
            module = train(algorithm, options.steps)
            result = validate(module, options.scenario, seeds("validation", VALIDATION_EPISODES))
        finally:
            algorithm.stop()
    finally:
        ray.shutdown()
    print(
        f"{options.scenario}: cost {result.cost:.0f}, LRU {result.lru_cost:.0f} "
        f"({100 * (1 - result.cost / result.lru_cost):+.1f} %), {result.invalid_actions} illegal actions"
    )
    return result


if __name__ == "__main__":
    main()
