"""How far measured and simulated are apart, how sure the order of two policies is, and how much a machine has moved."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from cace_env.live.calibration import Sample
from cace_env.tables import CostTable, FloatArray
from cace_env.workload import Workload
from experiments.validation.records import Run
from experiments.validation.simulating import Simulated

FIGURES: Final = (
    "TTFT mean", "TTFT p50", "TTFT p95", "E2E mean", "E2E p50", "E2E p95", "evictions", "loads", "cost",
)  # fmt: skip
LIMITS: Final = {"mean": 15.0, "p50": 25.0, "p95": 25.0, "evictions": 15.0}  # of errors [%], by the end of the name
CLEAR_PERCENT: Final = 20.0  # policies whose simulated costs differ by more have to stand in the same order
MEASURED: Final = {"load": ("load warm",), "unload": ("unload",), "prompt": ("prefill",), "token": ("token",)}
BY_CHANCE: Final = 2  # tokens at the beginning that another prompt may share
JUDGED: Final = ("load", "prompt", "token")  # unloads are short, and are reported alone


def figures_of(ttft_s: FloatArray, e2e_s: FloatArray, evictions: int, loads: int, cost: float) -> FloatArray:
    """The figures, in the order of FIGURES."""
    times = [f(values) for values in (ttft_s, e2e_s) for f in (np.mean, np.median, lambda x: np.percentile(x, 95))]
    return np.array([*times, evictions, loads, cost])


def of_run(run: Run, workload: Workload, costs: CostTable) -> FloatArray:
    """Of a real run."""
    ttft_s, e2e_s = np.array(run.ttft_s()), np.array(run.e2e_s())
    cost = cost_of(workload, costs, ttft_s, e2e_s)
    return figures_of(ttft_s, e2e_s, run.count("unload"), run.count("load"), cost)


def of_simulation(one: Simulated, workload: Workload, costs: CostTable) -> FloatArray:
    """Of a simulated one."""
    ttft_s, e2e_s = np.array(one.ttft_s), np.array(one.e2e_s)
    return figures_of(ttft_s, e2e_s, one.evictions, one.loads, cost_of(workload, costs, ttft_s, e2e_s))


def cost_of(workload: Workload, costs: CostTable, ttft_s: FloatArray, e2e_s: FloatArray) -> float:
    """What waiting costs by the weights of the tasks (`docs/design.md`, section 6), without loads and SLOs."""
    task = workload.task
    return float((costs.w_ttft[task] * ttft_s + costs.w_e2e[task] * e2e_s).sum())


def prefixes_kept(run: Run, workload: Workload) -> float:
    """Share of the requests of whose prompt the server had as much as the rules say (`docs/design.md`, section 2)."""
    model, session = workload.model, workload.session
    shared = workload.context_tokens - workload.new_tokens
    admitted = np.array([one.admitted for one in run.asked])
    kept = []
    for r, one in enumerate(run.asked):
        loads = [move.end for move in run.moves if move.what == "load" and move.model == model[r]]
        since = max((end for end in loads if end <= one.admitted), default=0.0)
        before = (model == model[r]) & (session == session[r]) & (admitted >= since) & (admitted < one.admitted)
        kept.append(abs(one.cached - (int(shared[r]) if before.any() else 0)) <= BY_CHANCE)
    return float(np.mean(kept))


class Row(NamedTuple):
    """One figure of one policy over one workload.

    Attributes:
        real: mean of the repeats.
        lowest: of the repeats.
        highest: of the repeats.
        simulated: with the coefficients of both calibrations together.
        low: 5th percentile of the simulations with jitter.
        high: 95th percentile.
    """

    workload: str
    policy: str
    figure: str
    real: float
    lowest: float
    highest: float
    simulated: float
    low: float
    high: float

    @property
    def error_percent(self) -> float:
        """Simulated over real."""
        return percent(self.simulated, self.real)

    @property
    def spread_percent(self) -> float:
        """Of the repeats, over their mean."""
        return 100 * (self.highest - self.lowest) / self.real if self.real else 0.0

    @property
    def limit_percent(self) -> float | None:
        """What the error may be; None: there is no limit."""
        return next((limit for end, limit in LIMITS.items() if self.figure.endswith(end)), None)

    @property
    def holds(self) -> bool | None:
        """Whether it is within its limit."""
        return None if self.limit_percent is None else abs(self.error_percent) <= self.limit_percent


def rows_of(
    workload: str, policy: str, real: Sequence[FloatArray], simulated: FloatArray, moved: Sequence[FloatArray]
) -> list[Row]:
    """Figure by figure."""
    measured, jittered = np.array(real), np.array(moved)
    low, high = np.percentile(jittered, (5, 95), axis=0)
    return [
        Row(
            workload, policy, name, float(measured[:, at].mean()), float(measured[:, at].min()),
            float(measured[:, at].max()), float(simulated[at]), float(low[at]), float(high[at]),
        )
        for at, name in enumerate(FIGURES)
    ]  # fmt: skip


class Order(NamedTuple):
    """Two policies over one workload.

    Attributes:
        better: the policy that costs less in the simulation.
        worse: the other one.
        simulated_percent: by how much it costs more, simulated.
        real_percent: the same, measured.
        simulated_share: of the simulations with jitter with this order.
        real_share: of the pairs of real repeats with this order.
    """

    workload: str
    better: str
    worse: str
    simulated_percent: float
    real_percent: float
    simulated_share: float
    real_share: float

    @property
    def holds(self) -> bool | None:
        """Whether the order is the same; None where simulated costs are too close to say."""
        return self.real_percent > 0 if self.simulated_percent > CLEAR_PERCENT else None


def orders_of(
    workload: str,
    real: Mapping[str, Sequence[FloatArray]],
    simulated: Mapping[str, FloatArray],
    jittered: Mapping[str, Sequence[FloatArray]],
) -> list[Order]:
    """All pairs of policies, by their costs; the simulations of two policies have the same jitter each."""
    at = FIGURES.index("cost")
    found = []
    for pair in itertools.combinations(real, 2):
        better, worse = sorted(pair, key=lambda policy: simulated[policy][at])
        moved = [_less(b[at], w[at]) for b, w in zip(jittered[better], jittered[worse], strict=True)]
        pairs = [_less(b[at], w[at]) for b in real[better] for w in real[worse]]
        costs = {policy: float(np.mean([run[at] for run in real[policy]])) for policy in pair}
        found.append(
            Order(
                workload, better, worse, percent(simulated[worse][at], simulated[better][at]),
                percent(costs[worse], costs[better]), float(np.mean(moved)), float(np.mean(pairs)),
            )
        )  # fmt: skip
    return found


def _less(one: float, other: float) -> float:
    """1, 0, or a half where they are equal."""
    return 0.5 if one == other else float(one < other)


def percent(one: float, other: float) -> float:
    """By how much one is more than the other; 0 where both are 0."""
    if other == 0:
        return 0.0 if one == 0 else float("inf")
    return 100.0 * (one / other - 1.0)


def moved(before: Sequence[Sample], after: Sequence[Sample]) -> dict[str, FloatArray]:
    """The logarithm of what changed between two calibrations: by kind, one for each model."""
    names = list(dict.fromkeys(one.model for one in before))
    found = {}
    for kind, whats in MEASURED.items():
        changes = []
        for name in names:
            points = [_points(samples, name, whats) for samples in (before, after)]
            both = points[0].keys() & points[1].keys()
            if both:
                changes.append(float(np.median([np.log(points[1][key] / points[0][key]) for key in both])))
        if changes:
            found[kind] = np.array(changes)
    return found


def _points(samples: Sequence[Sample], name: str, whats: Sequence[str]) -> dict[tuple[str, int, int], float]:
    """Medians; contexts differ by some tokens, so that they are rounded to powers of two."""
    times: dict[tuple[str, int, int], list[float]] = {}
    for one in samples:
        if one.model == name and one.what in whats:
            key = (one.what, one.batch, round(np.log2(max(1, one.context))))
            times.setdefault(key, []).append(one.seconds)
    return {key: float(np.median(values)) for key, values in times.items()}


def drift_between(moved_by_kind: Mapping[str, FloatArray]) -> float:
    """By how much the machine is slower in the second calibration [%], in the kind that moved most."""
    changes = [100 * (float(np.exp(np.median(moved_by_kind[kind]))) - 1) for kind in JUDGED if kind in moved_by_kind]
    return max(changes, key=abs) if changes else 0.0
