"""How good an agent is while it is trained: its cost on validation seeds. They teach nothing and are in no result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agents.objective import Objective, pooled
from cace_env.cases import Case
from cace_env.evaluation.held_out import validation_seeds
from cace_env.executor import Executor
from cace_env.policies import policy
from cace_env.policies.built_in import Policy
from cace_env.tables import FloatArray


class Verdict(NamedTuple):
    """A policy's cost on the validation seeds."""

    costs: FloatArray  # (cases, seeds)
    by_case: dict[str, float]  # sum over seeds, as a share of LRU's
    cost_vs_lru: float  # mean of `by_case`: every case counts alike, whatever a second costs there


class Validation:
    """Judges policies on the same requests, which LRU and CACE have met as well.

    Args:
        cases: what the agent is trained on, from `cace_env.evaluation.held_out.training_cases`.
        count: validation seeds of each.
        executor: plays the episodes.

    Raises:
        ConfigError: there are not as many validation seeds.
    """

    def __init__(self, cases: Mapping[str, Case], count: int, executor: Executor) -> None:
        named = {case.name: case for case in cases.values()}  # a file's case is called after its scenario
        self.cases = named if len(named) == len(cases) else dict(cases)
        self.seeds = validation_seeds(count)
        self._objective = Objective(self.cases, self.seeds, executor)
        self._lru, cace = self._objective.costs([policy("lru"), policy("cace")])
        self.cace = self._verdict(cace)

    def judge(self, policy: Policy) -> Verdict:
        """Runs a policy on every case and seed."""
        return self._verdict(self._objective.costs([policy])[0])

    def table(self, verdict: Verdict) -> list[tuple[str, float, float, float, float]]:
        """(case, cost, LRU's cost, as a share of it, CACE's share) of each case; costs are sums over the seeds."""
        ours, lru = verdict.costs.sum(axis=1), self._lru.sum(axis=1)
        return [
            (name, float(mine), float(theirs), verdict.by_case[name], self.cace.by_case[name])
            for name, mine, theirs in zip(self.cases, ours, lru, strict=True)
        ]

    def _verdict(self, costs: FloatArray) -> Verdict:
        shares = costs.sum(axis=1) / self._lru.sum(axis=1)
        by_case = dict(zip(self.cases, map(float, shares), strict=True))
        return Verdict(costs, by_case, float(pooled(costs, self._lru)))
