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
BELIEVED: Final = (0.67, 1.5)  # simulated over measured mean: beyond, hours and money are not told
UNITS: Final = (300.0, 3000.0)  # a ratio of two times, or its inverse, where one of them is in ms


class Latency(NamedTuple):
    """One latency of the same requests, measured and simulated [s]."""

    name: str  # TTFT or E2E
    requests: int  # that have both
    measured_mean_s: float
    simulated_mean_s: float
    quantiles: tuple[tuple[float, float, float], ...]  # level, measured, simulated
    typical_error_s: float  # median of |simulated - measured|, request by request

    @property
    def ratio(self) -> float:
        """The simulated mean over the measured one."""
        return self.simulated_mean_s / self.measured_mean_s if self.measured_mean_s else float("nan")

    @property
    def off(self) -> bool:
        """Whether the simulation is too far from what was measured to tell hours and money by."""
        return self.measured_mean_s > 0 and not BELIEVED[0] <= self.ratio <= BELIEVED[1]

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


def doubts_of(found: Measured | None) -> list[str]:
    """What a reader must not overlook: simulated times that are far from the measured ones; empty where none are."""
    said = []
    for row in found.latencies if found is not None else ():
        if not row.off:
            continue
        assert found is not None
        unit = ""
        if row.ratio and UNITS[0] <= max(row.ratio, 1 / row.ratio) <= UNITS[1]:
            unit = " That is about 1,000 times: are the log's times in ms? Say so at the import (unit: ms)."
        said.append(
            f"**The simulation does not fit this log.** On {found.fleet} with {found.policy} the mean {row.name} is "
            f"{row.simulated_mean_s:.3g} s simulated and {row.measured_mean_s:.3g} s measured ({times(row.ratio)})."
            f"{unit} Do not quote hours and money; shares are good for an order of magnitude at most. Is this the "
            "fleet, engine and policy of the log (--gpu, --gpus, --engine, --deployed)?"
        )
    return said


def doubted(found: Measured | None) -> Latency | None:
    """The latency that speaks against hours and money, TTFT if the log has it; None where it fits or is not known."""
    first = found.latencies[0] if found is not None and found.latencies else None
    return first if first is not None and first.off else None


def times(ratio: float) -> str:
    """`4 times as much`."""
    return f"{ratio:.2g} times as much" if ratio < 100 else f"{ratio:,.0f} times as much"


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
