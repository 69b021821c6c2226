"""Agent folders for trained networks of any library; torch is needed only for training.

    net = ActorCritic.of_spaces(env.single_observation_space, env.single_action_space)
    ...  # train it
    save_agent(net, "runs/mine", algorithm="my-ppo", trained_on=("default",))
    evaluate("agent:runs/mine", "default")

`cace_env.sb3.save_agent` also takes models of Stable-Baselines3.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cace_env.config import ConfigError
from cace_env.evaluation.feature_ranges import seen_limits
from cace_env.evaluation.held_out import Chosen, recorded, training_cases
from cace_env.policies import Agent
from cace_env.policies import agent as agents
from cace_env.policies.agent import AgentCard
from cace_env.policies.network import Network
from cace_env.scenarios import SEEDS


class Trained(typing.Protocol):
    """A trainable network: `ActorCritic`, `ActionValues` and `ScoreNetwork` of `cace_env.networks`."""

    def to_network(self) -> Network:
        """The network that plays."""
        ...


def save_agent(net: Trained | Network, folder: str | Path, **card: Any) -> Agent:
    """Write an agent folder: weights as NumPy arrays, and a card; it holds no code.

    Args:
        net: of `cace_env.networks` or `cace_env.policies.network`.
        folder: created if needed; an agent that is already there is overwritten.
        **card: fields of `cace_env.policies.agent.AgentCard`. Give `algorithm`, `trained_on` (scenarios by name; one
            episode of each gives the ranges of features for a guard), and `train_seeds`, without which comparisons call
            its results not held out.

    Returns:
        The agent; `agent.policy()` plays.

    Raises:
        ConfigError: a field is not one of a card, or `net` is not a network of this package.
    """
    made = agent_of(net, **card)
    return Agent(agents.write_agent(made, folder), made.network)


def agent_of(net: Trained | Network, *, played: Sequence[Chosen] | None = None, **card: Any) -> Agent:
    """Make the agent that `save_agent` writes; the same arguments and errors.

    Args:
        net: as for `save_agent`.
        played: scenarios whose episodes give the ranges of features; `trained_on` by default.
        **card: as for `save_agent`.
    """
    unknown = sorted(set(card) - set(AgentCard.model_fields))
    if unknown:
        raise ConfigError(f"a card has no field {unknown[0]!r}; its fields are {', '.join(AgentCard.model_fields)}")
    if not isinstance(net, Network) and not hasattr(net, "to_network"):
        raise ConfigError(
            f"a {type(net).__name__} cannot be saved as an agent; use a network of cace_env.networks, or from SB3 a "
            "model (cace_env.sb3.save_agent)"
        )
    network = net if isinstance(net, Network) else net.to_network()
    fields: dict[str, Any] = {"algorithm": "torch", "env": network.protocol, "hidden": network.hidden}
    fields |= {"urgency": network.urgency} | card
    fields["name"] = card.get("name", f"{fields['algorithm']}-{network.protocol}")
    made = Agent(recorded(AgentCard(**fields)), network)
    played = made.card.trained_on if played is None else played
    if "limits" in fields or not played:
        return made
    limits = seen_limits(made.policy(), training_cases(played, network.protocol), SEEDS["train"][0])
    return Agent(made.card.model_copy(update={"limits": limits}), network)
