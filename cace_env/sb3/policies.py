"""Policies of Stable-Baselines3 whose networks share weights across slots and pending models, and mask themselves.

    MaskablePPO("SlotPolicy", venv, **hyperparameters("maskable-ppo"))
    PPO("SlotPolicy", venv, policy_kwargs={"hidden": 32, "value_hidden": 64})
    MaskableQRDQN("SlotPolicy", venv, policy_kwargs={"hidden": 16, "n_quantiles": 25})

The networks are those of `cace_env.networks`; they derive the layout from the environment's two spaces. Their scores do
not depend on the order or number of slots and pending models, so a trained one plays any fleet, and they never take an
illegal action: the observation says what is legal, so PPO, DQN and QR-DQN need no masks.

DQN and QRDQN themselves explore illegal actions, too, which the environment replaces; their values are `ILLEGAL`, so
nothing is learned from them but the reported loss is huge. Take `MaskableDQN` and `MaskableQRDQN`.

Beside what SB3's own policies take there are `hidden`, hidden units of each layer of the scores (32; 0 = a linear
policy), and `value_hidden`, of what values states (64). There is no `net_arch`.
"""

from __future__ import annotations

from typing import Any

from sb3_contrib import QRDQN, MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from cace_env.config import ConfigError
from cace_env.networks import HIDDEN, VALUE_HIDDEN, ActionValues, ActorCritic, ScoreNetwork
from cace_env.policies.network import Network


class OwnNetworks:
    """Arguments shared by all policies of this module."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        *args: Any,
        hidden: int = HIDDEN,
        value_hidden: int = VALUE_HIDDEN,
        **settings: Any,
    ) -> None:
        if args or settings.get("net_arch") is not None:
            raise ConfigError(
                f"{type(self).__name__} has no net_arch; give policy_kwargs={{'hidden': {HIDDEN}, 'value_hidden': "
                f"{VALUE_HIDDEN}}}"
            )
        self.hidden, self.value_hidden = hidden, value_hidden  # SB3 builds the networks before it returns
        super().__init__(observation_space, action_space, lr_schedule, **settings)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """The arguments that `policy.save` writes."""
        parameters: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | {"net_arch": None, "hidden": self.hidden, "value_hidden": self.value_hidden}


# ---------------------------------------------------------------------------------------------------------------------
# PPO


class SlotPolicy(OwnNetworks, ActorCriticPolicy):
    """For PPO and A2C of SB3."""

    def _build(self, lr_schedule: Schedule) -> None:
        _build(self, lr_schedule)


class MaskableSlotPolicy(OwnNetworks, MaskableActorCriticPolicy):
    """For MaskablePPO of sb3-contrib; its masks say the same as the observation."""

    def _build(self, lr_schedule: Schedule) -> None:
        _build(self, lr_schedule)


def _build(policy: Any, lr_schedule: Schedule) -> None:
    """Networks and optimiser, as SB3 builds its own; scores are logits and values are values already."""
    policy.mlp_extractor = ActorCritic.of_spaces(
        policy.observation_space, policy.action_space, hidden=policy.hidden, value_hidden=policy.value_hidden
    )
    policy.action_net = policy.value_net = nn.Identity()
    policy.optimizer = policy.optimizer_class(policy.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# DQN and QR-DQN


class SlotQNetwork(QNetwork):
    """`QNetwork` with `ActionValues` in the place of its layers."""

    def __init__(self, *, hidden: int, value_hidden: int, **settings: Any) -> None:
        super().__init__(**settings | {"net_arch": []})
        self.hidden, self.value_hidden = hidden, value_hidden
        self.q_net: Any = ActionValues.of_spaces(
            self.observation_space, self.action_space, hidden=hidden, value_hidden=value_hidden
        )


class SlotQuantileNetwork(QuantileNetwork):
    """`QuantileNetwork` with `ActionValues` in the place of its layers."""

    def __init__(self, *, hidden: int, value_hidden: int, **settings: Any) -> None:
        super().__init__(**settings | {"net_arch": []})
        self.hidden, self.value_hidden = hidden, value_hidden
        self.quantile_net: Any = ActionValues.of_spaces(
            self.observation_space,
            self.action_space,
            hidden=hidden,
            value_hidden=value_hidden,
            quantiles=self.n_quantiles,
        )


class DQNSlotPolicy(OwnNetworks, DQNPolicy):
    """For DQN of SB3 and `MaskableDQN`."""

    def make_q_net(self) -> SlotQNetwork:
        """The network, or its copy for targets."""
        settings: Any = self._update_features_extractor(self.net_args, features_extractor=None)
        return SlotQNetwork(hidden=self.hidden, value_hidden=self.value_hidden, **settings).to(self.device)


class QRDQNSlotPolicy(OwnNetworks, QRDQNPolicy):
    """For QRDQN of sb3-contrib and `MaskableQRDQN`."""

    def make_quantile_net(self) -> SlotQuantileNetwork:
        """The network, or its copy for targets."""
        settings: Any = self._update_features_extractor(self.net_args, features_extractor=None)
        return SlotQuantileNetwork(hidden=self.hidden, value_hidden=self.value_hidden, **settings).to(self.device)


# ---------------------------------------------------------------------------------------------------------------------
# By name, and from outside

NAME = "SlotPolicy"
for algorithm, its_policy in (
    (PPO, SlotPolicy),
    (MaskablePPO, MaskableSlotPolicy),
    (DQN, DQNSlotPolicy),
    (QRDQN, QRDQNSlotPolicy),
):
    algorithm.policy_aliases[NAME] = its_policy


def is_slot_policy(policy: Any) -> bool:
    """Whether `policy` is one of this module."""
    return isinstance(policy, OwnNetworks)


def score_network(policy: BasePolicy) -> ScoreNetwork:
    """The score network of a policy of this module, to export or to start from.

    Raises:
        ConfigError: the policy is not of this module.
    """
    if not is_slot_policy(policy):
        raise ConfigError(
            f"the policy is a {type(policy).__name__}; only {NAME} can be played without SB3 "
            f'(make the model with "{NAME}")'
        )
    if isinstance(policy, DQNPolicy):
        network: Any = policy.q_net.q_net
    elif isinstance(policy, QRDQNPolicy):
        network = policy.quantile_net.quantile_net
    else:
        network = policy.mlp_extractor
    scores: ScoreNetwork = network.scores
    return scores


def begin_as(policy: BasePolicy, network: Network) -> None:
    """Initialise a policy of this module to act like `network`.

    Raises:
        ConfigError: the policy is not of this module, or the network is for the other environment or has hidden layers
            of another size.
    """
    score_network(policy).begin_as(network)
    if isinstance(policy, DQNPolicy):
        policy.q_net_target.load_state_dict(policy.q_net.state_dict())
    elif isinstance(policy, QRDQNPolicy):
        policy.quantile_net_target.load_state_dict(policy.quantile_net.state_dict())
