"""Costs of many policies on workloads for training or choosing, by whole episodes; compiled for built-in policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.evaluation.held_out import split_of
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
KEPT_REQUESTS: Final = 4_000_000  # of workloads: more would not fit into some 2 GB with the simulators' arrays


class Objective:
    """Costs of policies on some cases and seeds; all policies run on the same requests.

    Args:
        cases: by name.
        seeds: of training or validation; test seeds are refused.
        threads: episodes side by side; the numbers do not depend on it.

    Raises:
        ConfigError: there are no cases or seeds, or one is a test seed.
    """

    def __init__(self, cases: Mapping[str, Case], seeds: Sequence[int], *, threads: int = 2) -> None:
        if not cases or not seeds:
            raise ConfigError(f"costs need at least one case and one seed; there are {len(cases)} and {len(seeds)}")
        for seed in seeds:
            if split_of(seed) == "test":
                raise ConfigError(f"seed {seed} is a test seed: it may judge an agent, not train or choose one")
        self.cases, self.seeds, self.threads = dict(cases), tuple(seeds), threads
        self.requests = 0
        self._workloads: dict[tuple[str, int], Workload] = {}
        self._kept = 0

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
        """
        chosen = self.seeds if seeds is None else tuple(seeds)
        jobs = [(name, seed) for name in self.cases for seed in chosen]
        costs = np.empty((len(policies), len(jobs)))
        with ThreadPoolExecutor(self.threads) as pool:
            played = pool.map(lambda job: self._play(policies, *job), jobs)
            for column, (row, requests) in enumerate(played):
                costs[:, column] = row
                self.requests += requests
                if progress is not None:
                    progress((column + 1) * len(policies))
        return costs.reshape(len(policies), len(self.cases), len(chosen))

    def _play(self, policies: Sequence[Policy | Contestant], name: str, seed: int) -> tuple[list[float], int]:
        """Cost of each policy on one workload, and the requests that were simulated."""
        case, workload = self.cases[name], self._workload(name, seed)
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

    def _workload(self, name: str, seed: int) -> Workload:
        """The requests, kept from one call to the next as long as there is room."""
        if (name, seed) in self._workloads:
            return self._workloads[name, seed]
        workload = self.cases[name].workload(seed)
        if self._kept + len(workload) <= KEPT_REQUESTS:
            self._kept += len(workload)
            self._workloads[name, seed] = workload
        return workload


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
