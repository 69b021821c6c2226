"""CleanRL style: masked PPO in one file, with weights that all slots share.

    python examples/cleanrl_ppo.py --steps 300000

After CleanRL's `ppo.py` (Huang et al., JMLR 23, 2022; https://github.com/vwxyzjn/cleanrl): one file that reads from top
to bottom, to be copied and changed. What to take from it:

- `autoreset_mode="SameStep"`: the observation after an episode's last step is already the next episode's first, as in
  the gymnasium 0.29 that CleanRL's scripts were written for. Under `NextStep`, Gymnasium's default, the same loop would
  learn from a step that only resets.
- An episode that ends by itself is worth nothing afterwards; one that was cut (`truncated`) would have gone on, so the
  value of `infos["final_obs"]` is added to its last reward. `--max-episode-steps` cuts episodes, to see it work.
- The network scores every slot by the same weights from the slot's own features and from what all slots have around
  them: it does not care how slots are numbered, and has few weights to learn. Illegal slots get no probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

import cace_env
from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES, ObservationLayout
from cace_env.scenarios import Split, seeds


@dataclass(frozen=True)
class Args:
    """Masked PPO on the vector environment."""

    scenario: str = "default"
    steps: int = 300_000
    """decisions to train on, of all environments together"""
    seed: int = 0
    num_envs: int = 64
    num_steps: int = 64
    """decisions of each environment between two updates"""
    max_episode_steps: int | None = None
    """cut episodes after so many decisions"""
    learning_rate: float = 1e-3
    """falls to 0 in a straight line"""
    reward_scale: float = 0.01
    """a decision costs about 5; returns of a few hundred become a few"""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatches: int = 8
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    validation_episodes: int = 10


class Result(NamedTuple):
    """Mean over the validation seeds."""

    cost: float
    lru_cost: float


class Agent(nn.Module):
    """Scores of slots and the value of the situation, from the flat observation."""

    def __init__(self, layout: ObservationLayout, width: int = 64) -> None:
        super().__init__()
        self.layout = layout
        around = len(PENDING_FEATURES) + len(CONTEXT_FEATURES)
        self.slot = nn.Sequential(
            nn.Linear(len(SLOT_FEATURES) + around, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.score = nn.Linear(width, 1)
        self.value = nn.Sequential(nn.Linear(width + around, width), nn.Tanh(), nn.Linear(width, 1))
        nn.init.zeros_(self.score.weight)  # all legal slots are equally likely at first

    def forward(self, observation: Tensor, legal: Tensor) -> tuple[Categorical, Tensor]:
        """Distribution over slots and value `(N,)` of observations `(N, size)` under masks `(N, S)`."""
        slots, pending, context = observation.tensor_split((self.layout.slots_end, self.layout.pending_end), dim=-1)
        slots = slots.reshape(-1, self.layout.max_slots, len(SLOT_FEATURES))
        pending = pending.reshape(-1, self.layout.max_pending, len(PENDING_FEATURES))
        around = torch.cat((pending.sum(1), context), dim=-1)
        rows = self.slot(torch.cat((slots, around[:, None].expand(-1, self.layout.max_slots, -1)), dim=-1))
        logits = self.score(rows).squeeze(-1).masked_fill(~legal, -1e8)  # -inf would make the entropy NaN
        value = self.value(torch.cat((rows.mean(1), around), dim=-1)).squeeze(-1)
        return Categorical(logits=logits, validate_args=False), value


def make_envs(args: Args, num_envs: int, split: Split = "train") -> gym.vector.VectorEnv[Any, Any, Any]:
    """`num_envs` environments in one simulator."""
    limit = args.max_episode_steps if split == "train" else None
    return gym.make_vec(
        "cace_env:cace_env/Eviction-v0",
        num_envs,
        scenario=args.scenario,
        split=split,
        strict=True,  # an illegal action raises: that none does shows that the mask works
        autoreset_mode="SameStep",
        max_episode_steps=limit,
    )


def legal_of(infos: dict[str, Any]) -> Tensor:
    """The mask of a vector environment's infos, `(N, S)` bool."""
    return torch.as_tensor(infos["action_mask"], dtype=torch.bool)


def train(args: Args) -> Agent:
    """PPO, from the first decision to the last."""
    torch.manual_seed(args.seed)
    envs = make_envs(args, args.num_envs)
    layout: ObservationLayout = envs.unwrapped.layout  # type: ignore[attr-defined]
    agent = Agent(layout)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    shape = (args.num_steps, args.num_envs)
    observations, legals = torch.zeros(*shape, layout.size), torch.zeros(*shape, layout.max_slots, dtype=torch.bool)
    actions, log_probs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    rewards, ends, values = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)

    first, infos = envs.reset(seed=args.seed)
    observation, legal = torch.as_tensor(first), legal_of(infos)
    updates = max(1, args.steps // (args.num_steps * args.num_envs))
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / updates)

        # Play.
        for step in range(args.num_steps):
            with torch.no_grad():
                policy, value = agent(observation, legal)
            action = policy.sample()
            observations[step], legals[step], values[step] = observation, legal, value
            actions[step], log_probs[step] = action, policy.log_prob(action)
            following, reward, terminated, truncated, infos = envs.step(action.numpy())
            rewards[step] = args.reward_scale * torch.as_tensor(reward)
            ends[step] = torch.as_tensor(terminated | truncated)
            cut = np.flatnonzero(truncated & ~terminated)
            if cut.size:  # what comes after the last step is not 0, it was just not played
                final = torch.as_tensor(np.stack(infos["final_obs"][cut]))
                with torch.no_grad():
                    rewards[step, cut] += args.gamma * agent(final, torch.ones_like(legal[cut]))[1]
            observation, legal = torch.as_tensor(following), legal_of(infos)

        # Generalised advantage estimation (Schulman et al., 2016): nothing flows back over the end of an episode.
        advantages = torch.zeros(shape)
        with torch.no_grad():
            next_value = agent(observation, legal)[1]
        advantage = torch.zeros(args.num_envs)
        for step in reversed(range(args.num_steps)):
            goes_on = 1 - ends[step]
            delta = rewards[step] + args.gamma * next_value * goes_on - values[step]
            advantage = delta + args.gamma * args.gae_lambda * goes_on * advantage
            advantages[step], next_value = advantage, values[step]
        returns = advantages + values

        # Learn: clipped objective (Schulman et al., 2017), without value clipping.
        batch = [x.flatten(0, 1) for x in (observations, legals, actions, log_probs, advantages, returns)]
        size = args.num_steps * args.num_envs
        for _ in range(args.epochs):
            for rows in torch.randperm(size).tensor_split(args.minibatches):
                obs, mask, act, old_log_prob, adv, ret = (x[rows] for x in batch)
                policy, value = agent(obs, mask)
                ratio = (policy.log_prob(act) - old_log_prob).exp()
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                gain = torch.min(ratio * adv, ratio.clamp(1 - args.clip, 1 + args.clip) * adv).mean()
                entropy = policy.entropy().mean()
                loss = args.value_weight * (value - ret).square().mean() - gain - args.entropy_weight * entropy
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
    envs.close()
    return agent


def validate(agent: Agent, args: Args) -> Result:
    """Plays the agent's best actions, against LRU on the same requests."""
    split = seeds("validation", args.validation_episodes)
    envs = make_envs(args, len(split), "validation")
    observation, infos = envs.reset(seed=split[0])  # environment i plays validation seed i
    costs = np.full(len(split), np.nan)
    while np.isnan(costs).any():
        with torch.no_grad():
            policy, _ = agent(torch.as_tensor(observation), legal_of(infos))
        observation, _, terminated, truncated, infos = envs.step(policy.logits.argmax(-1).numpy())
        first_end = (terminated | truncated) & np.isnan(costs)
        if first_end.any():
            costs[first_end] = envs.unwrapped.episode_metrics["cost"][first_end]  # type: ignore[attr-defined]
    lru = cace_env.evaluate("lru", args.scenario, split).column("cost").mean()
    return Result(float(costs.mean()), float(lru))


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, validates and prints."""
    args = tyro.cli(Args, args=arguments)
    result = validate(train(args), args)
    saved = 100 * (1 - result.cost / result.lru_cost)
    print(f"{args.scenario}: cost {result.cost:.0f}, LRU {result.lru_cost:.0f} ({saved:+.1f} %)")
    return result


if __name__ == "__main__":
    main()
