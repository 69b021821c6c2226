"""Rewards relative to the cost of a baseline policy on the same requests.

A plain reward is minus the cost since the last decision. The agent does not cause most of that cost: in a burst all
users wait, in a quiet hour none do. A baseline removes this noise. A built-in policy, such as LRU, plays the same
requests once, and its cost is added back:

    reward = (cost of the baseline - cost of the agent, both since the last decision) / scale

The baseline's cost depends on the requests and not on the agent, so over an episode it is a constant: rewards add up to
exactly what the agent saves against the baseline, and the best policy stays the same (input-dependent baselines: Mao et
al., Variance Reduction for Reinforcement Learning in Input-Driven Environments, ICLR 2019). With a discount below 1 it
is only nearly a constant, because the agent decides at which moments the two are compared.

`scale` is what LRU pays per decision on the scenario. Rewards are then of the order of 1 on every scenario, so the same
learning rate and value network work everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.cases import training_of
from cace_env.config import ConfigError
from cace_env.fleets import TERM
from cace_env.kernel.batch import Look
from cace_env.kernel.state import REQUEST
from cace_env.policies import Future
from cace_env.policies import policy as find_policy
from cace_env.policies.built_in import Policy, rule_of
from cace_env.scenarios import Scenario, seeds
from cace_env.simulation import Simulator
from cace_env.tables import FOREVER, FleetTables, FloatArray
from cace_env.workload import Workload

CURVE_POINTS: Final = 1_024  # of a cost curve; linear in between
SCALE_SEEDS: Final = 8  # training seeds over which LRU's cost per decision is averaged


class Curve(NamedTuple):
    """Cost of a policy over the time of one episode."""

    costs: FloatArray  # (CURVE_POINTS,) at equal steps of time, from 0 to the end
    end_s: float
    decisions: int
    requests: int

    @property
    def cost(self) -> float:
        """Cost of the whole episode."""
        return float(self.costs[-1])


class Scale(NamedTuple):
    """What LRU pays per decision on a scenario."""

    cost: float
    requests: int  # simulated to find it


def cost_curve(
    simulator: Simulator, policy: Policy, workload: Workload, seed: int, scenario: Scenario | None = None
) -> Curve:
    """Compute what a policy has paid by each time on the requests of an episode.

    Requests that wait or are in the system cost at a known rate at any time. Prices of loads, missed SLOs and refusals,
    which no preset has, are spread over the episode in proportion, so that the final cost is right.

    Args:
        simulator: of the fleet; its state is overwritten.
        policy: a built-in one.
        workload: the requests.
        seed: of the policy's own random draws.
        scenario: source of training requests for a policy that needs them (`static-best`).

    Raises:
        ConfigError: the policy cannot run there.
    """
    tables = simulator.tables
    future = Future.of(tables, workload) if policy.clairvoyant else None
    rule = rule_of(policy, tables, seed=seed, workload=workload, future=future, training=_training(scenario))
    simulator.run(workload, rule)
    totals = simulator.totals()
    end_s = max(totals.end_us * 1e-6, 1e-6)
    rows = simulator.state.requests
    there = rows[:, REQUEST.finish_us] >= 0  # refused requests never finish
    task = workload.task[there]
    w_ttft, w_e2e = tables.cost.w_ttft[task], tables.cost.w_e2e[task]
    columns = (REQUEST.arrival_us, REQUEST.first_us, REQUEST.finish_us)
    times = np.concatenate([rows[there, column] for column in columns]) * 1e-6
    slopes = np.concatenate([w_ttft + w_e2e, -w_ttft, -w_e2e])  # cost per second, from each time on
    # At a point of the grid, a slope that began at t has added slope * (point - t): two running sums say so for all.
    grid = np.linspace(0.0, end_s, CURVE_POINTS)
    first = np.minimum(np.ceil(times * ((CURVE_POINTS - 1) / end_s)).astype(np.int64), CURVE_POINTS - 1)
    rate = np.cumsum(np.bincount(first, slopes, CURVE_POINTS))
    costs = rate * grid - np.cumsum(np.bincount(first, slopes * times, CURVE_POINTS))
    costs = np.maximum.accumulate(np.maximum(costs, 0.0))
    costs = costs * (totals.cost / costs[-1]) if costs[-1] > 0 else np.linspace(0.0, totals.cost, CURVE_POINTS)
    costs[-1] = totals.cost
    return Curve(costs, end_s, totals.decisions, len(workload))


def _training(scenario: Scenario | None) -> Callable[[int], Workload] | None:
    """Source of training requests; None where there are none (`training_of`)."""
    return None if scenario is None else training_of(scenario)


@lru_cache(maxsize=64)
def _scale(scenario_json: str, protocol: str) -> Scale:
    """`scale_of`, for a scenario as JSON, so that it can be cached."""
    scenario = Scenario.model_validate_json(scenario_json)
    simulator = Simulator(scenario.tables().replace(protocol=protocol))
    cost = decisions = 0.0
    requests = 0
    for seed in seeds("train", SCALE_SEEDS if scenario.trace is None else 1):  # every seed of a log is the log
        curve = cost_curve(simulator, find_policy("lru"), scenario.workload(seed), seed)
        cost, decisions, requests = cost + curve.cost, decisions + curve.decisions, requests + curve.requests
    if not cost > 0 or not decisions > 0:
        raise ConfigError(
            f"scenario {scenario.name!r}: LRU is asked {decisions:.0f} times and pays {cost:g} on training seeds, so "
            "there is nothing to learn; raise the pressure, or give it less memory or more models"
        )
    return Scale(cost / decisions, requests)


def scale_of(scenario: Scenario, protocol: str) -> Scale:
    """Compute what LRU pays per decision on a scenario, over its first training seeds.

    Args:
        scenario: source of the requests.
        protocol: "eviction" or "swap".

    Raises:
        ConfigError: LRU is never asked there, or waiting costs nothing.
    """
    return _scale(scenario.model_dump_json(), protocol)


class Baseline:
    """Cost of the baseline policy so far, in each environment.

    Args:
        policy: a built-in policy or its name.
        scenarios: the scenarios that are played.
        tables: their fleets, `(F,)`.
        scenario_of: number of each environment's scenario, `(N,)`.

    Attributes:
        costs: the baseline's cost of the whole episode, `(N,)`.
        requests: simulated for the baseline so far.

    Raises:
        ConfigError: the policy is unknown, or cannot run on one of the fleets.
    """

    def __init__(
        self,
        policy: str | Policy,
        scenarios: Sequence[Scenario],
        tables: Sequence[FleetTables],
        scenario_of: npt.NDArray[np.int64],
    ) -> None:
        envs = len(scenario_of)
        self.policy = find_policy(policy)
        for scenario, fleet in zip(scenarios, tables, strict=True):
            if not self.policy.clairvoyant:
                rule_of(self.policy, fleet, training=_training(scenario))  # fail now if it cannot run
        self.requests = 0
        self._scenarios = tuple(scenarios)
        # The baseline plays to the end, even if the environment truncates the episode.
        self._fleets = [fleet.replace(max_decisions=FOREVER) for fleet in tables]
        self._idle: list[list[Simulator]] = [[] for _ in tables]  # of each fleet; a thread that plays takes one out
        self._scenario_of = scenario_of
        self._kept: dict[tuple[int, int], Curve] = {}
        self._playing: list[tuple[int, int | Workload] | None] = [None] * envs
        self._curves = np.zeros((envs, CURVE_POINTS))
        self._ends_s = np.ones(envs)
        self._paid = np.zeros(envs)  # (N,) until the last decision
        self.costs = np.zeros(envs)

    def meet(self, env: int, met: Workload | Curve, *, seed: int, keep: bool) -> None:
        """Plays a newly generated workload of an environment; call `begin` after it.

        Args:
            env: number of the environment.
            met: the requests, or the curve where the policy has played them already.
            seed: of the workload.
            keep: keep its curve, because the workload is played again.
        """
        number = int(self._scenario_of[env])
        curve = met if isinstance(met, Curve) else self.curve(number, met, seed)
        self.requests += curve.requests
        if keep:
            self._kept[number, seed] = curve
        self._take(env, curve, (number, seed))

    def begin(self, env: int, played: int | Workload) -> None:
        """Begins an episode of a kept workload, of the one just given to `meet`, or of one that was handed in."""
        number = int(self._scenario_of[env])
        if isinstance(played, Workload):
            curve = self.curve(number, played, 0)
            self.requests += curve.requests
            self._take(env, curve, (number, played))
        elif (number, played) in self._kept:
            self._take(env, self._kept[number, played], (number, played))
        self._paid[env] = 0.0

    def resume(self, env: int, played: int | Workload, time_s: float) -> None:
        """Continues an episode whose last decision was at `time_s`."""
        number = int(self._scenario_of[env])
        before = self._playing[env]
        same = before is not None and before[0] == number
        same = same and (before[1] == played if isinstance(played, int) else before[1] is played)  # type: ignore[index]
        if not same and isinstance(played, int) and (number, played) not in self._kept:
            self.meet(env, self._scenarios[number].workload(played), seed=played, keep=False)
        elif not same:
            self.begin(env, played)
        self._paid[env] = self._at(np.array([time_s]), np.array([env]))[0]

    def since_last(self, look: Look, stepped: npt.NDArray[np.bool_]) -> FloatArray:
        """What the baseline has paid since the last decision, `(N,)`; 0 for environments that were not `stepped`.

        Args:
            look: what was seen after the step.
            stepped: which environments took a step, `(N,)`.
        """
        rows = np.flatnonzero(stepped)
        paid = np.where(look.terminated[rows], self.costs[rows], self._at(look.time_s[rows], rows))
        grown = np.zeros(len(self._paid))
        grown[rows] = paid - self._paid[rows]
        self._paid[rows] = paid
        return grown

    def _at(self, times_s: FloatArray, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Cost of the baseline of the environments `rows` by a time, `(len(rows),)`."""
        place = np.clip(times_s / self._ends_s[rows], 0.0, 1.0) * (CURVE_POINTS - 1)
        left = np.minimum(place.astype(np.int64), CURVE_POINTS - 2)
        before, after = self._curves[rows, left], self._curves[rows, left + 1]
        paid: FloatArray = before + (place - left) * (after - before)
        return paid

    def curve(self, number: int, workload: Workload, seed: int) -> Curve:
        """What the policy has paid by each time on a workload of a scenario. Threads may ask at once."""
        try:
            simulator = self._idle[number].pop()
        except IndexError:
            simulator = Simulator(self._fleets[number])
        found = cost_curve(simulator, self.policy, workload, seed, self._scenarios[number])
        self._idle[number].append(simulator)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": [[] for _ in self._idle]}  # threads may be playing in them

    def _take(self, env: int, curve: Curve, playing: tuple[int, int | Workload]) -> None:
        self._curves[env], self._ends_s[env], self.costs[env] = curve.costs, curve.end_s, curve.cost
        self._playing[env] = playing


class Rewards:
    """Computes rewards from costs: plain, against a baseline, scaled.

    Args:
        scenarios: the scenarios that are played.
        tables: their fleets, with the protocol of the environments.
        scenario_of: number of each environment's scenario, `(N,)`.
        baseline: the policy whose cost is added back; None = no baseline.
        scale: divide by what LRU pays per decision; None = only with a baseline.

    Attributes:
        baseline: cost of the baseline; None without one.
        scales: divisors of the rewards of each environment, `(N,)`; 1 if they are not scaled.
        scale_requests: requests simulated to find the scales.

    Raises:
        ConfigError: the baseline is unknown, or LRU is never asked on a scenario.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        tables: Sequence[FleetTables],
        scenario_of: npt.NDArray[np.int64],
        *,
        baseline: str | Policy | None,
        scale: bool | None,
    ) -> None:
        self.baseline = None if baseline is None else Baseline(baseline, scenarios, tables, scenario_of)
        self._scaled = scale if scale is not None else baseline is not None
        self.scales: FloatArray = np.ones(len(scenario_of))
        self.scale_requests = 0
        if self._scaled:
            found = [scale_of(scenario, fleet.protocol) for scenario, fleet in zip(scenarios, tables, strict=True)]
            self.scales = np.array([each.cost for each in found])[scenario_of]
            self.scale_requests = sum(each.requests for each in found)

    def settle(self, look: Look, stepped: npt.NDArray[np.bool_]) -> None:
        """Turns the rewards of a step, which are minus costs, into scaled rewards against the baseline.

        Terms of the reward stay costs. The penalty of an illegal action is taken from the scaled reward, so its term is
        multiplied by the scale: terms add up to reward x scale.

        Args:
            look: what was seen after the step; it is changed. Terms of environments that were not stepped are 0.
            stepped: which environments took a step, `(N,)`.
        """
        rewards, terms = look.rewards, look.terms
        if self.baseline is not None:
            terms[TERM.baseline] = self.baseline.since_last(look, stepped)
            rewards += terms[TERM.baseline]
        if self._scaled:
            fines = terms[TERM.invalid_action]
            rewards[:] = (rewards - fines) / self.scales + fines
            fines *= self.scales
