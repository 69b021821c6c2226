"""From the folder of a validation to its results: simulations, errors, orders, and what one policy says of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.live.calibration import Calibration, Sample, drift_percent, fit_model
from cace_env.tables import FleetTables, FloatArray, unmeasured
from cace_env.workload import Workload
from experiments.calibration.outputs import SAMPLES, Sizes
from experiments.validation.fitting import clean_samples, fit_runs
from experiments.validation.judging import (
    FIGURES,
    Order,
    Row,
    drift_between,
    moved,
    of_run,
    of_simulation,
    orders_of,
    percent,
    rows_of,
)
from experiments.validation.records import Run, read_plan, read_runs, read_samples, read_workload
from experiments.validation.simulating import Jitter, Simulated, fleet_of, jitter_of, jittered, simulate

BEFORE: Final = "before"  # folders of the two calibrations
AFTER: Final = "after"
AS_FITTED: Final = "as fitted"


class Crossed(NamedTuple):
    """A figure of one policy, predicted with coefficients from the runs of another one."""

    workload: str
    fitted_on: str
    predicted: str
    figure: str
    real: float
    simulated: float

    @property
    def error_percent(self) -> float:
        """Simulated over real."""
        return percent(self.simulated, self.real)


class Variant(NamedTuple):
    """A figure simulated otherwise: with other coefficients, or without a part of the rules."""

    variant: str
    workload: str
    policy: str
    figure: str
    error_percent: float


@dataclass(frozen=True)
class Validation:
    """All that a validation has found.

    Attributes:
        plan: what was validated.
        drift: of the machine [%]: within the calibrations `before` and `after`, and `between` them.
        changed: by kind, how much longer things took in the second calibration [%], the median over models.
        jitter: of the simulations; None without a second calibration.
        rows: figure by figure.
        orders: of policies.
        crossed: one policy's figures from another one's runs.
        missing: what these runs did not show, `workload, policy: model: what`.
        variants: errors with the coefficients of either calibration, and without each optional part of the rules.
        runs: the real ones.
        simulated: by workload and policy, one simulation with the coefficients of both calibrations.
        workloads: by name.
    """

    plan: dict[str, Any]
    drift: dict[str, float]
    changed: dict[str, float]
    jitter: Jitter | None
    rows: list[Row]
    orders: list[Order]
    crossed: list[Crossed]
    missing: list[str]
    variants: list[Variant]
    runs: list[Run]
    simulated: dict[tuple[str, str], Simulated]
    workloads: dict[str, Workload]

    @property
    def problems(self) -> list[str]:
        """Why these numbers do not count; empty if they do."""
        found = []
        if "after" not in self.drift:
            found.append(
                "It was broken off: there is no calibration at the end, so nobody knows whether the machine drifted."
            )
        between = self.drift.get("between", 0.0)
        if abs(between) > self.plan["most_drift"]:
            found.append(
                f"The machine drifted by {between:+.1f} % between the two calibrations, more than "
                f"{self.plan['most_drift']:g} %."
            )
        wanted = len(self.plan["workloads"]) * len(self.plan["policies"]) * self.plan["repeats"]
        if len(self.runs) < wanted:
            found.append(f"Only {len(self.runs)} of {wanted} runs are there.")
        return found

    @property
    def misses(self) -> list[str]:
        """Where simulation and server are further apart than they may be."""
        found = [
            f"{row.workload}, {row.policy}: {row.figure} is off by {row.error_percent:+.0f} %, the limit is "
            f"{row.limit_percent:g} %"
            for row in self.rows
            if row.holds is False
        ]
        return found + [
            f"{order.workload}: the simulation says that {order.worse} costs {order.simulated_percent:.0f} % more than "
            f"{order.better}, and it cost {order.real_percent:+.0f} %"
            for order in self.orders
            if order.holds is False
        ]


def evaluate(folder: Path, progress: Callable[[], None] = lambda: None) -> Validation:
    """Simulates what was measured, and compares.

    Args:
        folder: of a validation, whole or broken off.
        progress: is called after each simulation with jitter.

    Raises:
        ConfigError: there is not even one calibration and one run, or a file is damaged.
    """
    plan = read_plan(folder)
    runs = sorted(read_runs(folder), key=lambda run: (*_places(plan, run.workload, run.policy), run.repeat))
    sizes = {name: Sizes(**size) for name, size in plan["sizes"].items()}
    before, after = (read_samples(folder / part / SAMPLES) for part in (BEFORE, AFTER))
    if not before or not runs:
        raise ConfigError(f"{folder}: a report needs a calibration and a run; there are {len(runs)} runs")
    workloads = {
        name: read_workload(folder / f"{name}.csv", name) for name in dict.fromkeys(run.workload for run in runs)
    }
    for run in runs:
        if len(run.asked) != len(workloads[run.workload]):
            raise ConfigError(
                f"{folder}: run {run.repeat} of {run.policy} has {len(run.asked)} requests, and {run.workload}.csv "
                f"{len(workloads[run.workload])}"
            )

    def tables(found: Sequence[Calibration]) -> FleetTables:
        return fleet_of(found, sizes, plan["memory_bytes"], plan["drain_after_s"])

    def fitted(samples: Sequence[Sample]) -> FleetTables:
        return tables([fit_model(samples, name, size.chunk_tokens) for name, size in sizes.items()])

    both = [*before, *after]
    together, moves = fitted(both), moved(before, after)
    drift = {"before": drift_percent(before)}
    if after:
        drift |= {"after": drift_percent(after), "between": drift_between(moves)}
    late_s = [late for run in runs for late in run.late_s(workloads[run.workload])]
    jitter = jitter_of(moves, late_s)
    variants = {"first calibration": fitted(before)} | ({"second calibration": fitted(after)} if after else {})
    found = Validation(
        plan, drift, {kind: 100 * (float(np.exp(np.median(change))) - 1) for kind, change in moves.items()},
        jitter if after else None, [], [], [], [], [], runs, {}, workloads,
    )  # fmt: skip
    for name, workload in workloads.items():
        mine = {
            policy: [run for run in runs if (run.workload, run.policy) == (name, policy)] for policy in plan["policies"]
        }
        _compare(found, workload, {policy: some for policy, some in mine.items() if some}, together, jitter, progress)
        _cross(found, workload, {policy: some for policy, some in mine.items() if some}, both, sizes, tables)
    for variant, changed in {AS_FITTED: together, **variants, **ablations(together)}.items():
        _vary(found, variant, changed, jitter)
    return found


def _places(plan: Mapping[str, Any], workload: str, policy: str) -> tuple[int, int]:
    """Where they stand in the plan."""
    return plan["workloads"].index(workload), plan["policies"].index(policy)


def _compare(
    found: Validation, workload: Workload, runs: Mapping[str, list[Run]], tables: FleetTables, jitter: Jitter,
    progress: Callable[[], None],
) -> None:  # fmt: skip
    """Figures and orders of one workload."""
    name, costs = workload.label, tables.cost
    real = {policy: [of_run(run, workload, costs) for run in mine] for policy, mine in runs.items()}
    simulated: dict[str, FloatArray] = {}
    jittered_: dict[str, list[FloatArray]] = {policy: [] for policy in runs}
    for policy in runs:
        one = found.simulated[name, policy] = simulate(workload, tables, policy)
        simulated[policy] = of_simulation(one, workload, costs)
    for number in range(found.plan["simulations"]):
        rng = np.random.default_rng((found.plan["seed"], number))
        moved_workload, moved_tables = jittered(workload, tables, jitter, rng)
        for policy in runs:
            one = simulate(moved_workload, moved_tables, policy)
            jittered_[policy].append(of_simulation(one, workload, costs))
        progress()
    for policy in runs:
        found.rows.extend(rows_of(name, policy, real[policy], simulated[policy], jittered_[policy]))
    found.orders.extend(orders_of(name, real, simulated, jittered_))


def _cross(
    found: Validation, workload: Workload, runs: Mapping[str, list[Run]], calibrated: Sequence[Sample],
    sizes: Mapping[str, Sizes], tables: Callable[[Sequence[Calibration]], FleetTables],
) -> None:  # fmt: skip
    """Each policy from the runs of each other one."""
    for one, other in itertools.permutations(runs, 2):
        fits, missing = fit_runs(clean_samples(runs[one], workload, list(sizes)), calibrated, sizes)
        found.missing.extend(f"{workload.label}, {one}: {what}" for what in missing)
        fleet = tables(fits)
        simulated = of_simulation(simulate(workload, fleet, other), workload, fleet.cost)
        real = np.mean([of_run(run, workload, fleet.cost) for run in runs[other]], axis=0)
        found.crossed.extend(
            Crossed(workload.label, one, other, figure, float(real[at]), float(simulated[at]))
            for at, figure in enumerate(FIGURES)
        )


def _vary(found: Validation, variant: str, tables: FleetTables, jitter: Jitter) -> None:
    """Errors with other tables: of the mean over simulations with the same jitter for all, as one alone is chance."""
    real = {(row.workload, row.policy, row.figure): row.real for row in found.rows}
    for name, workload in found.workloads.items():
        draws = [
            jittered(workload, tables, jitter, np.random.default_rng((found.plan["seed"], number)))
            for number in range(found.plan["simulations"])
        ]
        for policy in (policy for workload_name, policy in found.simulated if workload_name == name):
            figures = np.mean([of_simulation(simulate(*draw, policy), draw[0], tables.cost) for draw in draws], axis=0)
            found.variants.extend(
                Variant(variant, name, policy, figure, percent(float(figures[at]), real[name, policy, figure]))
                for at, figure in enumerate(FIGURES)
            )


def ablations(tables: FleetTables) -> dict[str, FleetTables]:
    """The fleet without each optional part of the rules that it uses, with whole rounds or without, and with none."""
    rest = unmeasured(tables.num_accelerators, tables.num_models)
    without: dict[str, dict[str, Any]] = {
        "straight line over the batch": straight(tables),
        "no constant per request": {"request_ns": rest["request_ns"]},
        "no slowdown beside a load": {"load_slowdown": rest["load_slowdown"]},
    }
    found = {
        name: tables.replace(**changes)
        for name, changes in without.items()
        if any((getattr(tables, key) != value).any() for key, value in changes.items())
    }
    words = "prompts join within a round" if tables.whole_rounds else "prompts join at whole rounds"
    found[words] = tables.replace(whole_rounds=not tables.whole_rounds)
    if len(found) > 1:
        every = {key: value for changes in without.values() for key, value in changes.items()}
        found["none of these"] = tables.replace(**every, whole_rounds=False)
    return found


def straight(tables: FleetTables) -> dict[str, Any]:
    """Columns of the line nearest to the latencies by batch, from one request to all seats."""
    seats = int(tables.max_num_seqs.max())
    batches, last = np.arange(1, seats + 1), tables.batch_ns.shape[-1] - 1
    more = np.maximum(batches - last, 0) * tables.decode_ns[..., None]
    curve = tables.batch_ns[..., np.minimum(batches, last)] + more  # (accelerators, models, seats)
    middle = batches - batches.mean()
    spread = max(1e-9, float((middle**2).sum()))
    slope = np.maximum(0.0, (curve * middle).sum(axis=-1) / spread)
    start = np.maximum(0.0, tables.round_ns + curve.mean(axis=-1) - slope * batches.mean())
    return {
        "round_ns": np.rint(start).astype(np.int64),
        "decode_ns": np.rint(slope).astype(np.int64),
        "batch_ns": unmeasured(tables.num_accelerators, tables.num_models)["batch_ns"],
    }


def mean_errors(variants: Sequence[Variant]) -> Iterator[tuple[str, dict[str, float]]]:
    """Of each variant, by figure: the mean over workloads and policies of the error without its sign [%]."""
    for name in dict.fromkeys(one.variant for one in variants):
        yield (
            name,
            {
                figure: float(
                    np.mean([abs(one.error_percent) for one in variants if (one.variant, one.figure) == (name, figure)])
                )
                for figure in FIGURES
            },
        )
