"""Agents found by evolution: whole episodes are played, and cheaper candidates are kept. No gradients, no torch.

A linear policy has one weight per named feature, and CMA-ES looks for them all together. A network has so many weights
that only their variances are adapted (sep-CMA-ES, Ros and Hansen, 2008); it begins as a linear policy to which the
hidden units add nothing yet. A step is one candidate, on a few of the training seeds.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agents.evolution.search import Evolution, Search
from agents.objective import Objective
from cace_env.config import MOST_SEED, ConfigError, Frozen
from cace_env.evaluation.feature_ranges import seen_limits
from cace_env.evaluation.held_out import WHOLE_SUITE, recorded, seeds_text, spent_before, training_cases, training_seeds
from cace_env.executor import Executor, Threads
from cace_env.files import read_arrays, replace_file
from cace_env.observation import BLOCKS, PENDING_FEATURES, SLOT_FEATURES, Feature
from cace_env.policies import Agent, load_agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.built_in import Policy
from cace_env.policies.network import Network, weight_shapes
from cace_env.tables import Protocol

FloatArray = npt.NDArray[np.float64]

# Flags of the mask and of what is there at all: the same for all candidates.
SAME: Final = ("occupied", "legal", "loading", "leaving", "pinned", "present", "target")
LEARNING: Final = "learning"  # a file of the history
MOST_HISTORY_BYTES: Final = 1 << 30

# What a search begins from: the least recently used of those whose eviction alone suffices; in Swap-v0 besides the
# greatest waiting weight per load second, of those for which idle victims suffice, and rather idle victims than others.
START_SLOT: Final = {"since_use_s": 1.0, "suffices": 3.0}
START_SLOT_SWAP: Final = {**START_SLOT, "running": -4.0, "waiting": -4.0}
START_PENDING: Final = {"waiting_weight": 1.0, "load_s": -1.0, "idle_suffices": 8.0}
START_WAIT: Final = 4.0


class EvolutionConfig(Frozen):
    """Settings shared by both searches."""

    env: Protocol = Field(default=Protocol.EVICTION, description="environment: eviction or swap")
    train_on: str | tuple[str, ...] = Field(
        default=WHOLE_SUITE,
        description='"suite" (all its entries of the environment), or names of entries and scenarios',
    )
    seed: int = Field(default=0, ge=0, le=MOST_SEED, description="of the search")
    train_seeds: int = Field(default=128, ge=1, le=100_000, description="training seeds that generations draw from")
    seeds_per_generation: int = Field(
        default=16, ge=1, le=1_000_000, description="of which each generation meets so many"
    )
    population: int = Field(default=32, ge=4, le=10_000, description="candidates of a generation")
    sigma: float = Field(default=0.3, gt=0, le=1e6, description="standard deviation of the first generation's weights")
    init: str | None = Field(
        default=None,
        description="an agent to begin from: the name of a shipped one, or its folder; its urgency for long waits "
        "stays as it is; none = an old rule",
    )
    threads: int = Field(default=2, ge=1, le=64, description="episodes side by side")


class LinearConfig(EvolutionConfig):
    """A linear policy by CMA-ES."""

    algorithm: Literal["linear"] = "linear"
    without: tuple[str, ...] = Field(default=(), description="features that get no weight, by name")


class NetworkConfig(EvolutionConfig):
    """A whole network by sep-CMA-ES."""

    algorithm: Literal["network"] = "network"
    hidden: int = Field(default=8, ge=1, le=256, description="hidden units per layer")
    sigma: float = Field(default=0.05, gt=0, le=1e6, description="standard deviation of the first generation's weights")
    population: int = Field(default=48, ge=4, le=10_000, description="candidates of a generation")


class EvolutionTrainer:
    """A `Trainer` (`agents.algorithms`) of linear policies and networks.

    Args:
        config: of the search.
        executor: plays the episodes; None: so many threads as the configuration says.
    """

    def __init__(self, config: LinearConfig | NetworkConfig, executor: Executor | None = None) -> None:
        self.config = config
        cases = training_cases(config.train_on, config.env)
        self._trained_on = tuple(cases)
        self._before = spent_before(config.init)
        self._objective = Objective(cases, training_seeds(config.train_seeds), executor or Threads(config.threads))
        start, self._free = start_of(config)
        self._fixed = start.weights
        self._hidden, self._urgency = start.hidden, start.urgency
        search = Search(
            flat(start.weights, self._free),
            config.sigma,
            seed=config.seed,
            population=config.population,
            separable=isinstance(config, NetworkConfig),
        )
        self._evolution = Evolution(
            self._objective, search, lambda x: as_policy(self._network(x)), config.seeds_per_generation, config.seed
        )
        self._wall_s = 0.0

    @property
    def step(self) -> int:
        """Candidates so far."""
        return self._evolution.search.generation * self.config.population

    @property
    def requests(self) -> int:
        """Simulated so far; for the agent that it began from, too."""
        return self._before + self._objective.requests

    @property
    def batch(self) -> int:
        """Candidates of a generation."""
        return self.config.population

    def learn(self, steps: int, tick: Callable[[int], None]) -> dict[str, float]:
        """Whole generations until `steps` more candidates have been played; what the last one cost."""
        end = self.step + max(steps, 1)
        began = time.perf_counter()
        metrics: dict[str, float] = {}
        while self.step < end:
            metrics = self._evolution.generation(partial(self._tell, tick, self.step))
            tick(self.step)
        self._wall_s += time.perf_counter() - began
        return metrics

    def _tell(self, tick: Callable[[int], None], before: int, episodes: int) -> None:
        """The step within a generation, after so many of its episodes."""
        tick(before + episodes // (len(self._trained_on) * self.config.seeds_per_generation))

    def agent(self) -> Agent:
        """The best guess so far."""
        config = self.config
        card = AgentCard(
            name=f"{config.algorithm}-{'swap' if config.env == 'Swap-v0' else 'eviction'}",
            env=config.env,
            algorithm=f"{config.algorithm} (evolution)",
            hidden=self._hidden,
            urgency=self._urgency,
            description=_DESCRIPTIONS[config.algorithm],
            trained_on=self._trained_on,
            train_seeds=seeds_text(self._objective.seeds),
            requests=self.requests,
            wall_s=round(self._wall_s, 1),
        )
        network = self._network(self._evolution.search.best)
        limits = seen_limits(as_policy(network), self._objective.cases, self._objective.seeds[0])
        return Agent(recorded(card.model_copy(update={"limits": limits})), network)

    def save(self, folder: Path) -> None:
        """Writes the history of the search, of which it can be made again."""
        values = self._evolution.search.values
        history = np.array(values) if values else np.zeros((0, self.config.population))
        packed = io.BytesIO()
        np.savez(packed, values=history)
        replace_file(folder / f"{LEARNING}.npz", packed.getvalue())
        counters = {"requests": self._objective.requests, "wall_s": self._wall_s}
        replace_file(folder / f"{LEARNING}.json", json.dumps(counters) + "\n")

    def load(self, folder: Path) -> None:
        """Goes on from what `save` wrote.

        Raises:
            ConfigError: the folder holds something else, or the history of a search with other numbers.
        """
        try:
            counters = json.loads((folder / f"{LEARNING}.json").read_text(encoding="utf-8"))
            history = read_arrays((folder / f"{LEARNING}.npz").read_bytes(), MOST_HISTORY_BYTES)["values"]
            requests, wall_s = int(counters["requests"]), float(counters["wall_s"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{folder}: not what a search left ({error})") from error
        if history.ndim != 2 or history.shape[1] != self.config.population:
            raise ConfigError(
                f"{folder}: the history has generations of {history.shape[-1]}, but population is "
                f"{self.config.population}; continue with the configuration it was made with"
            )
        self._evolution.search.replay(history)
        self._objective.requests, self._wall_s = requests, wall_s

    def _network(self, x: FloatArray) -> Network:
        return Network(self.config.env, self._hidden, unflat(x, self._fixed, self._free), self._urgency)


_DESCRIPTIONS: Final = {
    "linear": "a weight for every named feature, found by CMA-ES",
    "network": "a small network, all weights found by sep-CMA-ES",
}


def as_policy(network: Network) -> Policy:
    """Make a policy without its own name from a network."""
    card = AgentCard(
        name="candidate",
        env=network.protocol,
        algorithm="evolution",
        hidden=network.hidden,
        urgency=network.urgency,
    )
    return Agent(card, network).policy()


Free = Mapping[str, npt.NDArray[np.bool_]]


def flat(weights: Mapping[str, npt.NDArray[np.float32]], free: Free) -> FloatArray:
    """The free weights, one behind the other, `(n,)`."""
    return np.concatenate([weights[name][chosen].astype(np.float64) for name, chosen in free.items()])


def unflat(
    x: FloatArray, fixed: Mapping[str, npt.NDArray[np.float32]], free: Free
) -> dict[str, npt.NDArray[np.float32]]:
    """Weights with the free ones from `x`, the others as they are."""
    weights = {name: weight.copy() for name, weight in fixed.items()}
    at = 0
    for name, chosen in free.items():
        count = int(chosen.sum())
        weights[name][chosen] = x[at : at + count]
        at += count
    return weights


def start_of(config: LinearConfig | NetworkConfig) -> tuple[Network, Free]:
    """The start of a search, and the weights that it changes.

    Raises:
        ConfigError: the agent to begin from is of another environment or size, or a feature that does not exist.
    """
    protocol = config.env
    hidden = config.hidden if isinstance(config, NetworkConfig) else 0
    shapes = weight_shapes(protocol, hidden)
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    if isinstance(config, NetworkConfig):
        _draw_hidden(weights, np.random.default_rng([config.seed, 1]))
    urgency = None
    if config.init is None:
        _set(weights["slot_linear"], SLOT_FEATURES, START_SLOT_SWAP if protocol == Protocol.SWAP else START_SLOT)
        if protocol == Protocol.SWAP:
            _set(weights["pending_linear"], PENDING_FEATURES, START_PENDING)
            weights["wait_bias"][:] = START_WAIT
    else:
        first = load_agent(config.init)
        if first.network.protocol != protocol or first.network.hidden not in (0, hidden):
            raise ConfigError(
                f"init: agent {first.card.name!r} is for {first.card.env.env_name} with {first.network.hidden} hidden "
                f"units; this training is for {config.env.env_name} with {hidden}; linear ones fit any number"
            )
        weights |= {name: weight.copy() for name, weight in first.network.weights.items()}
        urgency = first.network.urgency
    free = {name: np.ones(shape, dtype=bool) for name, shape in shapes.items()}
    without = config.without if isinstance(config, LinearConfig) else ()
    known = {feature.name for features in BLOCKS.values() for feature in features}
    if unknown := sorted(set(without) - known):
        raise ConfigError(f"without: no feature is called {unknown[0]!r}; docs/environment.md lists them")
    for name, features in zip(("slot_linear", "pending_linear", "wait_linear"), BLOCKS.values(), strict=True):
        if name in free:
            free[name] = np.array([f.name not in (*SAME, *without) for f in features])
            weights[name][[f.name in without for f in features]] = 0.0
    return Network(protocol, hidden, weights, urgency), free


def _set(weights: npt.NDArray[np.float32], features: Sequence[Feature], values: Mapping[str, float]) -> None:
    for column, feature in enumerate(features):
        weights[column] = values.get(feature.name, 0.0)


def _draw_hidden(weights: Mapping[str, Any], draws: np.random.Generator) -> None:
    """Hidden layers at random (He et al., 2015); the outputs stay 0, so that they add nothing at first."""
    for weight in weights.values():
        if weight.ndim == 2:
            weight[:] = draws.normal(0.0, np.sqrt(2.0 / weight.shape[1]), weight.shape)
