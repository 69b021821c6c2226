"""Cases: a scenario in the form that policies run on, with its fleet and its requests by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cace_env.config import ConfigError
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import Workload


@dataclass(frozen=True)
class Case:
    """A fleet and its requests by seed, on which policies run. `case_of` makes one from a scenario."""

    name: str
    tables: FleetTables
    workload: Callable[[int], Workload]
    training: Callable[[int], Workload] | None = None  # source of training requests; None with a log that has none
    logged: bool = False  # the requests are those of a log, whose file only this machine has


def case_of(scenario: str | Path | Mapping[str, Any] | Scenario | Case, protocol: str | None = None) -> Case:
    """Make a case from a scenario; its fleet is tabulated once.

    Args:
        scenario: anything `load_scenario` takes, or a `Case`.
        protocol: "eviction" (Eviction-v0: which model to evict) or "swap" (Swap-v0: which model to load, and which to
            evict). Default: that of the `Case`, or "eviction" for anything else.

    Raises:
        ConfigError: as for `load_scenario`, or there is no such protocol.
    """
    if protocol is not None and protocol not in tuple(Protocol):
        raise ConfigError(f"protocol is {protocol!r}; it has to be one of {', '.join(Protocol)}")
    if isinstance(scenario, Case):
        tables = scenario.tables if protocol is None else scenario.tables.replace(protocol=Protocol(protocol))
        return replace(scenario, tables=tables)
    loaded = load_scenario(scenario)
    tables = loaded.tables().replace(protocol=Protocol(protocol or Protocol.EVICTION))
    return Case(loaded.name, tables, loaded.workload, training_of(loaded), loaded.trace is not None)


def training_of(scenario: Scenario) -> Callable[[int], Workload] | None:
    """Source of training requests of a scenario; None for a log, unless its test part is played.

    Every seed of a log is the log itself: a policy trained on it would know the requests that it is judged by.
    """
    if scenario.trace is None:
        return scenario.workload
    if scenario.trace.part != "test":
        return None
    return scenario.model_copy(update={"trace": scenario.trace.model_copy(update={"part": "train"})}).workload
