"""What agents of Stable-Baselines3 train on: some scenarios in one vector environment, rewards against a baseline.

Three things are done to the environment, and none of them changes what the best policy is:

- **Scenarios of different size in one batch.** The native vector environment gives environment i scenario `i % n`, all
  with the slots and pending rows of the largest; networks of `agents.networks` do not see what is only padding.
- **Scale.** Rewards are divided by what LRU pays per decision on that scenario, so that none dominates and
  hyperparameters mean the same everywhere. As every scenario gets the same number of decisions, the sum of rewards is
  the mean over scenarios of cost over LRU's cost, which is what agents are judged by.
- **Baseline.** What LRU had paid by the same moment on the same requests is added back. It depends on the requests and
  not on the agent, so over an episode it is a constant, LRU's cost; but bursts and quiet hours no longer hide what a
  decision was worth (input-dependent baselines: Mao et al., ICLR 2019). With a discount below 1 it is a constant only
  nearly, as the agent decides at which moments it is read.

Seeds are those of the training split; nothing here takes others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn, VecEnvWrapper

from agents.cost_curve import Curve, cost_curve
from cace_env.config import ConfigError
from cace_env.evaluation import case_of
from cace_env.fleet_vector_env import FleetVectorEnv
from cace_env.policies import policy as find_policy
from cace_env.sb3 import EvictionVecEnv, FleetVecEnv, SwapVecEnv
from cace_env.scenarios import Scenario, seeds
from cace_env.suite import ENVS, Env

VEC_ENVS: Final[dict[Env, type[FleetVecEnv]]] = {"Eviction-v0": EvictionVecEnv, "Swap-v0": SwapVecEnv}
SCALE_SEEDS: Final = 8  # training seeds on which LRU says what a decision costs


class Finished(NamedTuple):
    """An episode that has ended."""

    scenario: int  # its number
    cost: float
    baseline_cost: float  # LRU's on the same requests; NaN without a baseline
    requests: int
    decisions: int


class TrainingVecEnv(VecEnvWrapper):
    """Environments to train on, with rewards scaled and measured against LRU as the module says.

    Args:
        scenarios: by name, from `agents.objective.training_scenarios`.
        env: "Eviction-v0" or "Swap-v0".
        num_envs: how many environments, a multiple of the number of scenarios.
        baseline: a built-in policy whose cost is added back; None = rewards are costs, scaled all the same.
        num_workloads: play only so many training seeds and keep their requests; None = fresh requests in every episode.
        threads: of the simulation.
        strict: illegal actions raise. Otherwise they are replaced as everywhere; there is no penalty for them.

    Attributes:
        layout: of the observations.
        scales: what LRU pays per decision on each scenario, `(n,)`, by which its rewards are divided.
        finished: episodes that have ended; whoever reads them may empty the list.

    Raises:
        ConfigError: a number of environments that leaves some scenario fewer than others, or an unknown baseline.
    """

    def __init__(
        self,
        scenarios: Mapping[str, Scenario],
        env: Env,
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
            strict=strict,
            invalid_penalty=0.0,
        )
        super().__init__(venv)
        self.names = tuple(scenarios)
        envs: Any = venv.vector_env.unwrapped
        self.envs: FleetVectorEnv = envs
        self.layout = self.envs.layout
        self.finished: list[Finished] = []
        self._cases = [case_of(scenario, ENVS[env]) for scenario in scenarios.values()]
        self._scenario_of = self.envs.scenario_of  # (N,)
        self._lru, self._baseline = find_policy("lru"), None if baseline is None else find_policy(baseline)
        self._curves: dict[tuple[int, int], Curve] | None = None if num_workloads is None else {}
        self._requests = 0
        self.scales = np.array([self._scale(number) for number in range(len(self._cases))])
        self._playing: list[Curve | None] = [None] * num_envs
        self._played = np.zeros(num_envs, dtype=np.int64)  # workload seeds
        self._taken: list[list[int]] = [[] for _ in range(num_envs)]  # actions of the running episodes
        self._paid = np.zeros(num_envs)  # by the baseline, until the last decision

    @property
    def requests(self) -> int:
        """Requests simulated so far, those of the baseline and of running episodes included."""
        running = sum(int(self.envs.simulators.view(env).summary().shares[:, 0].sum()) for env in self._running())
        return self._requests + running

    @property
    def base(self) -> FleetVecEnv:
        """The environments themselves."""
        venv: Any = self.venv
        return venv  # type: ignore[no-any-return]

    def reset(self) -> VecEnvObs:
        """Starts an episode everywhere."""
        self._requests = self.requests
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
        if self._baseline is not None:
            paid = np.array([curve.at(time_s) for curve, time_s in self._times()])
            ended = np.flatnonzero(dones)
            paid[ended] = [self._playing[env].cost for env in ended]  # type: ignore[union-attr]
            rewards = rewards + (paid - self._paid)
            self._paid = paid
        rewards = rewards / self.scales[self._scenario_of]
        if dones.any():
            ended = np.flatnonzero(dones)
            for env in ended.tolist():
                self._end(env, infos[env]["episode_metrics"])
            self._begin(ended)
        return observations, rewards.astype(np.float32), dones, infos

    def state(self) -> dict[str, Any]:
        """How to get back to where all environments are now, as `agents.state_files` can write it.

        An episode is its workload and the actions taken so far, so that is what is kept.
        """
        return {
            "workload_seeds": self._played.copy(),
            "lengths": np.array([len(taken) for taken in self._taken]),
            "actions": np.array([action for taken in self._taken for action in taken], dtype=np.int64),
            "generators": [self.envs.get_state(env).generator for env in range(self.num_envs)],
            "paid": self._paid.copy(),
            "requests": self._requests,
        }

    def restore(self, state: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Goes on where `state` was taken; the observations there, `(N, layout.size)`.

        The running episodes are simulated again up to that point, which `requests` does not count twice.

        Raises:
            ConfigError: it is of another number of environments.
        """
        seeds_then, lengths = state["workload_seeds"], state["lengths"]
        if len(seeds_then) != self.num_envs:
            raise ConfigError(
                f"the state is of {len(seeds_then)} environments, there are {self.num_envs}; make as many"
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
        self._paid = state["paid"].copy()
        self._requests = state["requests"]
        return look.observations

    def _times(self) -> list[tuple[Curve, float]]:
        """The baseline of each environment, and the time there."""
        times_s = self.base.step_infos["time_s"].tolist()
        return list(zip(self._playing, times_s, strict=True))  # type: ignore[arg-type]

    def _begin(self, which: Iterable[int]) -> None:
        """Episodes have begun."""
        played = self.base.step_infos["workload_seed"]
        for env in which:
            self._played[env] = played[env]
            self._taken[env] = []
            self._paid[env] = 0.0
            self._playing[env] = self._curve(int(self._scenario_of[env]), int(played[env]))

    def _end(self, env: int, metrics: Mapping[str, float]) -> None:
        """An episode is over."""
        curve = self._playing[env]
        requests = int(metrics["requests"])
        self._requests += requests
        self.finished.append(
            Finished(
                int(self._scenario_of[env]),
                metrics["cost"],
                np.nan if curve is None else curve.cost,
                requests,
                int(metrics["decisions"]),
            )
        )

    def _running(self) -> range:
        """Environments that have an episode."""
        return range(self.num_envs if self.base.step_infos else 0)

    def _curve(self, number: int, seed: int) -> Curve | None:
        """What the baseline pays in an episode that begins; kept where workloads are."""
        if self._baseline is None:
            return None
        key = number, seed
        if self._curves is not None and key in self._curves:
            return self._curves[key]
        curve, requests = cost_curve(self._cases[number], self._baseline, seed)
        self._requests += requests
        if self._curves is not None:
            self._curves[key] = curve
        return curve

    def _scale(self, number: int) -> float:
        """What LRU pays per decision of a scenario."""
        cost = decisions = 0.0
        for seed in seeds("train", SCALE_SEEDS):
            curve, requests = cost_curve(self._cases[number], self._lru, seed)
            self._requests += requests
            cost += curve.cost
            decisions += curve.decisions
        if not cost > 0 or not decisions > 0:
            raise ConfigError(
                f"{self.names[number]!r}: LRU is asked {decisions:.0f} times and pays {cost:g} on {SCALE_SEEDS} "
                "training seeds; there is nothing to learn"
            )
        return cost / decisions
