"""What a policy has paid by when: the baseline against which a learning agent is rewarded."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.evaluation import Case
from cace_env.policies import Policy, rule_of
from cace_env.simulator import run_rule

FloatArray = npt.NDArray[np.float64]

CURVE_POINTS: Final = 1_024  # of a cost over time; between them it is a straight line


class Curve(NamedTuple):
    """What a policy had paid by when, in one episode."""

    costs: FloatArray  # (CURVE_POINTS,) at equal steps of time from 0 to the end
    end_s: float
    decisions: int

    @property
    def cost(self) -> float:
        """Of the whole episode."""
        return float(self.costs[-1])

    def at(self, time_s: float) -> float:
        """Cost paid by a time [s]."""
        place = min(max(time_s / self.end_s, 0.0), 1.0) * (CURVE_POINTS - 1)
        left = min(int(place), CURVE_POINTS - 2)
        return float(self.costs[left] + (place - left) * (self.costs[left + 1] - self.costs[left]))


def cost_curve(case: Case, policy: Policy, seed: int) -> tuple[Curve, int]:
    """What a policy has paid by when on the requests of a seed; and how many requests those are.

    Requests waiting and in the system cost at a known rate at any time. Prices of loads, missed SLOs and refusals,
    which no preset of the suite has, are spread over the episode in proportion, so that its end is right.

    Raises:
        ConfigError: the policy cannot run there.
    """
    workload = case.workload(seed)
    rule = rule_of(policy, case.tables, seed=seed, workload=workload, training=case.training)
    episode = run_rule(case.tables, workload, rule)
    cost, there = case.tables.cost, episode.finish_us >= 0  # refused requests never finish
    task, arrival = episode.task[there], episode.arrival_us[there]
    ttft, e2e = cost.w_ttft[task], cost.w_e2e[task]
    times = np.concatenate([arrival, episode.first_token_us[there], episode.finish_us[there]]) * 1e-6
    slopes = np.concatenate([ttft + e2e, -ttft, -e2e])  # cost per second, from each time on
    order = np.argsort(times)
    times, rates = times[order], np.cumsum(slopes[order])
    paid = np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(times))]) if len(times) else np.zeros(1)
    end_s = max(episode.end_us * 1e-6, 1e-6)
    costs = np.interp(np.linspace(0.0, end_s, CURVE_POINTS), times if len(times) else [0.0], paid, left=0.0)
    costs = costs * (episode.cost / costs[-1]) if costs[-1] > 0 else np.linspace(0.0, episode.cost, CURVE_POINTS)
    return Curve(costs, end_s, episode.decisions), len(workload)
