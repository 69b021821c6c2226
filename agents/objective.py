"""Costs of many policies on workloads for training or choosing, by whole episodes; compiled for built-in policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.evaluation.held_out import split_of
from cace_env.executor import Executor, Threads, movable, requests_for, with_requests
from cace_env.kernel import run
from cace_env.kernel.rules import Rule
from cace_env.kernel.state import TRUNCATED
from cace_env.policies import Contestant
from cace_env.policies import policy as find_policy
from cace_env.policies.built_in import Policy, rule_of
from cace_env.simulation import Simulator, new_scratch
from cace_env.simulation.scratch import NO_NETWORK, largest
from cace_env.workload import Workload

FloatArray = npt.NDArray[np.float64]
KEPT_REQUESTS: Final = 4_000_000  # of workloads, 45 bytes each
KEPT_ELSEWHERE: Final = 500_000  # in each process, which holds the stages of earlier objectives for a while
TASK_EPISODES: Final = 256  # of a task that is sent, at most: an episode takes some milliseconds, and so does sending


class Stage:
    """Cases, and the requests that were drawn for them: kept from one task to the next as long as there is room.

    It is shared by the tasks of an objective, so that each process has one.
    """

    def __init__(self, cases: Mapping[str, Case], most: int) -> None:
        self._cases, self._most = dict(cases), most
        self._workloads: dict[tuple[str, int], Workload] = {}
        self._kept = 0

    def episode(self, name: str, seed: int, given: Workload | None) -> tuple[Case, Workload]:
        """A case, and its requests: those that were given, or drawn here."""
        case = with_requests(self._cases[name], seed, given)
        workload = self._workloads.get((name, seed)) if given is None else given
        if workload is not None:
            return case, workload
        workload = case.workload(seed)
        if self._kept + len(workload) <= self._most:
            self._kept += len(workload)
            self._workloads[name, seed] = workload
        return case, workload


class Objective:
    """Costs of policies on some cases and seeds; all policies run on the same requests.

    Args:
        cases: by name.
        seeds: of training or validation; test seeds are refused.
        executor: plays the episodes; None: two threads. The numbers do not depend on it.

    Raises:
        ConfigError: there are no cases or seeds, or one is a test seed.
    """

    def __init__(self, cases: Mapping[str, Case], seeds: Sequence[int], executor: Executor | None = None) -> None:
        if not cases or not seeds:
            raise ConfigError(f"costs need at least one case and one seed; there are {len(cases)} and {len(seeds)}")
        for seed in seeds:
            if split_of(seed) == "test":
                raise ConfigError(f"seed {seed} is a test seed: it may judge an agent, not train or choose one")
        self.cases, self.seeds = dict(cases), tuple(seeds)
        self.requests = 0
        self._executor = executor or Threads(2)
        theirs = {name: movable(case, self._executor) for name, case in cases.items()}
        self._stage = self._executor.share(Stage(theirs, KEPT_ELSEWHERE if self._executor.apart else KEPT_REQUESTS))
        self._sent: dict[tuple[str, int], Workload | None] = {}

    def costs(
        self,
        policies: Sequence[Policy | Contestant],
        seeds: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> FloatArray:
        """Cost of every policy on every case and seed, `(policies, cases, seeds)`.

        Args:
            policies: built-in ones, trained agents too, which play compiled; or any others, question by question.
            seeds: a subset of the objective's seeds; None = all.
            progress: called with the number of episodes played so far.

        Raises:
            ConfigError: a policy cannot play a case, or an episode was cut short.
            TaskLostError: what played a task was lost again and again.
        """
        chosen = self.seeds if seeds is None else tuple(seeds)
        costs, played = np.empty((len(policies), len(self.cases), len(chosen))), 0
        size = self._seeds_of_task(len(policies), len(chosen))
        tasks = [
            (at, name, slice(first, first + size))
            for at, name in enumerate(self.cases)
            for first in range(0, len(chosen), size)
        ]

        def arguments() -> Iterator[tuple[Any, ...]]:
            players = self._executor.share(tuple(policies))
            for _, name, where in tasks:
                given = [self._requests(name, seed) for seed in chosen[where]]
                yield self._stage, players, name, chosen[where], *given

        with closing(self._executor.run(play, arguments())) as finished:
            for number, (found, requests) in finished:
                at, _, where = tasks[number]
                costs[:, at, where] = found
                self.requests += requests
                played += found.size
                if progress is not None:
                    progress(played)
        return costs

    def _seeds_of_task(self, policies: int, seeds: int) -> int:
        """One; or, where tasks are sent, so many that it pays, but no more than leave two tasks for each core."""
        if not self._executor.apart:
            return 1
        most = len(self.cases) * seeds // (2 * max(self._executor.cores, 1))  # a cluster may have to grow first
        return max(1, min(TASK_EPISODES // policies, most))

    def _requests(self, name: str, seed: int) -> Workload | None:
        """What a task is given of the requests; what is sent is sent once."""
        if (name, seed) not in self._sent:
            self._sent[name, seed] = requests_for(self.cases[name], seed, self._executor)
        return self._sent[name, seed]


def play(
    stage: Stage, policies: Sequence[Policy | Contestant], name: str, seeds: Sequence[int], *given: Workload | None
) -> tuple[FloatArray, int]:
    """A task: cost of each policy on some seeds of a case, `(policies, seeds)`, and the requests that were simulated.

    Args:
        stage: the cases.
        policies: who plays.
        name: of the case.
        seeds: of the requests.
        given: the requests of each seed where they cannot be drawn here.
    """
    episodes = [_play(policies, *stage.episode(name, *one), name, one[0]) for one in zip(seeds, given, strict=True)]
    return np.array([costs for costs, _ in episodes]).T, sum(requests for _, requests in episodes)


def _play(
    policies: Sequence[Policy | Contestant], case: Case, workload: Workload, name: str, seed: int
) -> tuple[list[float], int]:
    """Cost of each policy on one workload, and the requests that were simulated."""
    rules: dict[int, Rule] = {
        at: rule_of(policy, case.tables, seed=seed, workload=workload, training=case.training)
        for at, policy in enumerate(policies)
        if isinstance(policy, Policy)
    }
    simulator = Simulator(case.tables)
    simulator.load(workload)
    network = largest(rules.values()) if rules else NO_NETWORK
    scratch = new_scratch(simulator.max_slots, case.tables.num_models, network)
    costs = []
    for at, policy in enumerate(policies):
        if isinstance(policy, Policy):
            played = simulator
            cut = run.run_episode(*simulator.arguments, rules[at], simulator.trace, scratch) == TRUNCATED
            simulator.check()
        else:
            played, _ = run_episode(policy, case, workload, seed)
            cut = played.totals().truncated
        if cut:
            raise ConfigError(f"policy {policy.name!r} was cut short on {name!r}; allow more decisions there")
        costs.append(played.cost())
    return costs, len(policies) * len(workload)


def pooled(costs: FloatArray, baseline: FloatArray) -> FloatArray:
    """Mean over cases of cost / baseline cost, both summed over seeds first: every case counts alike.

    Args:
        costs: `(..., cases, seeds)`.
        baseline: `(cases, seeds)`, of LRU.

    Returns:
        `(...,)`; 1 = as the baseline.
    """
    ratios: FloatArray = (costs.sum(axis=-1) / baseline.sum(axis=-1)).mean(axis=-1)
    return ratios


def baseline_costs(objective: Objective) -> FloatArray:
    """Costs of plain LRU, `(cases, seeds)`; in Swap-v0 with the order `fifo`."""
    costs: FloatArray = objective.costs([find_policy("lru")])[0]
    return costs
