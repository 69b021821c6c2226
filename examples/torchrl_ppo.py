"""TorchRL: PPO with weights that all slots share, on the native vector environment.

    make test-torchrl                                    # builds .venvs/torchrl and tests this example
    .venvs/torchrl/bin/python examples/torchrl_ppo.py --steps 150000

What to take from it:

- `baseline="lru"`: a reward is what was saved against LRU, in units of what LRU pays per decision.
- `ActorCritic` reads what is legal from the observation. `DictObservation` puts the mask beside it all the same, under
  the keys that TorchRL's `ActionMask` and `MaskedCategorical` look for: for networks of your own that know no masks,
  and so that random actions (`env.rollout`, `check_env_specs`) are legal.
- `autoreset_mode="Disabled"`: TorchRL resets what is done by itself, through `options={"reset_mask": ...}`.
- `deactivate_vmap=True`: the networks compute only the rows that are there, whose number `vmap` cannot know.
- `strict=True`: an illegal action raises. Training ends without an error because there is none.
- `save_agent` makes it a policy among others: `agent:FOLDER`, which plays any fleet without torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, EnvBase, GymWrapper, TransformedEnv
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from cace_env import evaluate
from cace_env.evaluation import Gain, save_agent, seeds_text
from cace_env.networks import ActorCritic
from cace_env.scenarios import SEEDS, seeds
from cace_env.wrappers import DictObservation, VectorDictObservation

ENVS = 60
HORIZON = 128  # decisions of each environment between two updates
EPOCHS = 4
MINIBATCH = 768
LEARNING_RATE = 3e-3  # falls to 0 in a straight line
GAMMA, LAMBDA = 0.97, 0.9
VALIDATION = seeds("validation", 20)


def make_env(scenario: str = "default") -> GymWrapper:
    """One environment, as TorchRL wants it."""
    env = gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, baseline="lru", strict=True)
    return GymWrapper(DictObservation(env), categorical_action_encoding=True)


def make_vector_env(scenario: str = "default", num_envs: int = ENVS) -> GymWrapper:
    """Many environments in one simulator, batch size `(num_envs,)`."""
    env = gym.make_vec(
        "cace_env:cace_env/Eviction-v0",
        num_envs,
        scenario=scenario,
        baseline="lru",
        strict=True,
        autoreset_mode="Disabled",
    )
    return GymWrapper(VectorDictObservation(env), categorical_action_encoding=True)


class Logits(nn.Module):
    """The actor of a network as a module of its own."""

    def __init__(self, net: ActorCritic) -> None:
        super().__init__()
        self.net = net

    def forward(self, observation: Tensor) -> Tensor:
        return self.net.forward_actor(observation)


class Value(Logits):
    """Its critic."""

    def forward(self, observation: Tensor) -> Tensor:
        return self.net.forward_critic(observation)


def make_network(scenario: str) -> ActorCritic:
    """An untrained network for the scenario."""
    env = gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario)
    return ActorCritic.of_spaces(env.observation_space, env.action_space)


def make_actor(net: ActorCritic) -> ProbabilisticActor:
    """Observation and mask -> action; illegal actions have probability 0."""
    return ProbabilisticActor(
        TensorDictModule(Logits(net), in_keys=["observation"], out_keys=["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )


def train(env: EnvBase, net: ActorCritic, steps: int, seed: int = 0) -> None:
    """PPO for about `steps` decisions."""
    env.set_seed(seed)
    actor, critic = make_actor(net), ValueOperator(Value(net), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.003, critic_coeff=0.5, loss_critic_type="l2")
    advantage = GAE(gamma=GAMMA, lmbda=LAMBDA, value_network=critic, average_gae=True, deactivate_vmap=True)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, eps=1e-5)
    batch = env.batch_size.numel() * HORIZON
    updates = max(1, round(steps / batch))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=updates)
    collector = Collector(
        env, actor, frames_per_batch=batch, total_frames=updates * batch, auto_register_policy_transforms=False
    )
    for data in collector:  # (envs, horizon)
        with torch.no_grad():
            advantage(data)
        flat = data.reshape(-1)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(flat)).split(MINIBATCH):
                terms = loss(flat[rows])
                optimizer.zero_grad()
                (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
        schedule.step()
        collector.update_policy_weights_()
    collector.shutdown()


def main(arguments: Sequence[str] | None = None) -> Gain:
    """Trains, saves, and prints what CACE, tuned CACE and the agent save against LRU on the same requests."""
    parser = argparse.ArgumentParser(description="PPO with TorchRL.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument(
        "--steps", type=int, default=150_000, help="decisions to train on, of all environments together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="runs/torchrl_ppo", help="where the agent is saved")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # networks this small gain nothing from threads
    torch.manual_seed(options.seed)

    net = make_network(options.scenario)
    train(TransformedEnv(make_vector_env(options.scenario), ActionMask()), net, options.steps, options.seed)
    save_agent(
        net,
        options.folder,
        algorithm="torchrl-ppo",
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
