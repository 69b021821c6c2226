"""The interface of trainers, and the list of training algorithms.

A trainer learns an agent in intervals, returns the current agent, and can save everything it needs to continue. It
knows nothing of run folders, progress bars or W&B: `experiments/train.py` does the rest for all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from cace_env.config import ConfigError, Frozen, did_you_mean, parse, read_yaml

if TYPE_CHECKING:
    from cace_env.executor import Executor
    from cace_env.policies import Agent

EXTRA: Final = 'pip install "cace-env[train]"'
EXTRA_RLLIB: Final = 'pip install "cace-env[rllib]"'


class Trainer(Protocol):
    """Learns an agent, interval by interval.

    Attributes:
        step: the global step: decisions for reinforcement learning and imitation, evaluated candidates for evolution.
        requests: simulated in training so far, which is the budget that learned agents and tuned rules share. What it
            took to train the agent that `init` names is part of it.
        batch: steps that are learned at once: a training ends at a multiple of them. 1 where it can end at any step, or
            where it is not known beforehand, as with whole episodes.
    """

    @property
    def step(self) -> int: ...

    @property
    def requests(self) -> int: ...

    @property
    def batch(self) -> int: ...

    def learn(self, steps: int, tick: Callable[[int], None]) -> dict[str, float]:
        """Learn for about `steps` more steps; at least one.

        Args:
            steps: how many; a trainer that works in batches may do a few more.
            tick: called now and then with the global step, for progress bars.

        Returns:
            Numbers about this interval, by name: losses, entropies, step sizes.
        """

    def agent(self) -> Agent:
        """The current agent."""

    def save(self, folder: Path) -> None:
        """Write everything that a resumed training needs into an empty folder.

        Weights, optimiser, counters and random generators; as npz without pickle, and JSON: what is read
        back runs no code.
        """

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote under the same configuration.

        Raises:
            ConfigError: the folder holds something else.
        """


class Algorithm(NamedTuple):
    """A way to train. Modules are loaded when it is chosen: torch is loaded only if needed."""

    config: str  # "module:class" of its configuration, which has the keys algorithm, env, train_on and seed
    trainer: str  # "module:class" of its `Trainer`, made of a configuration
    steps: int  # default length of a training
    unit: str  # meaning of a step
    description: str
    extra: str = EXTRA  # how to install what it needs
    on_ray: bool = False  # whether the trainer needs a Ray cluster, with as many `cores` as its configuration says


_PPO: Final = ("agents.sb3.config:PPOConfig", "agents.sb3.trainer:SB3Trainer", 1_000_000, "decisions")
_DQN: Final = ("agents.sb3.config:DQNConfig", "agents.sb3.trainer:SB3Trainer", 300_000, "decisions")
_IMITATION: Final = (
    "agents.imitation.config:ImitationConfig",
    "agents.imitation.trainer:ImitationTrainer",
    200_000,
    "decisions",
)
_RLLIB_PPO: Final = ("agents.rllib.config:RLlibPPOConfig", "agents.rllib.trainer:RLlibTrainer", 1_000_000, "decisions")
_RLLIB_DQN: Final = ("agents.rllib.config:RLlibDQNConfig", "agents.rllib.trainer:RLlibTrainer", 300_000, "decisions")
_EVOLUTION: Final = ("agents.evolution.trainer:EvolutionTrainer", 6_000, "candidates")

ALGORITHMS: Final[dict[str, Algorithm]] = {
    "linear": Algorithm(
        "agents.evolution.trainer:LinearConfig", *_EVOLUTION, "a score that is linear in the named features, by CMA-ES"
    ),
    "network": Algorithm(
        "agents.evolution.trainer:NetworkConfig", *_EVOLUTION, "all weights of a network, by an evolution strategy"
    ),
    "imitation": Algorithm(*_IMITATION, "imitates the clairvoyant reference, also in states that the agent gets into"),
    "maskable-ppo": Algorithm(*_PPO, "PPO that never proposes an illegal action"),
    "ppo": Algorithm(*_PPO, "PPO whose network masks itself"),
    "dqn": Algorithm(*_DQN, "deep Q-learning whose network masks itself"),
    "qrdqn": Algorithm(*_DQN, "quantile-regression DQN whose network masks itself"),
    "rllib-ppo": Algorithm(
        *_RLLIB_PPO, "PPO of RLlib, whose env runners may be on many machines", EXTRA_RLLIB, on_ray=True
    ),
    "rllib-dqn": Algorithm(
        *_RLLIB_DQN, "double DQN of RLlib, whose env runners may be on many machines", EXTRA_RLLIB, on_ray=True
    ),
}
SPREAD: Final = ("linear", "network", "imitation")  # they play whole episodes side by side, by any executor
DEFAULT_ALGORITHM: Final = "linear"  # needs no torch, and the smallest budget


def algorithm_of(name: str) -> Algorithm:
    """Find an algorithm by its name.

    Raises:
        ConfigError: there is no such algorithm.
    """
    if name not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise ConfigError(f"no algorithm called {name!r}{did_you_mean(str(name), ALGORITHMS)}; known are {known}")
    return ALGORITHMS[name]


def config_class(name: str) -> type[Frozen]:
    """The configuration of an algorithm.

    Together they are a union told apart by the key `algorithm`. It is taken apart here and not by pydantic, which would
    have to import all of them, torch included, to read one.

    Raises:
        ConfigError: there is no such algorithm, or a library that it needs is missing.
    """
    found: type[Frozen] = _found(name, "config")
    return found


def read_config(source: str | Path | Mapping[str, Any], name: str = "configuration") -> Frozen:
    """Read a trainer's configuration from a YAML file or a mapping; its key `algorithm` chooses the class.

    Raises:
        ConfigError: unknown algorithm, unknown key, wrong type or value out of range; names file and key.
    """
    content = dict(source) if isinstance(source, Mapping) else read_yaml(source)
    where = name if isinstance(source, Mapping) else str(source)
    return parse(config_class(chosen(content, where)), content, where)


def chosen(content: Mapping[str, Any], where: str) -> str:
    """The algorithm that a configuration names, or the default one.

    Raises:
        ConfigError: there is no such algorithm.
    """
    name = content.get("algorithm", DEFAULT_ALGORITHM)
    try:
        algorithm_of(name)
    except (ConfigError, TypeError) as error:  # a list is not a key
        raise ConfigError(f"{where}: algorithm: {error}") from error
    return str(name)


def make_trainer(config: Frozen, executor: Executor | None = None) -> Trainer:
    """Make the trainer of a configuration, at step 0.

    Args:
        config: from `read_config`.
        executor: plays the episodes of an algorithm in `SPREAD`; None: this machine, as the configuration says.

    Raises:
        ConfigError: a scenario or a file that the configuration names cannot be used.
    """
    given = [] if executor is None else [executor]
    trainer: Trainer = _found(config.algorithm, "trainer")(config, *given)  # type: ignore[attr-defined]
    return trainer


def check_spread(name: str) -> None:
    """Checks that an algorithm can be given an executor.

    Raises:
        ConfigError: it has no use for one.
    """
    if name not in SPREAD:
        raise ConfigError(f"algorithm {name!r} does not play by an executor; --executor ray is for {', '.join(SPREAD)}")


def _found(name: str, what: str) -> Any:
    """Import the configuration or the trainer of an algorithm."""
    module, _, attribute = getattr(algorithm_of(name), what).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("agents", "cace_env"):
            raise
        raise ConfigError(
            f"algorithm {name!r} needs {error.name}, which is not installed; {algorithm_of(name).extra}"
        ) from error
