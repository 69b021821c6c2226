"""What a comparison runs: each scenario made ready, with generated requests or those of a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, parse
from cace_env.evaluation import run_episode
from cace_env.policies import Contestant
from cace_env.scenarios import Scenario
from cace_env.tables import FOREVER, TASKS, FleetTables, Protocol
from cace_env.traces import TraceConfig, load_config
from cace_env.workload import COLUMNS, Workload
from experiments.running.lineup import able, can_answer, card_of


@dataclass(frozen=True)
class PreparedCase:
    """A scenario that is ready to run."""

    case: Case
    contestants: tuple[Contestant, ...]  # those that can run on this fleet
    seeds: tuple[int, ...]
    about: dict[str, Any]  # for run.json

    @property
    def name(self) -> str:
        return self.case.name


def prepare(
    scenario: Scenario,
    contestants: Sequence[Contestant],
    seeds: Sequence[int],
    trace: dict[str, Any] | None,
    protocol: Protocol = Protocol.EVICTION,
) -> PreparedCase:
    """Tabulates a scenario, reads or draws its first requests, and sorts out who cannot run on its fleet.

    Args:
        scenario: the fleet, and the requests where there is no log.
        contestants: who wants to take part.
        seeds: of the episodes. A log to which nothing is attached is the same for every seed: then only the first runs.
        trace: a section of `TraceConfig`, whose log takes the place of the workload; None: generated requests.
        protocol: what is asked. In Swap-v0 the case is called after the scenario, with `-swap`.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used.
    """
    case = case_of(scenario, protocol)
    if protocol == Protocol.SWAP:
        case = dataclasses.replace(case, name=f"{case.name}-swap")
    if trace is not None:
        case = Case(case.name, case.tables, log_workload(scenario, parse(TraceConfig, trace, "--trace")))
    first = case.workload(seeds[0])
    about = describe(scenario, case.tables, first)
    if case.training is None and len(seeds) > 1 and same_requests(first, case.workload(seeds[1])):
        about["notes"].append("Nothing is drawn from this log, so every seed is the same: one episode, no intervals.")
        seeds = seeds[:1]
    ready = []
    for contestant in able(contestants, protocol):
        reason = unable(contestant, case)
        if reason is None:
            ready.append(contestant)
        else:
            about["notes"].append(f"Left out here: {reason}.")
    run_episode(ready[0], case, first, seeds[0])  # compiles, before anybody watches a progress bar
    return PreparedCase(case, tuple(ready), tuple(seeds), about)


def unable(contestant: Contestant, case: Case) -> str | None:
    """Why a contestant cannot run on a case; None if it can."""
    policy = contestant.built_in
    if policy is None or not contestant.swaps:
        return None
    if not can_answer(contestant, case.tables.protocol):
        card = card_of(contestant)
        if card is not None:
            return f"agent {card.name!r} was trained for {card.env.env_name}"
    if policy.order is not None and case.tables.protocol != Protocol.SWAP:
        return f"policy {policy.name!r} has an order, and Eviction-v0 asks for none"
    if policy.order is not None and policy.order.prefetch and not case.tables.prefetch_limit:
        return f"policy {policy.name!r} prefetches, and prefetch_limit is 0 here"
    if policy.trained and case.training is None:
        return f"policy {policy.name!r} learns from training seeds, and a log has only the requests under test"
    try:
        policy.limits(case.tables)
    except ConfigError as error:
        return str(error)
    return None


def log_workload(scenario: Scenario, config: TraceConfig) -> Callable[[int], Workload]:
    """The requests of a log by seed: what the log does not say is drawn anew for each."""
    models = scenario.workload_models()
    return lambda seed: load_config(config, models, seed)


def same_requests(one: Workload, other: Workload) -> bool:
    """Whether two workloads are equal in every column."""
    return len(one) == len(other) and all(np.array_equal(getattr(one, c), getattr(other, c)) for c in COLUMNS)


def describe(scenario: Scenario, tables: FleetTables, workload: Workload) -> dict[str, Any]:
    """What the report says about a scenario; numbers of the workload are those of the first seed."""
    gb = [round(int(size) / 1e9, 1) for size in tables.memory_bytes]
    cost = tables.cost
    weights = {
        task: {
            "w_ttft": float(cost.w_ttft[t]),
            "w_e2e": float(cost.w_e2e[t]),
            "slo_s": float(cost.slo_us[t]) / 1e6 if cost.slo_us[t] < FOREVER else None,
            "slo_on": "e2e" if cost.slo_on_e2e[t] else "ttft",
        }
        for t, task in enumerate(TASKS)
    }
    kept = ("source", "format", "time_compression", "attached", "licence", "attribution", "rows_read", "dropped")
    return {
        "question": scenario.question,
        "description": scenario.description,
        "version": scenario.version,
        "env": tables.protocol,
        "engine": scenario.engine,
        "accelerators": dict(zip(tables.accelerator_names, gb, strict=True)),
        "models": {
            name: round(int(size) / 1e9, 1) for name, size in zip(tables.model_names, tables.need_bytes, strict=True)
        },
        "weights": weights,
        "extra_weights": {name: getattr(cost, name) for name in ("w_load", "w_slo", "w_refused")},
        "label": workload.label,
        "requests": len(workload),
        "tasks": {task: int((workload.task == t).sum()) for t, task in enumerate(TASKS)},
        "log": {key: workload.meta[key] for key in kept if key in workload.meta},
        "notes": [],
    }
