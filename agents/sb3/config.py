"""Settings of training with Stable-Baselines3; `agents.sb3.trainer` does the training.

Defaults were chosen on validation seeds of the suite of Eviction-v0, a run or two of 184,000 to 369,000 decisions each;
seeds differ by a point or two of LRU's cost. The baseline made the greatest difference: without it agents cost 0.96 of
LRU, with it 0.91 and less. In Swap-v0, a learning rate of 1e-3 was steadier.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cace_env.config import MOST_SEED, MOST_STEPS, Frozen
from cace_env.tables import Protocol


class SB3Config(Frozen):
    """Settings shared by PPO and the DQN family."""

    env: Protocol = Field(default=Protocol.EVICTION, description="environment: eviction or swap")
    train_on: str | tuple[str, ...] = Field(
        default="suite", description='"suite" (all its entries of the environment), or names of entries and scenarios'
    )
    seed: int = Field(
        default=0, ge=0, le=MOST_SEED, description="of weights, exploration and the drawing of training seeds"
    )
    init: str | None = Field(
        default=None, description="an agent to begin from: the name of a shipped one, or its folder; none = at random"
    )
    hidden: int = Field(default=32, ge=0, le=256, description="hidden units per layer of the policy; 0 = linear")
    value_hidden: int = Field(default=64, ge=1, le=1024, description="hidden units per layer of what values states")
    num_envs: int = Field(
        default=60, ge=1, le=4096, description="environments side by side, a multiple of the number of scenarios"
    )
    num_workloads: int | None = Field(
        default=None, ge=1, description="play only so many training seeds, and keep them; none = fresh requests"
    )
    baseline: str | None = Field(
        default="lru", description="policy whose cost is added back to the rewards; none = rewards are plain costs"
    )
    threads: int = Field(default=1, ge=1, le=64, description="of torch and of the simulation")
    gamma: float = Field(default=0.97, gt=0, le=1, description="discount per decision")
    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="of Adam, at the beginning")
    final_learning_rate: float = Field(default=3e-4, ge=0, le=1, description="after `decay_steps`, and from then on")
    decay_steps: int = Field(
        default=1_000_000, ge=1, description="decisions over which the learning rate goes from one to the other"
    )
    max_grad_norm: float = Field(default=0.5, gt=0, description="longer gradients are shortened to it")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate after so many decisions: a matter of the step alone, so a resumed run has the same."""
        share = min(step / self.decay_steps, 1.0)
        return self.learning_rate + share * (self.final_learning_rate - self.learning_rate)


class PPOConfig(SB3Config):
    """PPO, with masks or without: Schulman et al., 2017; Huang and Ontañón, 2020."""

    algorithm: Literal["maskable-ppo", "ppo"] = "maskable-ppo"
    n_steps: int = Field(
        default=128, ge=1, le=1_000_000, description="decisions of each environment between two updates"
    )
    batch_size: int = Field(default=768, ge=2, le=10_000_000, description="decisions per gradient step")
    n_epochs: int = Field(default=4, ge=1, le=1_000_000, description="times that each decision is learned from")
    gae_lambda: float = Field(default=0.9, ge=0, le=1, description="0 = trust values, 1 = trust returns")
    clip_range: float = Field(default=0.2, gt=0, description="how far a probability may move in an update, relatively")
    target_kl: float | None = Field(default=0.03, gt=0, description="an update ends where policies differ by 1.5 of it")
    ent_coef: float = Field(default=0.003, ge=0, description="weight of the entropy")
    vf_coef: float = Field(default=0.5, ge=0, description="weight of the error of values")
    value_warmup: int = Field(
        default=0, ge=0, description="decisions in which only values are learned: where `init` acts well already"
    )


class DQNConfig(SB3Config):
    """DQN and QR-DQN: Mnih et al., 2015; Dabney et al., 2018."""

    algorithm: Literal["dqn", "qrdqn"] = "qrdqn"
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount per decision")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="of Adam, at the beginning")
    final_learning_rate: float = Field(default=1e-4, ge=0, le=1, description="after `decay_steps`, and from then on")
    quantiles: int = Field(default=25, ge=2, le=200, description="of each action's return; of qrdqn")
    n_steps: int = Field(
        default=5, ge=1, le=1_000_000, description="rewards that are summed up before a value is trusted"
    )
    buffer_size: int = Field(
        default=30_000, ge=1, le=10_000_000, description="decisions that are remembered, 8 kB each and more"
    )
    keep_buffer: bool = Field(
        default=False, description="write what is remembered into checkpoints; else a resumed run collects anew"
    )
    learning_starts: int = Field(
        default=3_000, ge=1, le=MOST_STEPS, description="random decisions before anything is learned"
    )
    batch_size: int = Field(default=256, ge=1, le=10_000_000, description="decisions per gradient step")
    train_every: int = Field(default=1, ge=1, le=1_000_000, description="steps of all environments between two updates")
    gradient_steps: int = Field(default=2, ge=1, le=1_000_000, description="gradient steps per update")
    target_every: int = Field(
        default=3_000, ge=1, le=MOST_STEPS, description="decisions between two copies to the target network"
    )
    exploration_steps: int = Field(
        default=100_000, ge=1, le=MOST_STEPS, description="decisions until exploration is down to its end"
    )
    final_exploration: float = Field(default=0.05, ge=0, le=1, description="share of random actions from then on")

    def exploration_at(self, step: int) -> float:
        """Share of random actions after so many decisions, from 1 on."""
        return 1.0 + min(step / self.exploration_steps, 1.0) * (self.final_exploration - 1.0)
