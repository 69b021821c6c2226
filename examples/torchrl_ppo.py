"""TorchRL: PPO whose policy masks illegal victims, on the native vector environment.

    make test-torchrl                                    # builds .venvs/torchrl and tests this example
    .venvs/torchrl/bin/python examples/torchrl_ppo.py --steps 300000

What to take from it:

- `DictObservation` puts the mask beside the observation, under the keys that TorchRL's `ActionMask` and
  `MaskedCategorical` look for; `ActionMask` makes random actions (`env.rollout`, `check_env_specs`) legal, too.
- `autoreset_mode="Disabled"`: TorchRL resets what is done by itself, through `options={"reset_mask": ...}`. With
  `SameStep`, `GymWrapper` stacks whatever is in the infos, and those of this environment differ between reset and step.
- The networks share their weights between slots; `ObservationLayout.split` works on tensors, too.
- `strict=True`: an illegal action raises. Training ends without an error because there is none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, Compose, EnvBase, GymWrapper, RewardScaling, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import cace_env
from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES, ObservationLayout
from cace_env.scenarios import seeds
from cace_env.wrappers import DictObservation, VectorDictObservation

ENVS = 32
HORIZON = 128  # decisions of each environment between two updates
EPOCHS = 4
MINIBATCH = 1024
LEARNING_RATE = 1e-3  # falls to 0 in a straight line
GAMMA = 0.95  # an eviction shows its price within tens of decisions
REWARD_SCALE = 0.01  # a decision costs about 5; returns of a few hundred become a few
VALIDATION_EPISODES = 10


class Result(NamedTuple):
    """Mean over the validation seeds."""

    cost: float
    lru_cost: float
    invalid_actions: int


def make_env(scenario: str = "default") -> GymWrapper:
    """One environment, as TorchRL wants it."""
    env = gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, strict=True)
    return GymWrapper(DictObservation(env), categorical_action_encoding=True)


def make_vector_env(scenario: str = "default", num_envs: int = ENVS) -> GymWrapper:
    """Many environments in one simulator, batch size `(num_envs,)`."""
    env = gym.make_vec(
        "cace_env:cace_env/Eviction-v0", num_envs, scenario=scenario, strict=True, autoreset_mode="Disabled"
    )
    return GymWrapper(VectorDictObservation(env), categorical_action_encoding=True)


def masked(env: GymWrapper) -> TransformedEnv:
    """The environment with rewards of a size that a network likes, and legal random actions."""
    return TransformedEnv(env, Compose(RewardScaling(loc=0.0, scale=REWARD_SCALE), ActionMask()))


def layout_of(scenario: str) -> ObservationLayout:
    """Where everything lies in the scenario's observations."""
    return gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario).get_wrapper_attr("layout")


class SlotScorer(nn.Module):
    """One score per slot, `(..., size) -> (..., S)`, by weights that all slots share."""

    def __init__(self, layout: ObservationLayout, width: int = 64) -> None:
        super().__init__()
        self.split: Any = layout.split  # takes tensors apart as it does arrays
        self.score = nn.Sequential(
            nn.Linear(len(SLOT_FEATURES) + len(CONTEXT_FEATURES), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        slots, _, context = self.split(observation)
        context = context.unsqueeze(-2).expand(*slots.shape[:-1], -1)
        return self.score(torch.cat([slots, context], dim=-1)).squeeze(-1)


class Value(nn.Module):
    """What is still to come, `(..., size) -> (..., 1)`, whatever the order of slots and pending models."""

    def __init__(self, layout: ObservationLayout, width: int = 64) -> None:
        super().__init__()
        self.split: Any = layout.split  # takes tensors apart as it does arrays
        self.slot = nn.Sequential(nn.Linear(len(SLOT_FEATURES), width), nn.ReLU())
        self.pending = nn.Sequential(nn.Linear(len(PENDING_FEATURES), width), nn.ReLU())
        self.value = nn.Sequential(nn.Linear(2 * width + len(CONTEXT_FEATURES), width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        slots, pending, context = self.split(observation)
        return self.value(torch.cat([self.slot(slots).mean(-2), self.pending(pending).sum(-2), context], dim=-1))


def make_actor(layout: ObservationLayout) -> ProbabilisticActor:
    """Observation and mask -> action; illegal actions have probability 0."""
    return ProbabilisticActor(
        TensorDictModule(SlotScorer(layout), in_keys=["observation"], out_keys=["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )


def train(env: EnvBase, layout: ObservationLayout, steps: int, seed: int = 0) -> ProbabilisticActor:
    """PPO for about `steps` decisions."""
    torch.manual_seed(seed)
    env.set_seed(seed)
    actor, critic = make_actor(layout), ValueOperator(Value(layout), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    advantage = GAE(gamma=GAMMA, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), LEARNING_RATE)
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
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        schedule.step()
        collector.update_policy_weights_()
    collector.shutdown()
    return actor


def validate(actor: ProbabilisticActor, scenario: str, workload_seeds: Iterable[int]) -> Result:
    """Plays the policy's most probable actions, against LRU on the same requests."""
    workload_seeds = list(workload_seeds)
    env = DictObservation(gym.make("cace_env:cace_env/Eviction-v0", scenario=scenario, split="validation"))
    costs, invalid = [], 0
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        for workload_seed in workload_seeds:
            observation, info = env.reset(options={"workload_seed": workload_seed})
            over = False
            while not over:
                action = actor(TensorDict(observation))["action"].item()
                observation, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
            costs.append(env.get_wrapper_attr("episode_metrics")["cost"])
            invalid += info["invalid_action"]
    lru = cace_env.evaluate("lru", scenario, workload_seeds).column("cost").mean()
    return Result(sum(costs) / len(costs), float(lru), invalid)


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, validates and prints."""
    parser = argparse.ArgumentParser(description="Masked PPO with TorchRL.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--steps", type=int, default=300_000, help="decisions to train on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # networks this small gain nothing from threads
    env = masked(make_vector_env(options.scenario))
    actor = train(env, layout_of(options.scenario), options.steps, options.seed)
    result = validate(actor, options.scenario, seeds("validation", VALIDATION_EPISODES))
    print(
        f"{options.scenario}: cost {result.cost:.0f}, LRU {result.lru_cost:.0f} "
        f"({100 * (1 - result.cost / result.lru_cost):+.1f} %), {result.invalid_actions} illegal actions"
    )
    return result


if __name__ == "__main__":
    main()
