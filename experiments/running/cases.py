"""The cases of a run: scenarios by name, each made ready with generated requests or those of a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, did_you_mean, parse
from cace_env.evaluation import load_suite, run_episode, windows_for
from cace_env.evaluation.suite import Entry, suite_versions
from cace_env.policies import Contestant, contestant_of
from cace_env.scenarios import Scenario, load_scenario, scenario_names
from cace_env.tables import FOREVER, TASKS, FleetTables, Protocol
from cace_env.traces import TraceConfig
from cace_env.workload import COLUMNS, Workload
from experiments.running.contestants import able, can_answer, card_of, check_names
from experiments.running.run_folder import BASELINE

REDRAWS: Final = 8  # of what is attached to a log, where nobody says


class Chosen(NamedTuple):
    """A scenario in one environment."""

    name: str  # in results
    scenario: Scenario
    protocol: Protocol


def chosen(what: Sequence[str], protocols: Sequence[Protocol], suite: str = "v1") -> list[Chosen]:
    """Scenarios by the names that were typed.

    Args:
        what: versions of suites (all entries without memory sweeps), ids of entries of `suite` or of another version,
            shipped scenarios by name, YAML files, or short ids of entries that no scenario has for a name; none: all
            entries of `suite`. A scenario in Swap-v0 is called `NAME-swap`.
        protocols: in which environments; an entry has its own, and is left out where that is not asked for.
        suite: whose entry an id stands for, where several versions have it.

    Raises:
        ConfigError: no such thing, nothing is left, or two of one name.
    """
    entries = {entry.id: entry for version in (*suite_versions(), suite) for entry in load_suite(version).all_entries()}
    found: list[Chosen] = []
    for name in what or [suite]:
        if name in suite_versions():
            found += [of_entry(entry) for entry in load_suite(name).entries if entry.env in protocols]
        elif name in entries:
            found.append(of_entry(entries[name]))
        elif name in scenario_names() or name.endswith((".yaml", ".yml")):
            scenario = load_scenario(name)
            found += [
                Chosen(scenario.name + ("-swap" if protocol == Protocol.SWAP else ""), scenario, protocol)
                for protocol in protocols
            ]
        elif short := [entry for entry in entries.values() if entry.short == name]:
            found += map(of_entry, [entry for entry in short if entry.env in protocols] or short)
        else:
            known = [*suite_versions(), *entries, *(entry.short for entry in entries.values()), *scenario_names()]
            raise ConfigError(
                f"no suite, entry or scenario called {name!r}{did_you_mean(name, known)}; scenarios are "
                f"{', '.join(scenario_names())}, suites {', '.join(suite_versions())}, or give a YAML file"
            )
    other = [row.name for row in found if row.protocol not in protocols]
    if other or not found:
        asked = " and ".join(one.env_name for one in protocols)
        raise ConfigError(f"{other[0] if other else ', '.join(what)} is nothing of {asked}; name another --env")
    found.sort(key=lambda row: protocols.index(row.protocol))
    check_names(row.name.lower() for row in found)  # files are called by them, also where capitals do not matter
    return found


def of_entry(entry: Entry) -> Chosen:
    """An entry of a suite."""
    return Chosen(entry.id, entry.load(), entry.env)


@dataclass(frozen=True)
class PreparedCase:
    """A scenario that is ready to run."""

    case: Case
    scenario: Scenario
    contestants: tuple[Contestant, ...]  # those that can run on this fleet
    seeds: tuple[int, ...]
    about: dict[str, Any]  # for run.json

    @property
    def name(self) -> str:
        return self.case.name


def prepared(
    cases: Sequence[Chosen],
    contestants: Sequence[Contestant],
    seeds: Sequence[int],
    trace: dict[str, Any] | None = None,
    redraws: int = REDRAWS,
) -> list[PreparedCase]:
    """The scenarios ready to run: tabulated, their first requests drawn or read, and who cannot run there left out.

    Args:
        cases: from `chosen`.
        contestants: who wants to take part.
        seeds: of the episodes of generated requests; a log is played as often as `redraws` says.
        trace: a section of `TraceConfig`, whose log takes the place of the workloads; None: as each scenario says.
        redraws: how often what is attached to a log is drawn.

    Raises:
        ConfigError, TraceError, WorkloadError: options or a log that cannot be used.
    """
    return [_prepared(one, contestants, seeds, trace, redraws) for one in cases]


def _prepared(
    chosen: Chosen, contestants: Sequence[Contestant], seeds: Sequence[int], trace: dict[str, Any] | None, redraws: int
) -> PreparedCase:
    name, scenario, protocol = chosen
    if trace is not None:
        scenario = scenario.model_copy(update={"trace": parse(TraceConfig, trace, "--trace")})
    log: dict[str, Any] = {}
    if scenario.trace is not None:
        scenario, seeds, log = in_windows(scenario, protocol, redraws)
    case = dataclasses.replace(case_of(scenario, protocol), name=name)
    first = case.workload(seeds[0])
    about = describe(scenario, case.tables, first)
    about["log"] |= log
    ready = []
    for contestant in able(contestants, protocol):
        reason = unable(contestant, case)
        if reason is None:
            ready.append(contestant)
        else:
            about["notes"].append(f"Left out here: {reason}.")
    run_episode(ready[0], case, first, seeds[0])  # compiles, before the progress bar is shown
    return PreparedCase(case, scenario, tuple(ready), tuple(seeds), about)


def in_windows(
    scenario: Scenario, protocol: Protocol, redraws: int, least: int = 1
) -> tuple[Scenario, range, dict[str, Any]]:
    """A scenario whose log has windows, the seeds that play it, and what is said about that.

    Args:
        scenario: its log has as many windows as it says, or as leave LRU enough decisions in each.
        protocol: in which LRU decides.
        redraws: how often what is attached is drawn; once where nothing is.
        least: windows where nobody says and LRU decides seldom.

    Raises:
        TraceError, WorkloadError: a log that cannot be used.
    """
    assert scenario.trace is not None
    whole = case_of(_with_windows(scenario, None), protocol)
    log = whole.workload(0)
    played, _ = run_episode(contestant_of(BASELINE), whole, log, 0)
    decisions = played.summary().totals.decisions
    count = scenario.trace.windows or max(least, windows_for(decisions))
    redraws = redraws if redraws > 1 and not same_requests(log, whole.workload(1)) else 1
    about = {
        "windows": count,
        "redraws": redraws,
        "window_requests": len(log) // count,
        "baseline_decisions": decisions,
        "part": scenario.trace.part,
    }
    return _with_windows(scenario, count), range(redraws), about


def _with_windows(scenario: Scenario, windows: int | None) -> Scenario:
    """The scenario with so many windows of its log."""
    assert scenario.trace is not None
    return scenario.model_copy(update={"trace": scenario.trace.model_copy(update={"windows": windows})})


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
        return f"policy {policy.name!r} learns from training requests, which a log has in --part test alone"
    try:
        policy.limits(case.tables)
    except ConfigError as error:
        return str(error)
    return None


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
    kept = (
        "source", "format", "began_us", "from_s", "time_compression", "attached", "licence", "attribution", "rows_read",
        "dropped",
    )  # fmt: skip
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
