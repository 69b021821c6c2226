"""Policies and algorithms of Stable-Baselines3 whose networks share weights across slots and pending models.

They are indifferent to the order and the number of slots and of pending models, and never take an illegal action: the
observation says what is legal (`legal`, `wait_legal`), so PPO, DQN and QR-DQN, which know no masks, need none. Give the
shape of the networks as `net_arch`:

    shape = Shape(venv.get_attr("layout")[0], "eviction", hidden=32)
    agent = PPO(ScorePolicy, venv, policy_kwargs={"net_arch": shape})
    agent = ScoreQRDQN(ScoreQRDQNPolicy, venv, policy_kwargs={"net_arch": shape, "n_quantiles": 25})
    network = score_network(agent.policy).to_network()  # plays without torch

`ILLEGAL` actions have so low a value that no maximum finds them: neither the greedy action nor the target of DQN and
QR-DQN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib import QRDQN
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3 import DQN
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from agents.networks import ScoreNetwork, ValueNetwork, finite, legal_actions
from cace_env.network import Network, Protocol
from cace_env.observation import ObservationLayout


class Shape(NamedTuple):
    """The networks of an agent: what SB3 calls `net_arch`."""

    layout: ObservationLayout  # of the environments that it is trained on; what is learned plays any other
    protocol: Protocol
    hidden: int = 32  # of the scores; 0 = a linear policy
    value_hidden: int = 64  # of the values


# ---------------------------------------------------------------------------------------------------------------------
# PPO


class ScoresAndValue(nn.Module):
    """Logits and value of a state; takes the place of SB3's `MlpExtractor`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.scores = ScoreNetwork(shape.protocol, shape.hidden)
        self.values = ValueNetwork(shape.value_hidden)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(observations), self.forward_critic(observations)

    def forward_actor(self, observations: Tensor) -> Tensor:
        legal = legal_actions(observations, self.shape.layout, self.shape.protocol)
        return finite(self.scores(observations, self.shape.layout), legal)

    def forward_critic(self, observations: Tensor) -> Tensor:
        values: Tensor = self.values(observations, self.shape.layout)
        return values


class ScorePolicy(ActorCriticPolicy):
    """For PPO."""

    def _build(self, lr_schedule: Schedule) -> None:
        _build(self, lr_schedule)


class MaskableScorePolicy(MaskableActorCriticPolicy):
    """For MaskablePPO of sb3-contrib; its masks say the same as the observation."""

    def _build(self, lr_schedule: Schedule) -> None:
        _build(self, lr_schedule)


def _build(policy: Any, lr_schedule: Schedule) -> None:
    """Networks and optimiser, as SB3 builds its own; scores are logits and values are values already."""
    policy.mlp_extractor = ScoresAndValue(policy.net_arch)
    policy.action_net = policy.value_net = nn.Identity()
    policy.optimizer = policy.optimizer_class(policy.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# DQN and QR-DQN


class ActionValues(nn.Module):
    """Value of each action: that of the state, plus the action's score (a dueling network, Wang et al., ICML 2016).

    The greedy action is that of the scores alone, which is what is exported.

    Args:
        shape: of the networks.
        quantiles: of each action's return; 0 = its mean only.
    """

    def __init__(self, shape: Shape, quantiles: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.quantiles = quantiles
        self.scores = ScoreNetwork(shape.protocol, shape.hidden, quantiles=quantiles)
        self.values = ValueNetwork(shape.value_hidden, max(quantiles, 1))

    def forward(self, observations: Tensor) -> Tensor:
        """`(B, A)`, or `(B, quantiles, A)`."""
        layout = self.shape.layout
        scores = self.scores(observations, layout)
        value = self.values(observations, layout)
        values = scores + (value.unsqueeze(1) if self.quantiles else value)
        values = finite(values, legal_actions(observations, layout, self.shape.protocol))
        return values.transpose(1, 2).contiguous() if self.quantiles else values


class ScoreQNetwork(QNetwork):
    """`QNetwork` with `ActionValues` in the place of its layers."""

    def __init__(self, *, net_arch: Shape, **settings: Any) -> None:
        super().__init__(net_arch=[], **settings)
        self.net_arch: Any = net_arch
        self.q_net: Any = ActionValues(net_arch)


class ScoreQuantileNetwork(QuantileNetwork):
    """`QuantileNetwork` with `ActionValues` in the place of its layers."""

    def __init__(self, *, net_arch: Shape, **settings: Any) -> None:
        super().__init__(net_arch=[], **settings)
        self.net_arch: Any = net_arch
        self.quantile_net: Any = ActionValues(net_arch, self.n_quantiles)


class ScoreDQNPolicy(DQNPolicy):
    """For `ScoreDQN`."""

    def make_q_net(self) -> ScoreQNetwork:
        settings: Any = self._update_features_extractor(self.net_args, features_extractor=None)
        return ScoreQNetwork(**settings).to(self.device)


class ScoreQRDQNPolicy(QRDQNPolicy):
    """For `ScoreQRDQN`."""

    def make_quantile_net(self) -> ScoreQuantileNetwork:
        settings: Any = self._update_features_extractor(self.net_args, features_extractor=None)
        return ScoreQuantileNetwork(**settings).to(self.device)


class LegalExploration:
    """Explores legal actions only, and tosses a coin for each environment; SB3 tosses one for all of them."""

    def predict(
        self: Any, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[npt.NDArray[Any], Any]:
        """As `predict` of SB3."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if deterministic:
            return actions, state
        return self._explored(observation, actions, self.exploration_rate), state

    def _sample_action(self: Any, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> Any:
        """Explores at the rate that holds now before learning starts, too: near 1 at first, low after a resume."""
        del learning_starts, action_noise, n_envs
        actions, _ = self.predict(self._last_obs)
        return actions, actions

    def _explored(self: Any, observation: Any, actions: Any, rate: float) -> npt.NDArray[np.int64]:
        """The actions, some of them, at this rate, replaced by legal ones drawn at random."""
        shape: Shape = self.policy.net_arch
        batch = np.atleast_2d(observation)
        legal = legal_actions(torch.as_tensor(batch), shape.layout, shape.protocol).numpy()
        drawn = np.where(legal, np.random.random(legal.shape), -1.0).argmax(axis=1)  # SB3 seeds this generator
        chosen = np.where(np.random.random(len(batch)) < rate, drawn, np.atleast_1d(actions))
        return chosen.reshape(np.shape(actions))


class ScoreDQN(LegalExploration, DQN):
    """DQN that explores legal actions only."""


class ScoreQRDQN(LegalExploration, QRDQN):
    """QR-DQN that explores legal actions only."""


def begin_as(policy: BasePolicy, network: Network) -> None:
    """Makes one of these policies act as `network` does, before it has learned anything."""
    score_network(policy).begin_as(network)
    if isinstance(policy, DQNPolicy):
        policy.q_net_target.load_state_dict(policy.q_net.state_dict())
    elif isinstance(policy, QRDQNPolicy):
        policy.quantile_net_target.load_state_dict(policy.quantile_net.state_dict())


def score_network(policy: BasePolicy) -> ScoreNetwork:
    """The scores by which one of these policies acts, to export or to begin from."""
    if isinstance(policy, DQNPolicy):
        network: Any = policy.q_net.q_net
    elif isinstance(policy, QRDQNPolicy):
        network = policy.quantile_net.quantile_net
    else:
        network = policy.mlp_extractor
    scores: ScoreNetwork = network.scores
    return scores
