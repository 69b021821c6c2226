"""The training environment for Stable-Baselines3: several scenarios in one vector environment, with a baseline.

The environment does the work (`cace_env.envs.baselines`): environment i has scenario `i % n`, all with the slots and
pending rows of the largest, rewards are divided by what LRU pays per decision on that scenario, and what the baseline
has paid by the same moment is added back. As every scenario gets the same number of decisions, the sum of rewards is
the mean over scenarios of cost over LRU's cost, which is what agents are judged by. Added here is what a training
needs besides: a count of simulated requests, the episodes that have ended, and a state to go on from.

Seeds are those of the training split; nothing here takes others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn, VecEnvWrapper

from cace_env.config import ConfigError
from cace_env.envs import FleetVectorEnv
from cace_env.sb3 import EvictionVecEnv, FleetVecEnv, SwapVecEnv
from cace_env.sb3.saving import requests_for_rewards
from cace_env.scenarios import Scenario
from cace_env.tables import Protocol

VEC_ENVS: Final[dict[Protocol, type[FleetVecEnv]]] = {
    Protocol.EVICTION: EvictionVecEnv,
    Protocol.SWAP: SwapVecEnv,
}


class Finished(NamedTuple):
    """An episode that has ended."""

    scenario: int  # its number
    cost: float
    baseline_cost: float  # of the baseline on the same requests; NaN without one
    requests: int
    decisions: int


class TrainingVecEnv(VecEnvWrapper):
    """Environments to train on.

    Args:
        scenarios: by name, from `cace_env.evaluation.held_out.training_scenarios`.
        env: the environment.
        num_envs: how many environments, a multiple of the number of scenarios.
        baseline: a built-in policy whose cost is added back; None = rewards are costs, scaled all the same.
        num_workloads: play only so many training seeds and keep their requests; None = fresh requests in every episode.
        threads: of the simulation.
        strict: illegal actions raise. Otherwise they are replaced as everywhere; there is no penalty for them.

    Attributes:
        layout: of the observations.
        finished: episodes that have ended; a reader may empty the list.

    Raises:
        ConfigError: scenarios would get unequal numbers of environments, the baseline is unknown, or there is a
            scenario where there is nothing to learn.
    """

    def __init__(
        self,
        scenarios: Mapping[str, Scenario],
        env: Protocol,
        num_envs: int,
        *,
        baseline: str | None = "lru",
        num_workloads: int | None = None,
        threads: int = 1,
        strict: bool = False,
    ) -> None:
        if num_envs % len(scenarios):
            raise ConfigError(
                f"{num_envs} environments cannot be shared evenly by {len(scenarios)} scenarios; give a multiple of it"
            )
        venv = VEC_ENVS[env](
            num_envs,
            scenario=list(scenarios.values()),
            split="train",
            num_workloads=num_workloads,
            threads=threads,
            baseline=baseline,
            scale_rewards=True,
            strict=strict,
            invalid_penalty=0.0,
        )
        super().__init__(venv)
        self.names = tuple(scenarios)
        envs: Any = venv.vector_env.unwrapped
        self.envs: FleetVectorEnv = envs
        self.layout = self.envs.layout
        self.finished: list[Finished] = []
        self._requests = 0  # of episodes that have ended
        self._played = np.zeros(num_envs, dtype=np.int64)  # workload seeds
        self._taken: list[list[int]] = [[] for _ in range(num_envs)]  # actions of the running episodes

    @property
    def requests(self) -> int:
        """Requests simulated so far, those of the baseline, of its scale and of running episodes included."""
        return self._requests + self._running + requests_for_rewards(self.venv)

    @property
    def base(self) -> FleetVecEnv:
        """The environments themselves."""
        venv: Any = self.venv
        return venv  # type: ignore[no-any-return]

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        self._requests += self._running
        observations = self.venv.reset()
        self._begin(range(self.num_envs))
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keeps the actions, for the step and for `state`."""
        for taken, action in zip(self._taken, actions.tolist(), strict=True):
            taken.append(action)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Steps; rewards `(N,)` float32 are what was saved against the baseline, in costs of a decision of LRU."""
        observations, rewards, dones, infos = self.venv.step_wait()
        if dones.any():
            ended = np.flatnonzero(dones)
            for env in ended.tolist():
                self._end(env, infos[env])
            self._begin(ended)
        return observations, rewards, dones, infos

    def state(self) -> dict[str, Any]:
        """How to get back to where all environments are now, as `agents.state_files` can write it.

        An episode is its workload and the actions taken so far, so that is what is kept.
        """
        return {
            "workload_seeds": self._played.copy(),
            "lengths": np.array([len(taken) for taken in self._taken]),
            "actions": np.array([action for taken in self._taken for action in taken], dtype=np.int64),
            "generators": [self.envs.get_state(env).generator for env in range(self.num_envs)],
            "requests": self.requests,
        }

    def restore(self, state: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Continue where `state` was taken; the observations there, `(N, layout.size)`.

        The running episodes are simulated again up to that point, which `requests` does not count twice.

        Raises:
            ConfigError: the state has another number of environments.
        """
        seeds_then, lengths = state["workload_seeds"], state["lengths"]
        if len(seeds_then) != self.num_envs:
            raise ConfigError(
                f"the state has {len(seeds_then)} environments, but there are {self.num_envs}; make as many"
            )
        self.base.set_options([{"workload_seed": int(seed)} for seed in seeds_then])
        self.reset()
        actions = np.split(state["actions"], np.cumsum(lengths)[:-1])
        reached: dict[int, Any] = {}
        for step in range(int(lengths.max()) + 1):
            for env in np.flatnonzero(lengths == step).tolist():
                reached[env] = self.envs.get_state(env)._replace(generator=state["generators"][env])
            legal = self.envs.action_masks().argmax(axis=1)  # of those that are there already
            self.envs.step([int(a[step]) if step < len(a) else int(legal[env]) for env, a in enumerate(actions)])
        for env, reached_state in reached.items():
            self.envs.set_state(env, reached_state)
        look = self.envs.simulators.new_look()
        self.envs.simulators.see(np.arange(self.num_envs), look)
        self.base.step_infos = {"action_mask": look.masks}
        self._taken = [each.tolist() for each in actions]
        self._requests += state["requests"] - self.requests
        return look.observations

    def _begin(self, which: Iterable[int]) -> None:
        """Episodes have begun."""
        played = self.base.step_infos["workload_seed"]
        for env in which:
            self._played[env] = played[env]
            self._taken[env] = []

    def _end(self, env: int, info: Mapping[str, Any]) -> None:
        """An episode is over."""
        metrics = info["episode_metrics"]
        requests = int(metrics["requests"])
        self._requests += requests
        self.finished.append(
            Finished(
                int(self.envs.scenario_of[env]),
                metrics["cost"],
                metrics.get("baseline_cost", np.nan),
                requests,
                int(metrics["decisions"]),
            )
        )

    @property
    def _running(self) -> int:
        """Requests of the running episodes so far."""
        envs = range(self.num_envs if self.base.step_infos else 0)
        return sum(int(self.envs.simulators.view(env).summary().shares[:, 0].sum()) for env in envs)
