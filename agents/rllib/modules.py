"""`ActorCritic` and `ActionValues` as RLlib's new API stack calls them.

Both read what is legal from the observation: an illegal action has a logit or a value of `ILLEGAL`, so it is neither
sampled, nor explored, nor the maximum in a target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, QNetAPI, TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from cace_env.networks import ILLEGAL, ActionValues, ActorCritic

Batch = Mapping[str, Any]
VALUES: Final = "qf_preds"  # as RLlib's DQN calls values of actions: those of this state,
NEXT_VALUES: Final = "qf_next_preds"  # of the next one by the network that learns,
TARGET_VALUES: Final = "qf_target_next_preds"  # and of the next one by the target network


class SlotActorCritic(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]  # RLlib's types are not checked
    """Policy and values for PPO; `model_config` has the sizes, and the network to begin as."""

    def setup(self) -> None:
        """Makes the network."""
        sizes = self.model_config
        self.net = ActorCritic.of_spaces(
            self.observation_space, self.action_space, hidden=sizes["hidden"], value_hidden=sizes["value_hidden"]
        )
        if sizes["first"] is not None:
            self.net.scores.begin_as(sizes["first"])

    def _forward(self, batch: Batch, **arguments: Any) -> dict[str, Tensor]:
        del arguments
        return {Columns.ACTION_DIST_INPUTS: self.net.forward_actor(batch[Columns.OBS])}

    def compute_values(self, batch: Batch, embeddings: Any = None) -> Tensor:
        """Values `(...,)` of states."""
        del embeddings
        return self.net.forward_critic(batch[Columns.OBS]).squeeze(-1)


class SlotActionValues(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, QNetAPI):  # type: ignore[misc]
    """Values of actions for DQN; `model_config` has the share of random actions besides, as a schedule."""

    def setup(self) -> None:
        """Makes the network; the target network is made where it is learned."""
        sizes = self.model_config
        self.net = ActionValues.of_spaces(
            self.observation_space, self.action_space, hidden=sizes["hidden"], value_hidden=sizes["value_hidden"]
        )
        if sizes["first"] is not None:
            self.net.scores.begin_as(sizes["first"])
        self.exploration = Scheduler(fixed_value_or_schedule=sizes["exploration"])

    def make_target_networks(self) -> None:
        """A copy of the network, which the learner renews."""
        self.target = make_target_network(self.net)

    def get_non_inference_attributes(self) -> list[str]:
        """What those that play do without."""
        return ["target"]

    def get_target_network_pairs(self) -> list[tuple[ActionValues, ActionValues]]:
        """What is copied to what."""
        return [(self.net, self.target)]

    def compute_q_values(self, batch: Batch) -> dict[str, Tensor]:
        """Values `(B, A)` of actions, `ILLEGAL` where they are not legal."""
        return {VALUES: self.net(batch[Columns.OBS])}

    def forward_target(self, batch: Batch) -> dict[str, Tensor]:
        """The same by the target network."""
        return {VALUES: self.target(batch[Columns.OBS])}

    def _forward_train(self, batch: Batch) -> dict[str, Tensor]:
        here, following = batch[Columns.OBS], batch[Columns.NEXT_OBS]
        values, next_values = self.net(torch.cat([here, following])).split(len(here))
        return {VALUES: values, NEXT_VALUES: next_values, TARGET_VALUES: self.target(following)}

    def _forward_inference(self, batch: Batch) -> dict[str, Tensor]:
        return {Columns.ACTIONS: self.net(batch[Columns.OBS]).argmax(dim=-1)}

    def _forward_exploration(self, batch: Batch, t: int) -> dict[str, Tensor]:
        """The best action, or with the scheduled probability one of the legal ones at random."""
        values = self.net(batch[Columns.OBS])
        self.exploration.update(t)
        legal = (values > ILLEGAL / 2).float()
        explored = torch.rand(len(values)) < self.exploration.get_current_value()
        return {Columns.ACTIONS: torch.where(explored, legal.multinomial(1).squeeze(1), values.argmax(dim=-1))}
