"""What probes share: the scenario, whole episodes, and environments that go on from turn to turn."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final, NamedTuple

import numpy as np

Rows = Iterator[tuple[str, float | None, str]]  # what, value (None: what it would need is not installed), unit

DEFAULT: Final = "default"  # the scenario that is measured
EPISODES: Final = 8  # test seeds that a round of whole episodes plays
BANK: Final = 256  # workloads that a batch plays again and again, instead of new ones
# Where version 0.1 kept what is used here; anything else comes through doors that are the same.
BEFORE: Final = {"evaluation.episodes": "evaluation", "simulation": "simulator", "fleets": "catalogue"}


def found(wing: str, name: str) -> Any:
    """`name` of a wing of the package, or of the module that had it in version 0.1.

    Raises:
        ImportError: this checkout has it in neither.
    """
    for home in (wing, BEFORE[wing]):
        try:
            return getattr(importlib.import_module(f"cace_env.{home}"), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"this checkout has no {name} in cace_env.{wing} or cace_env.{BEFORE[wing]}")


class Effort(NamedTuple):
    """How much is measured: everything, or next to nothing."""

    quick: bool

    def __call__(self, full: int, quick: int) -> int:
        """One of the two numbers."""
        return quick if self.quick else full

    def scenario(self, **workload: Any) -> Any:
        """The default scenario, with short episodes in a quick run, and with other keys of its workload."""
        from cace_env.scenarios import load_scenario

        base = load_scenario(DEFAULT)
        short = {"requests": 400} if self.quick else {}
        return base.replace(workload=base.workload_config.model_dump(mode="json") | short | workload)


class Episodes:
    """Whole compiled episodes of a policy: laid out, reset and played to their ends."""

    def __init__(self, scenario: Any, policy: str, protocol: str = "eviction", number: int = EPISODES) -> None:
        from cace_env.scenarios import seeds

        case = found("evaluation.episodes", "case_of")(scenario, protocol)
        chosen = found("evaluation.episodes", "contestant_of")(policy).policy
        rule_of = found("evaluation.episodes", "rule_of")
        self.played = []
        for seed in seeds("test", number):
            workload = case.workload(seed)
            future = found("evaluation.episodes", "Future").of(case.tables, workload) if chosen.clairvoyant else None
            rule = rule_of(chosen, case.tables, seed=seed, workload=workload, future=future)
            self.played.append((found("simulation", "Simulator")(case.tables), workload, rule))
        self.requests = sum(len(workload) for _, workload, _ in self.played)
        self.run()  # compiles, and touches the memory

    def run(self) -> float:
        """Requests per second of all episodes, one after the other."""
        began = time.perf_counter()
        for simulator, workload, rule in self.played:
            simulator.run(workload, rule)
        return self.requests / (time.perf_counter() - began)


class Generated:
    """Whole compiled episodes of LRU, each with requests that are generated for it; new ones from turn to turn."""

    def __init__(self, scenario: Any) -> None:
        known = Episodes(scenario, "lru", number=1)
        self._case = found("evaluation.episodes", "case_of")(scenario, "eviction")
        self._simulator, _, self._rule = known.played[0]
        self._seed = 0
        self.run()  # compiles, and touches the memory

    def run(self) -> float:
        """Requests per second of some episodes, one after the other."""
        requests, began = 0, time.perf_counter()
        for _ in range(EPISODES):
            workload = self._case.workload(self._seed)
            self._simulator.run(workload, self._rule)
            requests += len(workload)
            self._seed += 1
        return requests / (time.perf_counter() - began)


def made(scenario: Any, num_envs: int = 0, **settings: Any) -> Any:
    """Eviction-v0: one, or a batch of so many whose episodes begin again within the step."""
    import gymnasium

    env_id = "cace_env:cace_env/Eviction-v0"
    if not num_envs:
        return gymnasium.make(env_id, scenario=scenario, **settings)
    same_step = gymnasium.vector.AutoresetMode.SAME_STEP
    return gymnasium.make_vec(env_id, num_envs=num_envs, scenario=scenario, autoreset_mode=same_step, **settings)


class Stepped:
    """One environment under random legal actions, or CartPole under random ones; it goes on from turn to turn."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._draws = cycle(np.random.default_rng(0).random(1_024).tolist())
        _, self._info = env.reset(seed=0)

    def run(self, steps: int) -> float:
        """Steps per second."""
        began = time.perf_counter()
        for _ in range(steps):
            mask = self._info.get("action_mask")
            legal = (0, 1) if mask is None else mask.nonzero()[0]
            *_, terminated, truncated, self._info = self._env.step(legal[int(next(self._draws) * len(legal))])
            if terminated or truncated:
                _, self._info = self._env.reset()
        return steps / (time.perf_counter() - began)


class Batch:
    """A batch that plays the legal slot of lowest index, one `argmax` for all; it goes on from turn to turn."""

    def __init__(self, scenario: Any, num_envs: int, **settings: Any) -> None:
        self.envs = made(scenario, num_envs, **settings)
        self.num_envs, self.ended = num_envs, 0
        for first in range(0, settings.get("num_workloads") or 0, num_envs):
            self.envs.reset(seed=list(range(first, first + num_envs)))  # the bank is full before anything is measured
        _, self._info = self.envs.reset(seed=0)

    def run(self, steps: int) -> float:
        """Decisions per second."""
        began = time.perf_counter()
        for _ in range(steps):
            _, _, terminated, _, self._info = self.envs.step(self._info["action_mask"].argmax(axis=1))
            self.ended += int(np.count_nonzero(terminated))
        return steps * self.num_envs / (time.perf_counter() - began)


def decisions_of_an_episode(scenario: Any) -> float:
    """Mean number of decisions of an episode under the choice of `Batch`."""
    batch, steps = Batch(scenario, 16, num_workloads=BANK), 0
    while batch.ended < batch.num_envs:
        batch.run(1)
        steps += 1
    return steps * batch.num_envs / batch.ended
