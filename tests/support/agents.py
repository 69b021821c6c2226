"""Agents with weights of their own, in a folder: what training would leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cace_env.observation import SLOT
from cace_env.policies import Agent, write_agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.network import Network, weight_shapes
from cace_env.tables import Protocol


def random_network(protocol: Any = "eviction", hidden: int = 3, seed: int = 0) -> Network:
    """Weights at random."""
    draws = np.random.default_rng(seed)
    shapes = weight_shapes(protocol, hidden)
    return Network(
        protocol, hidden, {name: draws.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    )


def lru_network() -> Network:
    """Evicts what was used longest ago."""
    weights = {"slot_linear": np.zeros(weight_shapes("eviction", 0)["slot_linear"], dtype=np.float32)}
    weights["slot_linear"][SLOT.since_use_s] = 1.0
    return Network(Protocol.EVICTION, 0, weights)


def agent_of(network: Network, **card: Any) -> Agent:
    """A network with a card; trained on seeds 0 to 9 unless something else is said."""
    known = {
        "name": "mine",
        "env": network.protocol,
        "algorithm": "hand",
        "hidden": network.hidden,
        "train_seeds": "0-9",
        "trained_on": ("small",),
        "requests": 1234,
    }
    return Agent(AgentCard(**(known | card)), network)


def saved(agent: Agent, folder: Path) -> Path:
    """The folder, with the agent in it."""
    write_agent(agent, folder)
    return folder
