"""Trains an agent by PPO or DQN of RLlib, whose env runners may be on many machines.

    with ray.init(num_cpus=2):
        trainer = RLlibTrainer(RLlibPPOConfig(train_on=("workstation",), runners=2))
        trainer.learn(100_000, print)
        save_agent(trainer.agent(), folder)

Env runners play the native vector environment (`agents.rllib.playing`), and one that is lost is started again by RLlib;
what it had not handed over is lost. The process that learns is the caller's, unless `learners` says otherwise.

What a checkpoint holds: the state of RLlib's learner (weights, target network, optimiser) and counters, as files
without pickle, which RLlib's own checkpoints are. Everything that depends on the step is set from there. Episodes begin
anew, with other seeds, and the replay buffer of DQN is collected anew before learning goes on.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from agents.rllib import playing
from agents.rllib.config import RLlibConfig, RLlibDQNConfig, RLlibPPOConfig
from agents.rllib.modules import SlotActionValues, SlotActorCritic
from agents.state_files import load_state, save_state
from cace_env.config import ConfigError
from cace_env.evaluation.agent_folders import agent_of
from cace_env.evaluation.held_out import seeds_text, spent_before, training_scenarios
from cace_env.policies import Agent, load_agent
from cace_env.policies.network import Network
from cace_env.scenarios import SEEDS, Scenario

__all__ = ["RLlibDQNConfig", "RLlibPPOConfig", "RLlibTrainer"]

ENV: Final = "cace-env"
SAMPLE_S: Final = 600.0  # within which a sample has to come back: compiling is part of the first one
LOST_S: Final = 900.0  # without a decision; then nobody will bring the env runners back
MODULE: Final = "default_policy"
LEARNER: Final = "learner"
KEPT: Final = ("rl_module", "optimizer")  # of the learner's state
# What RLlib logs, and what it is called here.
LEARNED: Final = {
    "policy_loss": "policy_loss",
    "vf_loss": "value_loss",
    "entropy": "entropy",
    "qf_loss": "loss",
    "qf_mean": "mean_value",
    "td_error_mean": "mean_error",
}
SAMPLING: Final = "env_runner_sampling_timer"
LEARNING: Final = "learner_update_timer"
WHOLE: Final = "training_iteration"


class RLlibTrainer:
    """A `agents.algorithms.Trainer` that leaves playing and learning to RLlib.

    The processes are started when they are first needed.

    Args:
        config: what to train, on what, and how.

    Raises:
        ConfigError: an unknown scenario, agent or baseline, an agent to begin from that has another environment or
            size, too many workloads, or environments that scenarios cannot share evenly.
    """

    def __init__(self, config: RLlibPPOConfig | RLlibDQNConfig) -> None:
        self.config = config
        self._first = None if config.init is None else _begin_from(config.init, config)
        self._before = spent_before(config.init)
        self.scenarios = training_scenarios(config.train_on, config.env)
        if config.envs_per_runner % len(self.scenarios):
            raise ConfigError(
                f"{config.envs_per_runner} environments cannot be shared evenly by {len(self.scenarios)} scenarios; "
                "make envs_per_runner a multiple of it"
            )
        # Env runners are other processes, whose errors nobody would understand.
        playing.make_env(env_config_of(config, self.scenarios, 0) | {"num_envs": len(self.scenarios)}).close()
        self.step = 0  # decisions so far
        self.wall_s = 0.0
        self._simulated = 0
        self._start = 0  # the step that this process began at

    @property
    def requests(self) -> int:
        """Simulated so far, as far as env runners have said: for baselines and the agent it began from, too."""
        return self._before + self._simulated

    @property
    def batch(self) -> int:
        """1: an env runner that has begun a step of all its environments ends it, so batches differ a little."""
        return 1

    @cached_property
    def algorithm(self) -> Any:
        """RLlib's, with its processes."""
        torch.set_num_threads(self.config.threads)
        for name in ("ray.rllib", "ray.tune"):  # advice for those who write programs with them
            logging.getLogger(name).setLevel(logging.ERROR)
        register_env(ENV, playing.make_env)
        made = configured(self.config, self.scenarios, self._start, self._first).build_algo()
        with contextlib.suppress(OSError):
            Path(made.logdir).rmdir()  # a folder for logs in ~/ray_results, where nothing is logged
        return made

    def learn(self, steps: int, tick: Callable[[int], None]) -> dict[str, float]:
        """Learns for at least `steps` more decisions.

        Returns:
            RLlib's losses and the like; `sampling_share` and `learning_share` of the time; and of the episodes that
            have ended since the last call `episodes`, `cost_per_request` and `cost_over_baseline`, as `SB3Trainer` has
            them.

        Raises:
            OSError: all env runners were lost, and did not come back.
        """
        began_s = heard_s = time.perf_counter()
        goal, result, told = self.step + steps, {}, Costs(len(self.scenarios))
        while self.step < goal:
            result = self.algorithm.train()
            played = result.get("env_runners", {})
            decisions = int(_number(played, "num_env_steps_sampled"))
            if decisions:
                heard_s = time.perf_counter()
            elif time.perf_counter() - heard_s > LOST_S:
                raise OSError(f"no env runner has played for {LOST_S:.0f} s; is there a core for each in the cluster?")
            self.step += decisions
            self._simulated += int(_number(played, playing.REQUESTS))
            told.add(played)
            tick(self.step)
        self.wall_s += time.perf_counter() - began_s
        return self._metrics(result) | told.metrics()

    def agent(self) -> Agent:
        """The current policy, acting greedily."""
        config = self.config
        train = SEEDS["train"] if config.num_workloads is None else SEEDS["train"][: config.num_workloads]
        return agent_of(
            self.algorithm.get_module().net,
            algorithm=config.algorithm,
            name=f"{config.algorithm}-{config.env.lower()}",
            description=f"{config.algorithm.removeprefix('rllib-')} of RLlib, {self.step:,} decisions",
            trained_on=tuple(self.scenarios),
            train_seeds=seeds_text(train),
            requests=self.requests,
            wall_s=round(self.wall_s, 1),
        )

    def save(self, folder: Path) -> None:
        """Write what a resumed training needs (see the module)."""
        learner = self.algorithm.learner_group.get_state()[LEARNER]
        state = {
            "algorithm": self.config.algorithm,
            "learner": {name: learner[name] for name in KEPT},
            "step": self.step,
            "simulated": self._simulated,
            "wall_s": self.wall_s,
        }
        save_state(state, folder)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote under the same configuration.

        Raises:
            ConfigError: the folder holds something else.
        """
        state = load_state(folder)
        if not isinstance(state, dict) or state.get("algorithm") != self.config.algorithm:
            raise ConfigError(f"{folder}: does not hold a training by {self.config.algorithm}")
        try:
            self.step = self._start = state["step"]
            self._simulated, self.wall_s = state["simulated"], state["wall_s"]
            self.algorithm.set_state({"learner_group": {LEARNER: state["learner"]}})
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{folder}: was written under another configuration ({error})") from error

    def _metrics(self, result: dict[str, Any]) -> dict[str, float]:
        """What the learner says, and where time went."""
        learned = result.get("learners", {}).get(MODULE, {})
        metrics = {name: float(learned[key]) for key, name in LEARNED.items() if np.isfinite(learned.get(key, np.nan))}
        metrics["learning_rate"] = self.config.learning_rate_at(self.step)
        timers = result.get("timers", {})
        for name, key in {"sampling_share": SAMPLING, "learning_share": LEARNING}.items():
            if key in timers and WHOLE in timers:
                metrics[name] = float(timers[key] / timers[WHOLE])
        return metrics


class Costs:
    """Costs of the episodes that have ended, by scenario.

    Args:
        scenarios: how many there are.
    """

    def __init__(self, scenarios: int) -> None:
        self._names = [str(number) for number in range(scenarios)]
        self._costs = dict.fromkeys(self._names, 0.0)
        self._baseline = dict.fromkeys(self._names, 0.0)
        self._episodes = self._requests = 0.0

    def add(self, played: dict[str, Any]) -> None:
        """What env runners have said after an iteration."""
        self._episodes += _number(played, "num_episodes")
        self._requests += _number(played, playing.FINISHED)
        for sums, key in ((self._costs, playing.COST), (self._baseline, playing.BASELINE_COST)):
            for scenario in played.get(key, {}):
                sums[scenario] += _number(played[key], scenario)

    def metrics(self) -> dict[str, float]:
        """See `RLlibTrainer.learn`."""
        metrics = {"episodes": self._episodes}
        if self._requests:
            metrics["cost_per_request"] = sum(self._costs.values()) / self._requests
        known = [self._costs[name] / self._baseline[name] for name in self._names if self._baseline[name] > 0]
        if known:
            metrics["cost_over_baseline"] = sum(known) / len(known)
        return metrics


def _number(found: dict[str, Any], name: str) -> float:
    """A sum that RLlib says; 0 where it says none, or NaN because no env runner has answered."""
    value = float(found.get(name, 0.0))
    return 0.0 if math.isnan(value) else value


def env_config_of(config: RLlibConfig, scenarios: dict[str, Scenario], start: int) -> dict[str, Any]:
    """What env runners make their environments from (`playing.make_env`)."""
    return {
        "env": config.env,
        "scenarios": [scenario.model_dump_json() for scenario in scenarios.values()],
        "num_workloads": config.num_workloads,
        "baseline": config.baseline,
        "strict": True,  # no module here chooses what is illegal
        "seed": (config.seed, start),
    }


def configured(
    config: RLlibPPOConfig | RLlibDQNConfig, scenarios: dict[str, Scenario], start: int, first: Network | None
) -> AlgorithmConfig:
    """RLlib's configuration.

    Args:
        config: of the training.
        scenarios: by name.
        start: the step that training begins at, from which schedules go on.
        first: a network to begin as.
    """
    kind: Any = PPOConfig if isinstance(config, RLlibPPOConfig) else DQNConfig
    sizes: dict[str, Any] = {"hidden": config.hidden, "value_hidden": config.value_hidden, "first": first}
    made = (
        kind()
        .environment(
            ENV,
            env_config=env_config_of(config, scenarios, start),
        )
        .env_runners(
            num_env_runners=config.runners,
            num_envs_per_env_runner=config.envs_per_runner,
            gym_env_vectorize_mode="vector_entry_point",
            sample_timeout_s=SAMPLE_S,
        )
        .learners(num_learners=config.learners)
        .callbacks(playing.Told)
        .fault_tolerance(restart_failed_env_runners=True)
        .reporting(min_time_s_per_iteration=None, min_sample_timesteps_per_iteration=0)
        .debugging(seed=(config.seed + start) % playing.MOST_SEED, log_level="ERROR")
        .training(
            gamma=config.gamma,
            lr=config.schedule(config.learning_rate_at, config.decay_steps, start),
            grad_clip=config.max_grad_norm,
        )
    )
    if isinstance(config, RLlibPPOConfig):
        module = SlotActorCritic
        made.training(
            train_batch_size_per_learner=config.decisions_per_learner,
            minibatch_size=config.batch_size,
            num_epochs=config.n_epochs,
            lambda_=config.gae_lambda,
            clip_param=config.clip_range,
            use_kl_loss=False,
            entropy_coeff=config.ent_coef,
            vf_loss_coeff=config.vf_coef,
        )
    else:
        module = SlotActionValues
        sizes["exploration"] = config.schedule(config.exploration_at, config.exploration_steps, start)
        sampled = config.train_every * config.envs_per_runner * (config.runners + 1)  # as RLlib counts runners here
        made.env_runners(rollout_fragment_length=config.train_every)
        made.training(
            train_batch_size_per_learner=config.batch_size // max(config.learners, 1),
            training_intensity=config.gradient_steps * config.batch_size / sampled,
            n_step=config.n_steps,
            num_steps_sampled_before_learning_starts=config.learning_starts,
            target_network_update_freq=config.target_every,
            replay_buffer_config={"type": "PrioritizedEpisodeReplayBuffer", "capacity": config.buffer_size},
        )
    return made.rl_module(rl_module_spec=RLModuleSpec(module_class=module, model_config=sizes))


def _begin_from(what: str, config: RLlibConfig) -> Network:
    """Load the initial agent's network."""
    agent = load_agent(what)
    if agent.card.env != config.env or agent.network.hidden not in (0, config.hidden):
        raise ConfigError(
            f"init {what!r} is an agent for {agent.card.env.env_name} with {agent.network.hidden} hidden units, the "
            f"configuration says {config.env.env_name} and {config.hidden}; set env and hidden to those of the agent "
            "(a linear one begins a network of any size)"
        )
    return agent.network
