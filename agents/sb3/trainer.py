"""Trains an agent by an algorithm of Stable-Baselines3: MaskablePPO, PPO, DQN or QR-DQN.

    trainer = SB3Trainer(PPOConfig(train_on=("workstation",), num_envs=16))
    trainer.learn(100_000, print)
    save_agent(trainer.agent(), folder)

What a checkpoint holds: weights, optimiser, counters, random generators, and the running episodes, as their workloads
and the actions taken. A resumed PPO therefore goes on to the bit. DQN and QR-DQN do so with `keep_buffer`; without it
the replay buffer, hundreds of megabytes, is collected anew before learning goes on, by the policy as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from agents.sb3.config import DQNConfig, PPOConfig
from agents.sb3.training_env import TrainingVecEnv
from agents.state_files import load_state, save_state
from cace_env.config import ConfigError
from cace_env.evaluation.held_out import recorded, seeds_text, spent_before, training_scenarios
from cace_env.networks import ScoreNetwork
from cace_env.policies import Agent, load_agent
from cace_env.policies.agent import AgentCard
from cace_env.sb3 import MaskableDQN, MaskableQRDQN, begin_as, score_network
from cace_env.sb3.policies import NAME
from cace_env.sb3.saving import wider
from cace_env.scenarios import SEEDS

__all__ = ["DQNConfig", "PPOConfig", "SB3Trainer"]

ALGORITHMS: Final[dict[str, Any]] = {
    "maskable-ppo": MaskablePPO,
    "ppo": PPO,
    "dqn": MaskableDQN,
    "qrdqn": MaskableQRDQN,
}
BUFFER: Final = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
# What SB3 logs, and what it is called here.
LOGGED: Final = {
    "train/policy_gradient_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "approx_kl",
    "train/clip_fraction": "clip_fraction",
    "train/explained_variance": "explained_variance",
    "train/loss": "loss",
    "train/n_updates": "updates",
    "rollout/exploration_rate": "exploration",
}


class SB3Trainer:
    """A `agents.algorithms.Trainer` that leaves learning to Stable-Baselines3.

    Args:
        config: what to train, on what, and how.

    Attributes:
        venv: the environments, with rewards as `agents.sb3.training_env` says.
        algorithm: SB3's.
        limits: least and greatest value of each feature so far, as the card has them.

    Raises:
        ConfigError: an unknown scenario or agent, or an agent to begin from that has another environment or size.
    """

    def __init__(self, config: PPOConfig | DQNConfig) -> None:
        self.config = config
        first = None if config.init is None else _begin_from(config.init, config)
        self._before = spent_before(config.init)
        torch.set_num_threads(config.threads)
        self.venv = TrainingVecEnv(
            training_scenarios(config.train_on, config.env),
            config.env,
            config.num_envs,
            baseline=config.baseline,
            num_workloads=config.num_workloads,
            threads=config.threads,
        )
        self.wall_s = 0.0
        self.limits: dict[str, tuple[float, float]] = {}
        self.algorithm = _algorithm(config, self.venv)
        self.scores: ScoreNetwork = score_network(self.algorithm.policy)
        if first is not None:
            begin_as(self.algorithm.policy, first.network)

    @property
    def step(self) -> int:
        """Decisions so far."""
        return int(self.algorithm.num_timesteps)

    @property
    def requests(self) -> int:
        """Simulated so far: for the baseline, its scale, running episodes and the agent it began from, too."""
        return self._before + self.venv.requests

    @property
    def batch(self) -> int:
        """Decisions of all environments between two updates."""
        config = self.config
        return config.num_envs * (config.n_steps if isinstance(config, PPOConfig) else config.train_every)

    def learn(self, steps: int, tick: Callable[[int], None]) -> dict[str, float]:
        """Learns for at least `steps` more decisions: PPO for whole rollouts of all environments.

        Returns:
            SB3's losses and the like, and of the episodes that have ended since the last call: `episodes`,
            `cost_per_request`, and `cost_over_baseline`, the mean over scenarios of their cost over the baseline's on
            the same requests (the exploring policy's, on training seeds).
        """

        def watch(_locals: Any, _globals: Any) -> bool:
            tick(self.step)
            if isinstance(self.config, PPOConfig):
                self.scores.requires_grad_(self.step > self.config.value_warmup)
            return True

        began_s = time.perf_counter()
        self.algorithm.learn(steps, callback=watch, log_interval=None, reset_num_timesteps=False)
        self.limits = wider(self.limits, self.algorithm)  # of each interval the last observations are looked at
        self.wall_s += time.perf_counter() - began_s
        return self._metrics()

    def agent(self) -> Agent:
        """The current policy, acting greedily."""
        config = self.config
        train = SEEDS["train"] if config.num_workloads is None else SEEDS["train"][: config.num_workloads]
        card = AgentCard(
            name=f"{config.algorithm}-{config.env.lower()}",
            env=config.env,
            algorithm=config.algorithm,
            hidden=config.hidden,
            description=f"{config.algorithm} of Stable-Baselines3, {self.step:,} decisions",
            trained_on=self.venv.names,
            train_seeds=seeds_text(train),
            requests=self.requests,
            wall_s=round(self.wall_s, 1),
            limits=self.limits,
        )
        return Agent(recorded(card), self.scores.to_network())

    def save(self, folder: Path) -> None:
        """Write what a resumed training needs (see the module)."""
        algorithm = self.algorithm
        state: dict[str, Any] = {
            "algorithm": self.config.algorithm,
            "parameters": algorithm.get_parameters(),
            "steps": self.step,
            "updates": algorithm._n_updates,
            "wall_s": self.wall_s,
            "limits": self.limits,
            "torch": torch.get_rng_state(),
            "numpy": _numpy_state(),
        }
        if algorithm._last_obs is not None:
            state |= {"environments": self.venv.state(), "episode_starts": algorithm._last_episode_starts}
        if isinstance(self.config, DQNConfig):
            buffer = algorithm.replay_buffer
            state |= {"calls": algorithm._n_calls, "exploration": algorithm.exploration_rate}
            if self.config.keep_buffer:
                state |= {name: getattr(buffer, name) for name in BUFFER}
                state |= {"position": buffer.pos, "full": buffer.full}
        save_state(state, folder)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote under the same configuration.

        Raises:
            ConfigError: the folder holds something else.
        """
        state, algorithm = load_state(folder), self.algorithm
        if not isinstance(state, dict) or state.get("algorithm") != self.config.algorithm:
            raise ConfigError(f"{folder}: does not hold a training by {self.config.algorithm}")
        try:
            algorithm.set_parameters(state["parameters"], exact_match=True)
            self._restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{folder}: was written under another configuration ({error})") from error

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore everything except the weights."""
        algorithm = self.algorithm
        algorithm.num_timesteps, algorithm._n_updates = state["steps"], state["updates"]
        self.wall_s, self.limits = state["wall_s"], state["limits"]
        if "environments" in state:
            algorithm._last_obs = self.venv.restore(state["environments"])
            algorithm._last_episode_starts = state["episode_starts"]
        if isinstance(self.config, DQNConfig):
            buffer = algorithm.replay_buffer
            algorithm._n_calls, algorithm.exploration_rate = state["calls"], state["exploration"]
            if self.config.keep_buffer:
                for name in BUFFER:
                    getattr(buffer, name)[:] = state[name]
                buffer.pos, buffer.full = state["position"], state["full"]
            else:
                algorithm.learning_starts = self.step + self.config.learning_starts
        torch.set_rng_state(state["torch"])
        _set_numpy_state(state["numpy"])

    def _metrics(self) -> dict[str, float]:
        """SB3's logged numbers, and results of the episodes since the last call."""
        logged = self.algorithm.logger.name_to_value
        metrics = {name: float(logged[key]) for key, name in LOGGED.items() if key in logged}
        if "train/entropy_loss" in logged:
            metrics["entropy"] = -float(logged["train/entropy_loss"])
        metrics["learning_rate"] = self.config.learning_rate_at(self.step)
        finished, self.venv.finished = self.venv.finished, []
        metrics["episodes"] = float(len(finished))
        if finished:
            metrics["cost_per_request"] = sum(e.cost for e in finished) / sum(e.requests for e in finished)
        if finished and self.config.baseline is not None:
            costs = np.zeros((len(self.venv.names), 2))
            for episode in finished:
                costs[episode.scenario] += episode.cost, episode.baseline_cost
            known = costs[costs[:, 1] > 0]
            metrics["cost_over_baseline"] = float((known[:, 0] / known[:, 1]).mean())
        return metrics


def _algorithm(config: PPOConfig | DQNConfig, venv: TrainingVecEnv) -> Any:
    """SB3's algorithm as configured, at step 0."""
    algorithm: Any = None  # made below; schedules ask it for its step
    kind, shape = ALGORITHMS[config.algorithm], {"hidden": config.hidden, "value_hidden": config.value_hidden}
    settings: dict[str, Any] = {
        "learning_rate": lambda _: config.learning_rate_at(algorithm.num_timesteps if algorithm else 0),
        "gamma": config.gamma,
        "max_grad_norm": config.max_grad_norm,
        "batch_size": config.batch_size,
        "n_steps": config.n_steps,
        "seed": config.seed,
        "device": "cpu",
    }
    if isinstance(config, PPOConfig):
        algorithm = kind(
            NAME,
            venv,
            n_epochs=config.n_epochs,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            target_kl=config.target_kl,
            ent_coef=config.ent_coef,
            vf_coef=config.vf_coef,
            policy_kwargs=shape,
            **settings,
        )
    else:
        if config.algorithm == "qrdqn":
            shape["n_quantiles"] = config.quantiles
        algorithm = kind(
            NAME,
            venv,
            buffer_size=config.buffer_size,
            learning_starts=config.learning_starts,
            train_freq=config.train_every,
            gradient_steps=config.gradient_steps,
            target_update_interval=max(config.target_every, config.num_envs),
            policy_kwargs=shape,
            **settings,
        )
        algorithm.exploration_schedule = lambda _: config.exploration_at(algorithm.num_timesteps)
        algorithm.exploration_rate = config.exploration_at(0)
    algorithm.set_logger(Logger(folder=None, output_formats=[]))  # what it records is read by `learn`
    return algorithm


def _begin_from(what: str, config: PPOConfig | DQNConfig) -> Agent:
    """Load the initial agent."""
    agent = load_agent(what)
    if agent.card.env != config.env or agent.network.hidden not in (0, config.hidden):
        raise ConfigError(
            f"init {what!r} is an agent for {agent.card.env.env_name} with {agent.network.hidden} hidden units, the "
            f"configuration says {config.env.env_name} and {config.hidden}; set env and hidden to those of the agent "
            "(a linear one begins a network of any size)"
        )
    return agent


def _numpy_state() -> tuple[Any, ...]:
    """The state of NumPy's global generator, which SB3 draws from; its words as int64, which tensors can be."""
    name, words, *rest = np.random.get_state(legacy=True)
    return name, np.asarray(words, dtype=np.int64), *rest


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    name, words, *rest = state
    np.random.set_state((name, words.astype(np.uint32), *rest))
