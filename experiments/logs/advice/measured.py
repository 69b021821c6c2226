"""Simulated times against those that a gateway measured: how far the simulation may be believed on this log."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.cases import case_of
from cace_env.evaluation import run_episode
from cace_env.policies import contestant_of
from cace_env.scenarios import Scenario
from cace_env.tables import NONE, Int64Array, Protocol
from cace_env.traces import Trace
from cace_env.workload import Workload

QUANTILES: Final = (0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
FEWEST: Final = 20  # requests with a measured time: one beyond the p95


class Latency(NamedTuple):
    """One latency of the same requests, measured and simulated [s]."""

    name: str  # TTFT or E2E
    requests: int  # that have both
    measured_mean_s: float
    simulated_mean_s: float
    quantiles: tuple[tuple[float, float, float], ...]  # level, measured, simulated
    typical_error_s: float  # median of |simulated - measured|, request by request

    @property
    def bias(self) -> float:
        """By how much the simulated mean is above the measured one, as a share of that."""
        return self.simulated_mean_s / self.measured_mean_s - 1 if self.measured_mean_s else float("nan")


class Measured(NamedTuple):
    """What a log measured against the simulation of a fleet and a policy."""

    fleet: str
    policy: str
    latencies: tuple[Latency, ...]

    def plain(self) -> dict[str, Any]:
        """For other programs."""
        return {**self._asdict(), "latencies": [row._asdict() for row in self.latencies]}


def measured_of(trace: Trace, scenario: Scenario, workload: Workload, policy: str, env: Protocol) -> Measured:
    """Simulates a whole log and holds it against its measured times.

    Args:
        trace: has measured times.
        scenario: fleet on which the log is thought to have run.
        workload: the requests of `trace`, in its order.
        policy: that is thought to have decided.
        env: of the policy.

    Raises:
        ConfigError: the policy cannot play the fleet.
    """
    simulator, _ = run_episode(contestant_of(policy), case_of(scenario, env), workload, 0)
    episode = simulator.episode()
    found = []
    for name, measured_us, end_us in (
        ("TTFT", trace.ttft_us, episode.first_token_us),
        ("E2E", trace.e2e_us, episode.finish_us),
    ):
        if measured_us is None or len(measured_us) != len(workload):
            continue
        both = (measured_us != NONE) & ~episode.refused & (end_us >= 0)
        if both.sum() >= FEWEST:
            found.append(_latency(name, measured_us[both], (end_us - episode.arrival_us)[both]))
    fleet = " + ".join(f"{group.count} x {group.gpu}" for group in scenario.fleet)
    return Measured(fleet, policy, tuple(found))


def _latency(name: str, measured_us: Int64Array, simulated_us: Int64Array) -> Latency:
    measured_s, simulated_s = measured_us / 1e6, simulated_us / 1e6
    levels = list(QUANTILES)
    rows = zip(levels, np.quantile(measured_s, levels).tolist(), np.quantile(simulated_s, levels).tolist(), strict=True)
    return Latency(
        name,
        len(measured_s),
        float(measured_s.mean()),
        float(simulated_s.mean()),
        tuple(rows),
        float(np.median(np.abs(simulated_s - measured_s))),
    )
