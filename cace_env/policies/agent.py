"""A trained agent: a network, and a card that says what it is. Saved without code, played without torch.

```python
agent = load_agent("runs/my-run/best")      # or the name of one that ships
evaluate(agent.policy(), "default", seeds("test", 100))
evaluate("agent:runs/my-run/best", ...)     # the same
action = agent.act(observation, env.unwrapped.layout)
```

A folder holds `weights.npz`, NumPy's arrays without pickle, and `agent.json`, the card. Loading it reads only numbers
and text, whatever the files hold: nothing in them is executed. The card names the hash of the weights and the features
that they were trained on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cace_env.config import ConfigError, Frozen, Line, Name, did_you_mean, parse, read_json, shown
from cace_env.files import read_arrays, replace_file
from cace_env.kernel import rules
from cace_env.observation import BLOCKS, Feature, ObservationLayout
from cace_env.policies.base import Policy
from cace_env.policies.network import Network, Urgency
from cace_env.policies.orders import LEARNED_ORDER
from cace_env.tables import Protocol

CARD_FILE: Final = "agent.json"
WEIGHTS_FILE: Final = "weights.npz"
MOST_BYTES: Final = 1 << 24  # of weights: the largest network takes a quarter of it
BEST: Final = "best"  # the best agent, in the folder of a training
PREFIX: Final = "agent:"  # starts its name among policies
LEARNED: Final = "Learned"  # group of the agents


def features_hash() -> str:
    """Hash of the meaning of every number in an observation: names, units, scales and order of all features."""

    def row(feature: Feature) -> tuple[object, ...]:
        return feature.name, feature.unit, feature.scale, feature.log, feature.signed

    blocks = [[row(feature) for feature in block] for block in BLOCKS.values()]
    return hashlib.sha256(json.dumps(blocks).encode()).hexdigest()[:16]


class AgentCard(Frozen):
    """Description of an agent and how it was made; the file `agent.json`."""

    format: Literal["cace-env agent 1"] = "cace-env agent 1"
    name: Name = Field(description="its name in tables")
    env: Protocol = Field(description="the environment that it is for")
    algorithm: Line = Field(min_length=1, description="what trained it")
    hidden: int = Field(ge=0, description="hidden units of each layer of its network; 0 = linear")
    urgency: Urgency | None = Field(
        default=None, description="what it adds to the scores of models whose requests wait for long (Swap-v0)"
    )
    description: str = Field(default="", description="one line")
    trained_on: tuple[str, ...] = Field(default=(), description="scenarios or entries of a suite")
    suite: str = Field(default="", description="the version of that suite")
    fingerprints: dict[str, str] = Field(
        default={}, description="fingerprints of the suite's entries in its environment, when it was trained"
    )
    headroom_cut_percent: float = Field(
        default=0.0, ge=0, description="least headroom of the entries that counted in means then [%]; 0 = not recorded"
    )
    train_seeds: str = Field(default="", description="seeds of the workloads it was trained on")
    requests: int = Field(default=0, ge=0, description="requests simulated in training in total")
    wall_s: float = Field(default=0.0, ge=0, description="duration of the training [s]")
    command: str = Field(default="", description="command that trains it again")
    works: str = Field(default="", description="where it does well")
    fails: str = Field(default="", description="where it does not")
    logs: str = Field(default="", description="what logs of real requests showed that it was not trained on")
    limits: dict[str, tuple[float, float]] = Field(
        default={}, description="least and greatest value of features in training, by name, in physical units"
    )
    newer_features: tuple[str, ...] = Field(
        default=(), description="features that came after its training: its weights for them are 0, so it ignores them"
    )
    features: str = Field(default_factory=features_hash, description="hash of the features it was trained on")
    weights_sha256: str = Field(default="", description="hash of the file of weights")


@dataclass(frozen=True, eq=False)
class Agent:
    """A trained agent.

    Attributes:
        card: description and origin.
        network: the network that decides, with the card's `urgency`, whatever its own was.

    Raises:
        ConfigError: card and network do not match, or the agent was trained on other features.
    """

    card: AgentCard
    network: Network

    def __post_init__(self) -> None:
        card, network = self.card, self.network
        if (card.env, card.hidden) != (network.protocol, network.hidden):
            raise ConfigError(
                f"agent {card.name!r}: the card says {card.env.env_name} with {card.hidden} hidden units, but the "
                f"network is for {network.protocol.env_name} with {network.hidden}"
            )
        if card.features != features_hash():
            raise ConfigError(
                f"agent {card.name!r} was trained on other features ({card.features}) than this version has "
                f"({features_hash()}); train it again" + (f": {card.command}" if card.command else "")
            )
        if network.urgency != card.urgency:
            object.__setattr__(self, "network", replace(network, urgency=card.urgency))

    def policy(self) -> Policy:
        """The agent as a built-in policy, compiled like all others."""
        return Policy(
            PREFIX + self.card.name,
            self.card.description or f"trained by {self.card.algorithm}",
            source=f"{self.card.algorithm} on {', '.join(self.card.trained_on) or 'workloads not named in its card'}",
            group=LEARNED,
            kind=rules.NETWORK,
            order=LEARNED_ORDER if self.card.env == Protocol.SWAP else None,
            network=self.network,
        )

    def act(self, observation: npt.NDArray[np.float32], layout: ObservationLayout) -> int:
        """Choose an action, with NumPy alone; 0 if nothing is legal.

        Args:
            observation: `(layout.size,)`, as the environment returns it.
            layout: the environment's: `env.unwrapped.layout`.
        """
        return int(self.network.logits(observation, layout).argmax())


def load_agent(what: str | Path | Agent) -> Agent:
    """Load an agent by the name of a shipped one or from its folder; an `Agent` is returned as it is.

    A training folder stands for the best agent in it, `best/`.

    Raises:
        ConfigError: there is no such name (the error lists the shipped ones) or folder, or the files are not what was
            saved: foreign, changed, cut short, or trained on other features.
    """
    if isinstance(what, Agent):
        return what
    shipped = resources.files("cace_env") / "data" / "agents"
    names = sorted(item.name for item in shipped.iterdir() if item.is_dir()) if shipped.is_dir() else []
    if what in names:
        with resources.as_file(shipped / str(what)) as folder:
            return _read(folder)
    folder = Path(what)
    if not os.path.isdir(folder):
        known = f"shipped are {', '.join(names) or 'none'}, or give a folder with {CARD_FILE}"
        raise ConfigError(f"no agent called {shown(str(what))}{did_you_mean(str(what), names)}; {known}")
    best = folder / BEST
    return _read(best if (best / CARD_FILE).is_file() and not (folder / CARD_FILE).is_file() else folder)


def shipped_agents() -> dict[str, Agent]:
    """The agents that ship, by name."""
    shipped = resources.files("cace_env") / "data" / "agents"
    names = sorted(item.name for item in shipped.iterdir() if item.is_dir()) if shipped.is_dir() else []
    return {name: load_agent(name) for name in names}


def write_agent(agent: Agent, folder: str | Path) -> AgentCard:
    """Write both files; an agent that is already in the folder is overwritten, file by file, the card last.

    Returns:
        The card as written, with the hash of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    packed, arrays = io.BytesIO(), dict[str, Any](agent.network.weights)
    np.savez(packed, **arrays)  # the same arrays give the same bytes
    content = packed.getvalue()
    card = agent.card.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    replace_file(folder / WEIGHTS_FILE, content)
    replace_file(folder / CARD_FILE, json.dumps(card.model_dump(mode="json"), indent=2) + "\n")
    return card


def _read(folder: Path) -> Agent:
    """Read an agent from its folder."""
    card_file, weights_file = folder / CARD_FILE, folder / WEIGHTS_FILE
    try:
        with weights_file.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        problem = f"the second cannot be read ({error.strerror})"
        raise ConfigError(f"{folder}: an agent needs {CARD_FILE} and {WEIGHTS_FILE}; {problem}") from error
    if not card_file.is_file():
        raise ConfigError(f"{folder}: an agent needs {CARD_FILE} and {WEIGHTS_FILE}; the first is missing")
    try:
        card = parse(AgentCard, read_json(card_file), str(card_file))
    except ConfigError as error:
        raise ConfigError(f"{error}; this is not the card of an agent") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.weights_sha256:
        raise ConfigError(
            f"{weights_file}: its hash is {found[:16]}..., the card says {card.weights_sha256[:16] or 'nothing'}...; "
            "these weights were not saved with this card: copy both files again"
        )
    try:
        weights = read_arrays(content, MOST_BYTES)
    except ValueError as error:
        raise ConfigError(f"{weights_file}: this is not a file of weights ({error})") from error
    return Agent(card, Network(card.env, card.hidden, weights, card.urgency))
