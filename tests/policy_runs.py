"""A fleet of four models, of which three fit, and episodes of built-in policies on it."""

from __future__ import annotations

from typing import Any

from cace_env.clairvoyant import Future
from cace_env.policies import Policy, policy, rule_of
from cace_env.simulator import Episode, run_rule
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from tests.examples import MS, fleet, requests

SECOND = 1000 * MS
LAST = 3  # the model that room is made for in most examples


def ask(*rows: tuple[float, int] | dict[str, int]) -> Workload:
    """Requests as (second, model), or with all columns."""
    full = [{"arrival_us": round(r[0] * SECOND), "model": r[1]} if isinstance(r, tuple) else r for r in rows]
    return requests(*full)


def equal_fleet(**changes: Any) -> FleetTables:
    """Four models of equal size; three fit."""
    return fleet(**{"need": (10, 10, 10, 10), "memory": (30,)} | changes)


def run(what: str | Policy, tables: FleetTables, workload: Workload, **given: Any) -> Episode:
    """A compiled episode with its event trace."""
    chosen = policy(what)
    if chosen.clairvoyant:
        given.setdefault("future", Future.of(tables, workload))
    return run_rule(tables, workload, rule_of(chosen, tables, workload=workload, **given), trace=True)


def evicted(what: str | Policy, tables: FleetTables, workload: Workload, **given: Any) -> list[int]:
    """Models in the order in which they left, by choice or because their keep-alive ran out."""
    return [row.subject for row in run(what, tables, workload, **given).trace if row.kind == "UNLOAD_START"]


# Models 0, 1 and 2 are loaded in this order, then 0 is used again; 1 is the least recently used, 0 was loaded first.
HISTORY = ((0.0, 0), (1.0, 1), (2.0, 2), (3.0, 0))
