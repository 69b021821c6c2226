"""Settings of training with RLlib; `agents.rllib.trainer` does the training.

Names and defaults are those of `agents.sb3.config` where the two mean the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from cace_env.config import MOST_SEED, MOST_STEPS, Frozen
from cace_env.tables import Protocol


class RLlibConfig(Frozen):
    """Settings shared by PPO and DQN."""

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
    runners: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="env runners: processes that play, on a core each; 0 = the process that learns plays, too",
    )
    envs_per_runner: int = Field(
        default=60, ge=1, le=4096, description="environments of each of them, a multiple of the number of scenarios"
    )
    learners: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="processes that learn, each from its part of a batch; 0 = the command itself",
    )
    num_workloads: int | None = Field(
        default=None, ge=1, description="play only so many training seeds, and keep them; none = fresh requests"
    )
    baseline: str | None = Field(
        default="lru", description="policy whose cost is added back to the rewards; none = rewards are plain costs"
    )
    threads: int = Field(default=1, ge=1, le=64, description="of torch, where it learns")
    gamma: float = Field(default=0.97, gt=0, le=1, description="discount per decision")
    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="of Adam, at the beginning")
    final_learning_rate: float = Field(default=3e-4, ge=0, le=1, description="after `decay_steps`, and from then on")
    decay_steps: int = Field(
        default=1_000_000, ge=1, description="decisions over which the learning rate goes from one to the other"
    )
    max_grad_norm: float = Field(default=0.5, gt=0, description="longer gradients are shortened to it")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate after so many decisions."""
        share = min(step / self.decay_steps, 1.0)
        return self.learning_rate + share * (self.final_learning_rate - self.learning_rate)

    @staticmethod
    def schedule(value_at: Callable[[int], float], end: int, start: int) -> float | list[list[float]]:
        """What falls in a straight line until step `end`, for an RLlib that begins to count at step `start`."""
        return value_at(start) if start >= end else [[0, value_at(start)], [end - start, value_at(end)]]

    @property
    def players(self) -> int:
        """Processes that play."""
        return max(self.runners, 1)

    @property
    def cores(self) -> int:
        """Cores of a cluster that are needed, besides that of the command."""
        return self.runners + self.learners


class RLlibPPOConfig(RLlibConfig):
    """PPO (Schulman et al., 2017); the network masks itself."""

    algorithm: Literal["rllib-ppo"] = "rllib-ppo"
    n_steps: int = Field(
        default=128, ge=1, le=1_000_000, description="decisions of each environment between two updates"
    )
    batch_size: int = Field(
        default=768, ge=2, le=10_000_000, description="decisions per gradient step, of each learner"
    )
    n_epochs: int = Field(default=4, ge=1, le=1_000_000, description="times that each decision is learned from")
    gae_lambda: float = Field(default=0.9, ge=0, le=1, description="0 = trust values, 1 = trust returns")
    clip_range: float = Field(default=0.2, gt=0, description="how far a probability may move in an update, relatively")
    ent_coef: float = Field(default=0.003, ge=0, description="weight of the entropy")
    vf_coef: float = Field(default=0.5, ge=0, description="weight of the error of values")

    @property
    def decisions_per_learner(self) -> int:
        """Decisions that each learner gets between two updates."""
        return self.players * self.envs_per_runner * self.n_steps // max(self.learners, 1)

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        there = self.decisions_per_learner
        if there < self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, and a learner gets {there} decisions between two updates: runners x "
                "envs_per_runner x n_steps, over learners; make one of those larger, or batch_size smaller"
            )
        return self


class RLlibDQNConfig(RLlibConfig):
    """Double DQN with prioritised replay (Schaul et al., 2016); the network masks itself, also in targets."""

    algorithm: Literal["rllib-dqn"] = "rllib-dqn"
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount per decision")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="of Adam, at the beginning")
    final_learning_rate: float = Field(default=1e-4, ge=0, le=1, description="after `decay_steps`, and from then on")
    n_steps: int = Field(default=5, ge=1, le=1000, description="rewards that are summed up before a value is trusted")
    buffer_size: int = Field(
        default=30_000, ge=1, le=10_000_000, description="decisions that are remembered, 8 kB each and more"
    )
    learning_starts: int = Field(
        default=3_000, ge=1, le=MOST_STEPS, description="decisions before anything is learned, also after --resume"
    )
    batch_size: int = Field(default=256, ge=1, le=10_000_000, description="decisions per gradient step")
    train_every: int = Field(
        default=5, ge=1, le=1_000_000, description="decisions of each environment between two updates"
    )
    gradient_steps: int = Field(default=10, ge=1, le=1_000_000, description="gradient steps per update")
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

    @model_validator(mode="after")
    def _rewards_and_batches_fit(self) -> Self:
        if self.train_every < self.n_steps:
            raise ValueError(
                f"train_every is {self.train_every} and n_steps {self.n_steps}; RLlib sums up no more rewards than it "
                "samples at once: train_every has to be n_steps or more"
            )
        if self.batch_size < self.learners:
            raise ValueError(
                f"batch_size is {self.batch_size} and learners {self.learners}; each learns from its part of a batch, "
                "so batch_size has to be learners or more"
            )
        return self
