"""RLlib: PPO with weights that all slots share, on a local Ray.

    make test-rllib                                    # builds .venvs/rllib and tests this example
    .venvs/rllib/bin/python examples/rllib_ppo.py --steps 150000

What to take from it:

- `baseline="lru"`: a reward is what was saved against LRU, in units of what LRU pays per decision.
- `SlotModule` makes `ActorCritic` a module of RLlib's new API stack. It reads what is legal from the observation; for
  networks that do not, `DictObservation(env, "rllib")` gives what `ActionMaskingTorchRLModule` expects.
- RLlib calls the registered function with `num_envs` in the config where `gym_env_vectorize_mode` asks for a native
  vector environment, and without for a single one (`"sync"`). It expects Gymnasium's default, `NextStep`.
- `strict=True`: an illegal action raises. Training ends without an error because there is none.
- `save_agent` makes it a policy among others: `agent:FOLDER`, which plays any fleet without torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor

from cace_env import evaluate
from cace_env.evaluation import Gain, save_agent, seeds_text
from cace_env.networks import ActorCritic
from cace_env.scenarios import SEEDS, seeds

ENV = "cace-eviction"
ENVS = 60
BATCH = ENVS * 128  # decisions, of all environments, between two updates
OBJECT_STORE_BYTES = 256 * 2**20  # weights and batches; RLlib's default is 30 % of the memory
VALIDATION = seeds("validation", 20)


class SlotModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]  # RLlib's types are not checked
    """`ActorCritic` as RLlib calls it."""

    def setup(self) -> None:
        self.net = ActorCritic.of_spaces(self.observation_space, self.action_space)

    def _forward(self, batch: Mapping[str, Any], **arguments: Any) -> dict[str, Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.net.forward_actor(batch[Columns.OBS])}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> Tensor:
        return self.net.forward_critic(batch[Columns.OBS]).squeeze(-1)


def make_env(config: Mapping[str, Any]) -> gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]:
    """What RLlib calls: a vector environment if it says how many, else a single one."""
    arguments = {"scenario": config["scenario"], "baseline": "lru", "strict": True}
    if "num_envs" in config:
        return gym.make_vec("cace_env:cace_env/Eviction-v0", config["num_envs"], **arguments)
    return gym.make("cace_env:cace_env/Eviction-v0", **arguments)


def configure(
    scenario: str = "default", seed: int = 0, *, steps: int = 150_000, num_envs: int = ENVS, runners: int = 1
) -> PPOConfig:
    """PPO for `steps` decisions; one process steps the environments, this one learns."""
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
            minibatch_size=768,
            num_epochs=4,
            lr=[[0, 3e-3], [steps, 0.0]],  # falls to 0 in a straight line
            gamma=0.97,
            lambda_=0.9,
            clip_param=0.2,
            use_kl_loss=False,
            entropy_coeff=0.003,
            vf_loss_coeff=0.5,
            grad_clip=0.5,
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=SlotModule))
        .fault_tolerance(restart_failed_env_runners=False)  # an illegal action is an error, not bad luck
        .debugging(seed=seed)
    )


def train(algorithm: PPO, steps: int) -> ActorCritic:
    """PPO for about `steps` decisions."""
    for _ in range(max(1, round(steps / BATCH))):
        algorithm.train()
    net: ActorCritic = algorithm.get_module().net
    return net


def main(arguments: Sequence[str] | None = None) -> Gain:
    """Trains, saves, and prints what CACE, tuned CACE and the agent save against LRU on the same requests."""
    parser = argparse.ArgumentParser(description="PPO with RLlib.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument(
        "--steps", type=int, default=150_000, help="decisions to train on, of all environments together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="runs/rllib_ppo", help="where the agent is saved")
    options = parser.parse_args(arguments)
    ray.init(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False)
    try:
        algorithm = configure(options.scenario, options.seed, steps=options.steps).build_algo()
        try:
            net = train(algorithm, options.steps)
        finally:
            algorithm.stop()
    finally:
        ray.shutdown()
    save_agent(
        net,
        options.folder,
        algorithm="rllib-ppo",
        trained_on=(options.scenario,),
        train_seeds=seeds_text(SEEDS["train"]),
    )

    lru = evaluate("lru", options.scenario, VALIDATION)
    print(f"{options.scenario}: LRU costs {lru.column('cost').mean():.0f}")
    for policy in ("cace", "cace:tuned-eviction", f"agent:{options.folder}"):
        gain = evaluate(policy, options.scenario, VALIDATION).gain_over(lru)
        print(f"  {policy}: saves {gain} of the cost")
    return gain


if __name__ == "__main__":
    main()
