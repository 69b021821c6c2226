"""CleanRL style: PPO in one file, with weights that all slots share.

    python examples/cleanrl_ppo.py --steps 150000

After CleanRL's `ppo.py` (Huang et al., JMLR 23, 2022; https://github.com/vwxyzjn/cleanrl): one file that reads from top
to bottom, to be copied and changed. What to take from it:

- `baseline="lru"`: a reward is what was saved against LRU, in units of what LRU pays per decision.
- `ActorCritic` scores every slot by the same weights: it does not care how slots are numbered, and has few weights to
  learn. It reads what is legal from the observation, so illegal slots get no probability and it needs no mask.
- `autoreset_mode="SameStep"`: the observation after an episode's last step is already the next episode's first, as in
  the gymnasium 0.29 that CleanRL's scripts were written for. Under `NextStep`, Gymnasium's default, the same loop would
  learn from a step that only resets.
- An episode that ends by itself is worth nothing afterwards; one that was cut (`truncated`) would have gone on, so the
  value of `infos["final_obs"]` is added to its last reward. `--max-episode-steps` cuts episodes, to see it work.
- `save_agent` makes it a policy among others: `agent:FOLDER`, which plays any fleet without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.distributions import Categorical

from cace_env import evaluate
from cace_env.evaluation import Gain, save_agent, seeds_text
from cace_env.networks import ActorCritic
from cace_env.scenarios import SEEDS, seeds


@dataclass(frozen=True)
class Args:
    """PPO on the vector environment."""

    scenario: str = "default"
    steps: int = 150_000
    """decisions to train on, of all environments together"""
    seed: int = 0
    folder: str = "runs/cleanrl_ppo"
    """where the agent is saved"""
    num_envs: int = 60
    num_steps: int = 128
    """decisions of each environment between two updates"""
    max_episode_steps: int | None = None
    """cut episodes after so many decisions"""
    learning_rate: float = 3e-3
    """falls to 0 in a straight line"""
    gamma: float = 0.97
    gae_lambda: float = 0.9
    epochs: int = 4
    minibatches: int = 10
    clip: float = 0.2
    target_kl: float = 0.03
    """no more epochs on this data once the policy has moved so far"""
    entropy_weight: float = 0.003
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    validation_episodes: int = 20


def train(args: Args) -> ActorCritic:
    """PPO, from the first decision to the last."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(
        "cace_env:cace_env/Eviction-v0",
        args.num_envs,
        scenario=args.scenario,
        baseline="lru",
        strict=True,  # an illegal action raises: that none does shows that the network takes none
        autoreset_mode="SameStep",
        max_episode_steps=args.max_episode_steps,
    )
    agent = ActorCritic.of_spaces(envs.single_observation_space, envs.single_action_space)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    shape = (args.num_steps, args.num_envs)
    observations = torch.zeros(*shape, agent.layout.size)
    actions, log_probs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    rewards, ends, values = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)

    observation = torch.as_tensor(envs.reset(seed=args.seed)[0])
    updates = max(1, args.steps // (args.num_steps * args.num_envs))
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / updates)

        # Play.
        for step in range(args.num_steps):
            with torch.no_grad():
                logits, value = agent(observation)
            policy = Categorical(logits=logits)
            action = policy.sample()
            observations[step], values[step] = observation, value.squeeze(-1)
            actions[step], log_probs[step] = action, policy.log_prob(action)
            following, reward, terminated, truncated, infos = envs.step(action.numpy())
            rewards[step], ends[step] = torch.as_tensor(reward), torch.as_tensor(terminated | truncated)
            cut = np.flatnonzero(truncated & ~terminated)
            if cut.size:  # what comes after the last step is not 0, it was just not played
                with torch.no_grad():
                    after = agent.forward_critic(torch.as_tensor(np.stack(infos["final_obs"][cut])))
                rewards[step, cut] += args.gamma * after.squeeze(-1)
            observation = torch.as_tensor(following)

        # Generalised advantage estimation (Schulman et al., 2016): nothing flows back over the end of an episode.
        advantages = torch.zeros(shape)
        with torch.no_grad():
            next_value = agent.forward_critic(observation).squeeze(-1)
        advantage = torch.zeros(args.num_envs)
        for step in reversed(range(args.num_steps)):
            goes_on = 1 - ends[step]
            delta = rewards[step] + args.gamma * next_value * goes_on - values[step]
            advantage = delta + args.gamma * args.gae_lambda * goes_on * advantage
            advantages[step], next_value = advantage, values[step]
        returns = advantages + values

        # Learn: clipped objective (Schulman et al., 2017), without value clipping.
        batch = [x.flatten(0, 1) for x in (observations, actions, log_probs, advantages, returns)]
        for _ in range(args.epochs):
            for rows in torch.randperm(args.num_steps * args.num_envs).tensor_split(args.minibatches):
                obs, act, old_log_prob, adv, ret = (x[rows] for x in batch)
                logits, value = agent(obs)
                policy = Categorical(logits=logits)
                log_ratio = policy.log_prob(act) - old_log_prob
                ratio = log_ratio.exp()
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                gain = torch.min(ratio * adv, ratio.clamp(1 - args.clip, 1 + args.clip) * adv).mean()
                value_loss = (value.squeeze(-1) - ret).square().mean()
                loss = args.value_weight * value_loss - gain - args.entropy_weight * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
            if (
                ratio - 1 - log_ratio
            ).mean() > args.target_kl:  # Schulman's estimate, http://joschu.net/blog/kl-approx.html
                break
    envs.close()
    return agent


def main(arguments: Sequence[str] | None = None) -> Gain:
    """Trains, saves, and prints what CACE, tuned CACE and the agent save against LRU on the same requests."""
    args = tyro.cli(Args, args=arguments)
    agent = train(args)
    save_agent(
        agent,
        args.folder,
        algorithm="cleanrl-ppo",
        trained_on=(args.scenario,),
        train_seeds=seeds_text(SEEDS["train"]),
    )

    split = seeds("validation", args.validation_episodes)
    lru = evaluate("lru", args.scenario, split)
    print(f"{args.scenario}: LRU costs {lru.column('cost').mean():.0f}")
    for policy in ("cace", "cace:tuned-eviction", f"agent:{args.folder}"):
        gain = evaluate(policy, args.scenario, split).gain_over(lru)
        print(f"  {policy}: saves {gain} of the cost")
    return gain


if __name__ == "__main__":
    main()
